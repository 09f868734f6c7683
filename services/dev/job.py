"""The main job, end to end over HTTP: what the demo does, step by step, and what each step must give."""

from __future__ import annotations

import asyncio
import difflib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from services.core.addresses import encode_thread_key, thread_stream_id
from services.dev import story
from services.dev.processes import Children
from services.errors import Unavailable
from services.ops.commands.thread import print_tree
from services.ops.commands.tokens import token_for
from services.settings import Settings
from services.wiring import Resources, resources

_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.005
_TOKEN_S: Final = 86_400
_DIFF_LINES: Final = 40
WHOLE: Final = {"limit": "100", "replies": "20", "depth": "10"}

Json = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What became of the job. `key` is the thread's, `token` signs in one of the story's people."""

    key: str = ""
    token: str = ""
    steps: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every step did what it must."""
        return self.steps > 0 and not self.failures


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the API."""

    status: int
    version: int
    raw: bytes

    @property
    def json(self) -> Json:
        """Its body."""
        value: Json = orjson.loads(self.raw)
        return value


class Job:
    """Runs once, against an API and workers that `children` started."""

    def __init__(self, settings: Settings, children: Children, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._children = children
        self._tell = tell
        self._outcome = Outcome()
        self._ids: dict[str, str] = {}
        self._version = 0
        self._tokens: dict[str, str] = {}

    async def run(self) -> Outcome:
        """Every step, in order. Raises Unavailable where a process ends or nothing answers."""
        base = f"http://{self._settings.host}:{self._settings.port}"
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with (
            resources(self._settings) as found,
            aiohttp.ClientSession(base, timeout=timeout) as self._session,
        ):
            await self._sign_people_in(found)
            self._outcome.key = await _unused_key(found)
            self._stream_id = thread_stream_id(story.SITE, self._outcome.key)
            self._site = f"/v1/sites/{story.SITE}"
            self._thread = f"{self._site}/threads/{encode_thread_key(self._outcome.key)}"
            await self._ready()
            await self._post_the_story(found)
            await self._correct()
            await self._report()
            await self._take_away()
            await self._follow()
            await self._notified()
            before = await self._show()
            await self._replay(before)
            await self._empty_redis(found, before)
            await self._verify()
        return self._outcome

    # --- before ---------------------------------------------------------------------------------------

    async def _sign_people_in(self, found: Resources) -> None:
        added = await found.sites.add(story.SITE, uuid.uuid4().hex.encode())
        site = await found.sites.get(story.SITE)
        assert site is not None
        for person, name in story.PEOPLE.items():
            self._tokens[person] = token_for(site, person, name=name, expires=_TOKEN_S)
        self._tokens[story.MODERATOR] = token_for(
            site,
            story.MODERATOR,
            name=story.MODERATOR_NAME,
            roles=["admin"],
            expires=_TOKEN_S,
        )
        self._outcome.token = self._tokens["u-maud"]
        self._tell(
            f"site               ({story.SITE}, {'added' if added else 'was here'}; tokens signed for all)"
        )

    async def _ready(self) -> None:
        worker = f"http://{self._settings.host}:{self._settings.metrics_port}/metrics"
        for what, address in (("API answers", "/readyz"), ("workers run", worker)):
            started = time.monotonic()
            while not await self._answers(address):
                self._children.check()
                if time.monotonic() - started > _DEADLINE_S:
                    raise Unavailable(f"{address} does not answer")
                await asyncio.sleep(0.02)  # between two looks at the condition
            self._tell(f"{what:<18} (a process of its own)")
        self._tell("")

    async def _answers(self, address: str) -> bool:
        try:
            async with self._session.get(address) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    # --- the steps ------------------------------------------------------------------------------------

    async def _post_the_story(self, found: Resources) -> None:
        threshold = {"report_threshold": len(story.REPORTERS)}
        answer = await self._call("PATCH", f"{self._site}/settings", story.MODERATOR, threshold)
        self._step(
            answer.status == 200, answer, f"{story.MODERATOR_NAME} hides what {len(story.REPORTERS)} report"
        )
        for number, said in enumerate(story.STORY):
            body: Json = {"body": said.body}
            if said.to is not None:
                body["parent_id"] = self._ids[said.to]
            if number == 0:
                body["thread"] = {"title": story.TITLE, "url": story.URL}
            key = uuid.uuid4().hex
            answer = await self._write("POST", f"{self._thread}/comments", said.by, body, idempotency=key)
            name = story.PEOPLE[said.by]
            does = "opens the thread" if number == 0 else "posts" if said.to is None else "answers"
            if said.to is not None:
                does += f" {story.PEOPLE[_said(said.to).by]}"
            self._step(answer.status == 201, answer, f"{name} {does}: {_short(said.body)}")
            if answer.status != 201:
                raise Unavailable(f"the story cannot go on: {answer.raw.decode()}")
            self._ids[said.label] = answer.json["id"]
            if number == 0:
                again = await self._call("POST", f"{self._thread}/comments", said.by, body, idempotency=key)
                same = again.status == 201 and again.json["id"] == answer.json["id"]
                self._step(
                    same and again.version == answer.version,
                    again,
                    f"{name} sends it again: nothing is added",
                )
        started = time.monotonic()
        while (head := await found.views.head(self._stream_id)) is None or head.version < self._version:
            self._late(started, "the workers did not build the view")
            await asyncio.sleep(_POLL_S)  # between two looks at the condition
        self._step(True, None, "the workers have built the view before anybody read it")

    async def _correct(self) -> None:
        comment, author = self._comment(story.TYPO), _said(story.TYPO).by
        body = {"body": story.CORRECTED}
        answer = await self._write("PATCH", comment, author, body, match=1)
        corrected = answer.status == 200 and answer.json["revision"] == 2
        self._step(corrected, answer, f"{story.PEOPLE[author]} corrects a typo: {_short(story.CORRECTED)}")
        answer = await self._call("PATCH", comment, author, {"body": "from a stale page"}, match=1)
        self._step(answer.status == 412, answer, "an edit of the old revision is refused")

    async def _report(self) -> None:
        for person in story.REPORTERS:
            path = f"{self._comment(story.REPORTED)}/reports"
            answer = await self._write("POST", path, person, {"reason": "spam"})
            self._step(answer.status == 202, answer, f"{story.PEOPLE[person]} reports the advertisement")
        answer = await self._call("GET", self._comment(story.REPORTED), None, read=self._version)
        hidden = answer.status == 200 and answer.json["state"] == "hidden" and answer.json["body"] is None
        self._step(hidden, answer, "it is hidden, its place stays")

    async def _take_away(self) -> None:
        comment, author = self._comment(story.TAKEN_BACK), _said(story.TAKEN_BACK).by
        answer = await self._write("DELETE", comment, author)
        self._step(
            answer.status == 204, answer, f"{story.PEOPLE[author]} deletes a comment that was answered"
        )
        answer = await self._call("DELETE", comment, author)
        self._step(answer.status == 204, answer, "once more: nothing is added")
        answer = await self._write("DELETE", self._comment(story.REMOVED), story.MODERATOR)
        self._step(answer.status == 204, answer, f"{story.MODERATOR_NAME} removes a comment")
        body = {"body": "Which bank?", "parent_id": self._ids[story.REMOVED]}
        answer = await self._call("POST", f"{self._thread}/comments", "u-tom", body)
        self._step(answer.status == 409, answer, "an answer to it is refused")

    async def _follow(self) -> None:
        started = time.monotonic()
        while (answer := await self._page()).version < self._version:
            self._late(started, "the view did not follow")
            await asyncio.sleep(_POLL_S)  # between two looks at the condition
        took = (time.monotonic() - started) * 1000
        self._step(True, answer, f"the view follows by itself, {took:,.0f} ms after the last write")

    async def _notified(self) -> None:
        answered = _said(story.ANSWERED)
        assert answered.to is not None
        to = _said(answered.to).by
        started = time.monotonic()
        while True:
            answer = await self._call("GET", f"{self._site}/me/notifications?state=unread", to)
            rows = answer.json["items"] if answer.status == 200 else []
            for row in rows:
                if row["comment"]["id"] == self._ids[story.ANSWERED]:
                    self._step(row["reason"] == "reply", answer, f"{story.PEOPLE[to]} is told of an answer:")
                    self._tell(
                        f"               {row['reason']} by {row['actor']['name']} in "
                        f"{row['thread']['title']!r}: {_short(row['comment']['body'])}"
                    )
                    return
            self._late(started, "no notification came")
            await asyncio.sleep(_POLL_S)  # between two looks at the condition

    async def _show(self) -> Answer:
        answer = await self._page()
        page = answer.json
        shown = _comments(page)
        self._tell("")
        print_tree(page)
        self._tell("")
        everything = len(shown) == len(story.STORY) and max(c["depth"] for c in shown) >= 5
        self._step(
            everything, answer, f"the page has all {len(shown)} comments, {_levels(shown)} levels deep"
        )
        return answer

    async def _replay(self, before: Answer) -> None:
        await self._verb("replay")
        after = await self._page()
        self._compare(before, after, "the view before and after the replay")

    async def _empty_redis(self, found: Resources, before: Answer) -> None:
        await found.redis.flushdb()
        after = await self._page()
        self._compare(before, after, "the view before and after Redis was emptied")

    async def _verify(self) -> None:
        await self._verb("verify", "--chain")

    # --- how ------------------------------------------------------------------------------------------

    async def _verb(self, verb: str, *options: str) -> None:
        arguments = (verb, "--site", story.SITE, "--thread", self._outcome.key, *options)
        done = await asyncio.to_thread(self._children.call, *arguments)
        printed = " ".join((done.stdout + (done.stderr if done.returncode else "")).split())
        command = " ".join(("threadlog", verb, "--thread", self._outcome.key, *options))
        self._step(done.returncode == 0, None, f"{command}: {printed}")

    def _compare(self, before: Answer, after: Answer, what: str) -> None:
        identical = before.raw == after.raw and after.status == 200
        self._step(identical, after, f"{what}: {'identical' if identical else 'they differ:'}")
        if not identical:
            one, other = (_pretty(answer.raw).splitlines() for answer in (before, after))
            for line in list(difflib.unified_diff(one, other, "before", "after", lineterm=""))[:_DIFF_LINES]:
                self._tell(f"    {line}")

    def _step(self, held: object, answer: Answer | None, what: str) -> None:
        """Tell what a step did: its HTTP status and the thread's version after it."""
        self._outcome.steps += 1
        status = "" if answer is None else str(answer.status)
        version = f"v{answer.version}" if answer is not None and answer.version else ""
        self._tell(f"{'ok' if held else 'FAILED':<6} {status:>3} {version:>4}  {what}")
        if not held:
            detail = (
                "" if answer is None else f" ({answer.status} {answer.raw[:300].decode(errors='replace')})"
            )
            self._outcome.failures.append(what + detail)

    def _late(self, started: float, what: str) -> None:
        self._children.check()
        if time.monotonic() - started > _DEADLINE_S:
            raise Unavailable(f"{what} within {_DEADLINE_S:.0f} s")

    def _comment(self, label: str) -> str:
        return f"{self._thread}/comments/{self._ids[label]}"

    async def _page(self) -> Answer:
        query = "&".join(f"{name}={value}" for name, value in WHOLE.items())
        return await self._call("GET", f"{self._thread}/comments?{query}", None)

    async def _write(
        self,
        method: str,
        path: str,
        who: str,
        body: Json | None = None,
        *,
        idempotency: str | None = None,
        match: int | None = None,
    ) -> Answer:
        """As `_call`; a thread's version after a write is remembered."""
        answer = await self._call(method, path, who, body, idempotency=idempotency, match=match)
        self._version = max(self._version, answer.version)
        return answer

    async def _call(
        self,
        method: str,
        path: str,
        who: str | None,
        body: Json | None = None,
        *,
        idempotency: str | None = None,
        match: int | None = None,
        read: int | None = None,
    ) -> Answer:
        headers: dict[str, str] = {}
        if who is not None:
            headers["Authorization"] = f"Bearer {self._tokens[who]}"
        if idempotency is not None:
            headers["Idempotency-Key"] = idempotency
        if match is not None:
            headers["If-Match"] = f'"{match}"'
        if read is not None:
            path += f"?min_version={read}"
        try:
            async with self._session.request(method, _url(path), headers=headers, json=body) as response:
                version = int(response.headers.get("Threadlog-Version", "0"))
                return Answer(response.status, version, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            self._children.check()
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error


def _url(path: str) -> Any:
    from yarl import URL

    return URL(path, encoded=True)


async def _unused_key(found: Resources) -> str:
    """The story's key, numbered where the data folder holds it already."""
    key, number = story.KEY, 1
    while await found.log.head(thread_stream_id(story.SITE, key)) is not None:
        number += 1
        key = f"{story.KEY}-{number}"
    return key


def _said(label: str) -> story.Said:
    return next(said for said in story.STORY if said.label == label)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59].rstrip() + "…"


def _comments(page: Json) -> list[Json]:
    found: list[Json] = []
    stack: list[Json] = list(page["comments"])
    while stack:
        comment = stack.pop()
        found.append(comment)
        stack.extend(comment["replies"]["items"])
    return found


def _levels(comments: list[Json]) -> int:
    return 1 + max(int(comment["depth"]) for comment in comments)


def _pretty(raw: bytes) -> str:
    return orjson.dumps(orjson.loads(raw), option=orjson.OPT_INDENT_2).decode()
