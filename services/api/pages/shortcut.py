"""The shortest way to a remembered answer: from the bytes of a request to those of its answer.

A client that asks for a page again sends the same bytes again. What a request's head led to is remembered by
the head itself, byte for byte: where the very same bytes come, nothing needs to be parsed, routed or asked.
Anything else, and anything that is not certain, goes the ordinary way, which teaches this one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import hdrs, web
from structlog.typing import FilteringBoundLogger

from services.api import headers
from services.api.metrics import Metrics
from services.api.pages.encodings import Coding, Taken
from services.api.pages.memory import Entry, PageMemory, Slot
from services.api.pages.wire import Condition, Ends, Status, head, tag_in, write
from services.eventlog.sites import Site

LONGEST: Final = 2048
"""Bytes of the longest head that is remembered."""
HEADS: Final = 4096
"""How many heads are remembered."""
_NOT_WITH: Final = (
    hdrs.AUTHORIZATION,
    hdrs.EXPECT,
    hdrs.UPGRADE,
    hdrs.CONTENT_LENGTH,
    hdrs.TRANSFER_ENCODING,
    headers.X_REQUEST_ID,
)
"""A request with one of these never takes the shortcut."""
_COUNT_S: Final = 1.0
"""Seconds for which answers are counted before they are told to the log and the metrics."""

Name = tuple[str, str, int]
"""Method, route template and status."""


class Counts:
    """Counts answers, and tells the log and the metrics of them once a second: a line of the log for each
    would cost more than the answer."""

    def __init__(self, metrics: Metrics, access: FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._access = access
        self._counted: dict[Name, list[float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        metrics.before(self.tell)

    def add(self, name: Name, seconds: float) -> None:
        """An answer took so long."""
        counted = self._counted.get(name)
        if counted is None:
            counted = self._counted[name] = [0, 0.0]
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_COUNT_S, self.tell)
        counted[0] += 1
        counted[1] += seconds

    def tell(self) -> None:
        """Tell what was counted since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counted, self._counted = self._counted, {}
        for (method, route, status), (count, seconds) in counted.items():
            number = int(count)
            self._metrics.answered(method, route, status, seconds / number, number)
            self._access.info(
                "requests",
                method=method,
                route=route,
                status=status,
                count=number,
                ms=round(seconds * 1000 / number, 3),
            )


class Way:
    """What one head leads to: a slot, and how its entry is wanted.

    It holds no entry and no body: those are the memory's, to be counted and forgotten there.
    """

    __slots__ = (
        "coding",
        "condition",
        "get",
        "has",
        "method",
        "min_version",
        "name",
        "route",
        "settled",
        "shared",
        "site",
        "slot",
        "start",
        "taken",
    )

    def __init__(
        self,
        slot: Slot,
        site: Site,
        *,
        method: Literal["GET", "HEAD"],
        route: str,
        taken: Taken,
        condition: Condition,
        shared: bool,
        min_version: int,
    ) -> None:
        """`shared`: it comes from another origin."""
        self.slot = slot
        self.site = site
        self.get = method == "GET"
        self.method = method
        self.route = route
        self.taken = taken
        self.condition = condition
        self.shared = shared
        self.min_version = min_version
        self.settled = 0
        """The serial number of the entry that the rest is for."""
        self.name: Name = (method, route, 200)
        self.start = b""
        self.coding: Coding = "identity"
        self.has = False
        """Whether it is answered with a body."""

    def settle(self, entry: Entry) -> bool:
        """Make ready for this entry; False where its body is not there in the coding that is taken."""
        if entry.version < self.min_version:
            return False
        coding = self.taken.of(len(entry.body))
        status: Status = 304 if self.condition.holds(tag_in(entry.tag, coding)) else 200
        made = entry.made(coding)
        if status == 200 and made is None:
            return False
        self.start = head(entry, coding, status, 0 if made is None else len(made), shared=self.shared)
        self.coding = coding
        self.has = status == 200 and self.get
        self.name = (self.method, self.route, status)
        self.settled = entry.serial
        return True


class Shortcut:
    """Answers requests that came before, byte for byte, from what is remembered."""

    def __init__(
        self,
        memory: PageMemory,
        counts: Counts,
        site: Callable[[str], Site | None],
        draining: Callable[[], bool],
        limit: int = HEADS,
    ) -> None:
        """`site` gives a site that was read in the last second; `draining` tells whether the process ends. At
        most `limit` heads are remembered."""
        self._memory = memory
        self._counts = counts
        self._site = site
        self._draining = draining
        self._ways: OrderedDict[bytes, Way] = OrderedDict()
        self._limit = limit
        self._seen = [0] * limit
        self.ends = Ends()
        self.answers = 0
        """How many requests were answered so."""

    def __len__(self) -> int:
        return len(self._ways)

    def answer(self, data: bytes, transport: asyncio.Transport) -> bool:
        """Answer the request that these bytes are, at once; False where it has to go the ordinary way."""
        way = self._ways.get(data)
        if way is None:
            return False
        now = self._memory.clock()
        entry = self._memory.ready(way.slot, now, way.coding)
        if entry is None or self._draining() or self._site(way.site.name) is not way.site:
            return False
        if way.settled != entry.serial and not way.settle(entry):
            return False
        body = entry.made(way.coding) if way.has else b""
        if body is None:
            return False
        write(transport, way.start, self.ends.request_id(), self.ends.date(now), body)
        self._ways.move_to_end(data)
        self._memory.used(way.slot)
        self.answers += 1
        self._counts.add(way.name, self._memory.clock() - now)
        return True

    def wants(self, data: bytes) -> bool:
        """Whether these bytes of a head are worth to be learnt: they came before, and not long ago.

        Where each request has a head of its own, as behind a proxy that numbers them, learning would only
        cost, and drive out what is of use.
        """
        name = hash(data)
        place = name % self._limit
        if self._seen[place] == name:
            return True
        self._seen[place] = name
        return False

    def learn(self, data: bytes, request: web.Request, way: Way) -> None:
        """The request whose head are these bytes leads this way, now and whenever they come again."""
        given = request.headers
        if (
            len(data) > LONGEST
            or not data.startswith(f"{way.method} {request.raw_path} HTTP/1.1\r\n".encode("utf-8", "replace"))
            or any(name in given for name in _NOT_WITH)
        ):
            return
        self._ways[data] = way
        while len(self._ways) > self._limit:
            self._ways.popitem(last=False)
