"""One transaction of the notifier: people are told of what is new in some threads, and the checkpoints move.

Its first step locks the checkpoints, always in the same order. A thread whose checkpoint another notifier has
moved since its events were read is left out. The number of statements does not depend on how many threads
there are, or on how much is new in them; mails take one for each site.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.core.addresses import new_event_id
from services.core.recipients import (
    GUEST,
    IMPORTED,
    UNSAID,
    Happening,
    Notice,
    Reason,
    Wishes,
    recipients,
)
from services.eventlog.fanouts import about
from services.eventlog.queries import QUERIES
from services.projection.names import Mentioned
from services.workers.happened import Decided, Deciding, Standing, Thread, Told, Untold

Connection = asyncpg.pool.PoolConnectionProxy

FEW: Final = 100
"""Followers whom the notifier tells itself; more are left to the fan-out."""

ROWS: Final = 10_000
"""Followers' notifications that one transaction writes, at most: half a second's work."""

_COUNTER_SHIFT: Final = 62
_RANDOM_BYTES: Final = 10


class Crowded(Exception):
    """So many times more than ROWS would be written: the transaction is for fewer events."""

    def __init__(self, times: float) -> None:
        super().__init__(f"{times:.1f} times too much for one transaction")
        self.times = times


class Telling:
    """Tells of what was read of some threads, on a connection inside a transaction."""

    def __init__(self, connection: Connection[Any], threads: Iterable[Thread], *, mails: bool) -> None:
        self._connection = connection
        self._threads = {thread.stream_id: thread for thread in threads}
        self._mails = mails
        self._standings: dict[UUID, Standing] = {}
        self._untold: dict[UUID, list[Untold]] = defaultdict(list)
        self._told = Told()

    async def tell(self) -> Told:
        """Tell everybody, and move the checkpoints. Raises Crowded."""
        await self._lock()
        await self._load_standings()
        await self._load_names()
        await self._load_untold()
        new = {
            (thread.stream_id, step.event.version): named
            for thread in self._threads.values()
            for step, said in thread.steps
            if (named := thread.names.fold(step, said))
        }
        decided = Deciding(self._threads, self._standings, self._untold).decide(new)
        if decided.happenings:
            await self._concern(decided)
            await self._write(await self._notices(decided.happenings))
        await self._keep_waiting(decided)
        await self._keep_names()
        if self._threads:
            moved = [(t.stream_id, max(t.version, t.reached), t.reached) for t in self._threads.values()]
            await self._connection.execute(QUERIES["move_notifier_checkpoints"], *_columns(moved, 3))
        return self._told

    # --- reading ----------------------------------------------------------------------------------------

    async def _lock(self) -> None:
        if new := [thread.stream_id for thread in self._threads.values() if thread.is_new]:
            await self._connection.execute(QUERIES["open_notifier_checkpoints"], new)
        rows = await self._connection.fetch(QUERIES["lock_notifier_checkpoints"], list(self._threads))
        found = {row["stream_id"]: (row["version"], row["named"]) for row in rows}
        for stream_id, thread in list(self._threads.items()):
            if found.get(stream_id) != (thread.version, thread.named):
                del self._threads[stream_id]
                self._told.passed.add(stream_id)

    async def _load_standings(self) -> None:
        """How the comments stand now."""
        asked = {
            step.comment_id
            for thread in self._threads.values()
            for step in thread.fresh
            if not step.imported and step.what not in ("delete", "erase")
        }
        if asked:
            for row in await self._connection.fetch(QUERIES["standings"], list(asked)):
                self._standings[row["comment_id"]] = Standing(*row)

    async def _load_names(self) -> None:
        """What is kept of the names that the texts speak of, and of the comments whose texts have changed."""
        macs: list[tuple[UUID, bytes]] = []
        changed: dict[UUID, UUID] = {}
        for thread in self._threads.values():
            for step, said in thread.steps:
                if said.macs:
                    macs += ((thread.stream_id, mac) for mac in said.macs.values())
                if step.what in ("edit", "show"):
                    changed[step.comment_id] = thread.stream_id
        if macs:
            for stream_id, *bearer in await self._connection.fetch(QUERIES["bearers"], *_columns(macs, 2)):
                self._threads[stream_id].names.bear(*bearer)
        if changed:
            for comment_id, version, people, before in await self._connection.fetch(
                QUERIES["mentioned_in"], list(changed)
            ):
                names = self._threads[changed[comment_id]].names
                names.mentioned[comment_id] = Mentioned(version, tuple(people), tuple(before))

    async def _load_untold(self) -> None:
        """The texts that nobody was told of yet, of the comments that were approved or restored."""
        shown = [
            (thread.stream_id, step.comment_id)
            for thread in self._threads.values()
            for step in thread.fresh
            if step.what == "show"
        ]
        if shown:
            for row in await self._connection.fetch(QUERIES["untold_of"], *_columns(shown, 2)):
                untold = Untold(*row)
                self._untold[untold.comment_id].append(untold)

    # --- whom it concerns -------------------------------------------------------------------------------

    async def _concern(self, decided: Decided) -> None:
        """Add the followers and earlier authors, and have the authors of posts follow."""
        posts = [one for one in decided.happenings if one.event_id in decided.posts]
        if not posts:
            return
        since = await self._follow(posts)
        followers: dict[UUID, list[str]] = defaultdict(list)
        streams = list({one.stream_id for one in posts})
        for row in await self._connection.fetch(QUERIES["followers_to_tell"], streams, FEW + 1):
            followers[row["stream_id"]].append(row["author_id"])
        many = [one for one in posts if len(followers[one.stream_id]) > FEW]
        rows = sum(len(followers[one.stream_id]) for one in posts) - (FEW + 1) * len(many)
        if rows > ROWS:
            raise Crowded(rows / ROWS)
        above = await self._above(posts)
        for place, one in enumerate(decided.happenings):
            if one.event_id not in decided.posts:
                continue
            few = followers[one.stream_id]
            path = self._standings[one.comment_id].path if above else b""
            decided.happenings[place] = replace(
                one,
                followers=()
                if len(few) > FEW
                else tuple(each for each in few if since.get((one.stream_id, each), 0) < one.version),
                ancestors=tuple(
                    above[each]
                    for at in range(0, len(path), 16)
                    if (each := UUID(bytes=path[at : at + 16])) in above
                ),
            )
        if many:
            entered = [
                (
                    *(one.stream_id, self._threads[one.stream_id].site, one.event_id, one.comment_id),
                    *(one.version, one.actor_id, one.created_at),
                )
                for one in many
            ]
            await self._connection.execute(QUERIES["enter_fanout"], *_columns(entered, 7))
            self._told.fanned += {one.stream_id for one in many}

    async def _follow(self, posts: Sequence[Happening]) -> dict[tuple[UUID, str], int]:
        """Have authors follow where their site says so; who has begun to, and with which version."""
        since: dict[tuple[UUID, str], int] = {}
        for one in posts:
            author = one.author_id
            if (
                author is not None
                and self._threads[one.stream_id].follows
                and not author.startswith((GUEST, IMPORTED))
            ):
                since.setdefault((one.stream_id, author), one.version)
        if not since:
            return since
        rows = [(stream_id, author, self._threads[stream_id].site) for stream_id, author in since]
        began = await self._connection.fetch(QUERIES["follow_on_post"], *_columns(rows, 3))
        return {
            (row["stream_id"], row["author_id"]): since[row["stream_id"], row["author_id"]] for row in began
        }

    async def _above(self, posts: Sequence[Happening]) -> dict[UUID, str]:
        """Who wrote the comments above these and wants to hear of it, by comment."""
        ids: set[UUID] = set()
        for one in posts:
            if self._threads[one.stream_id].asks:
                path = self._standings[one.comment_id].path
                ids.update(UUID(bytes=path[at : at + 16]) for at in range(0, len(path), 16))
        if not ids:
            return {}
        rows = await self._connection.fetch(QUERIES["ancestors_who_ask"], list(ids))
        return {row["comment_id"]: row["author_id"] for row in rows}

    async def _notices(self, happenings: Sequence[Happening]) -> list[Notice]:
        asked = list({(one.stream_id, person): None for one in happenings for _, person in one.concerned()})
        if not asked:
            return []
        rows = await self._connection.fetch(
            QUERIES["wishes"],
            [self._threads[stream_id].site for stream_id, _ in asked],
            *_columns(asked, 2),
        )
        wishes = {asked[row["place"]]: _wishes(row) for row in rows}
        found = [
            notice
            for one in happenings
            for notice in recipients(
                one, {person: wishes.get((one.stream_id, person), UNSAID) for _, person in one.concerned()}
            )
        ]
        # Of one comment's texts the first that concerns somebody.
        first: dict[tuple[UUID, str], Notice] = {}
        for notice in found:
            if notice.reason is not Reason.MODERATION:
                first.setdefault((notice.comment_id, notice.recipient_id), notice)
        return [
            notice
            for notice in found
            if notice.reason is Reason.MODERATION or first[notice.comment_id, notice.recipient_id] is notice
        ]

    # --- writing ----------------------------------------------------------------------------------------

    async def _write(self, notices: Sequence[Notice]) -> None:
        if not notices:
            return
        sites = [self._threads[notice.stream_id].site for notice in notices]
        ids = _ids(len(notices))
        rows = await self._connection.fetch(
            QUERIES["insert_notifications"],
            sites,
            [notice.recipient_id for notice in notices],
            ids,
            [notice.event_id for notice in notices],
            [notice.stream_id for notice in notices],
            [notice.comment_id for notice in notices],
            [notice.reason for notice in notices],
            [notice.actor_id for notice in notices],
            [notice.created_at for notice in notices],
        )
        entered = {row["notification_id"] for row in rows}
        told = [one for one in zip(sites, ids, notices, strict=True) if one[1] in entered]
        self._told.count = len(told)
        self._told.people = list({(site, notice.recipient_id): None for site, _, notice in told})
        if self._mails:
            for site in sorted({site for site, _, _ in told}):
                mine = [(n.event_id, n.recipient_id, id_) for where, id_, n in told if where == site]
                await self._connection.execute(QUERIES["enter_mail"], site, *_columns(mine, 3))
        await self._hook([one for one in told if self._threads[one[2].stream_id].hooked])

    async def _hook(self, told: Sequence[tuple[str, UUID, Notice]]) -> None:
        """Enter what the sites' endpoints are to be told: of each event, who was told of it. The first of
        these notifications gives the delivery its id: there may be more of the event another time."""
        events: dict[tuple[str, UUID, UUID], list[tuple[str, str]]] = defaultdict(list)
        firsts: dict[tuple[str, UUID, UUID], UUID] = {}
        for site, id_, notice in told:
            event = site, notice.event_id, notice.comment_id
            events[event].append((notice.recipient_id, notice.reason))
            firsts.setdefault(event, id_)
        if events:
            rows = [
                (site, event_id, about(comment_id, whom), str(firsts[site, event_id, comment_id]))
                for (site, event_id, comment_id), whom in events.items()
            ]
            await self._connection.execute(QUERIES["enter_webhooks"], *_columns(rows, 4))

    async def _keep_waiting(self, decided: Decided) -> None:
        if decided.ended:
            await self._connection.execute(QUERIES["end_untold"], *_columns(decided.ended, 2))
        if decided.waiting:
            await self._connection.execute(QUERIES["enter_untold_of"], *_columns(decided.waiting, 5))

    async def _keep_names(self) -> None:
        bearers: list[tuple[UUID, bytes, str, int]] = []
        mentioned: list[tuple[UUID, UUID, int, str, str]] = []
        erased: list[tuple[UUID, UUID, int]] = []
        for stream_id, thread in self._threads.items():
            names = thread.names
            bearers += ((stream_id, name, who, names.bearers[name][who]) for name, who in names.met)
            for comment_id in names.touched:
                one = names.mentioned[comment_id]
                mentioned.append((stream_id, comment_id, one.version, _json(one.people), _json(one.before)))
            erased += ((stream_id, comment_id, posted) for comment_id, posted in names.erased.items())
        if erased:
            await self._connection.execute(QUERIES["end_names"], *_columns(erased, 3))
        if bearers:
            await self._connection.execute(QUERIES["keep_bearers"], *_columns(bearers, 4))
        if mentioned:
            await self._connection.execute(QUERIES["keep_mentioned"], *_columns(mentioned, 5))


def _wishes(row: asyncpg.Record) -> Wishes:
    return Wishes(
        row["level"],
        {} if row["reasons"] is None else orjson.loads(row["reasons"]),
        frozenset(row["blocked"] or ()),
        row["reached"],
    )


def _json(people: Collection[str]) -> str:
    return orjson.dumps(people).decode()


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _ids(count: int) -> list[UUID]:
    """UUIDv7 of now, in the order of the notices: an inbox lists by id what was told last.

    Of the random bits the first twelve count (RFC 9562, section 6.2, method 1).
    """
    now = time.time_ns() // 1_000_000
    entropy = (1 << _COUNTER_SHIFT) - 1
    return [
        new_event_id(
            now,
            (number << _COUNTER_SHIFT | int.from_bytes(os.urandom(8), "big") & entropy).to_bytes(
                _RANDOM_BYTES, "big"
            ),
        )
        for number in range(count)
    ]
