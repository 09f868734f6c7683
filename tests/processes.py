"""`threadlog` as processes of its own on a test's servers, and a client that speaks to them over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import jwt
import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from services.core.addresses import thread_stream_id
from services.eventlog.appenders import Appenders
from services.eventlog.sites import Sites
from services.settings import Settings
from services.wiring import Resources, resources
from services.workers.run import environment
from tests.sites import UNLIMITED, set_site
from tests.writer import MASTER_KEY, SITE

ROOT = Path(__file__).parents[1]
SECRET = b"a-secret-of-at-least-thirty-two-bytes"
S = f"/v1/sites/{SITE}"

_STARTS_S = 90.0
_STOPS_S = 30.0
_TRIES = 3
T = TypeVar("T")


async def until(
    ask: Callable[[], Awaitable[T]], what: str, holds: Callable[[T], object] = bool, within: float = 30.0
) -> T:
    """Ask again and again until the answer holds; the answer. Fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = await ask()
        if holds(answer):
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s: {what}; the last answer was {answer!r}")
        await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def version(self) -> int:
        return int(self.headers["Threadlog-Version"])

    @property
    def stale(self) -> bool:
        return self.headers.get("Threadlog-Stale") == "true"


@dataclass(slots=True)
class Client:
    """Sends requests to an API; `sub` signs in as somebody."""

    session: ClientSession
    base: str = ""
    site: str = SITE
    _tokens: dict[tuple[str, ...], str] = field(default_factory=dict)

    def token(self, sub: str, *roles: str) -> str:
        """A token as the site would sign it."""
        if (token := self._tokens.get((sub, *roles))) is None:
            claims = {
                "iss": self.site,
                "sub": sub,
                "name": sub.title(),
                "exp": int(time.time()) + 3600,
                "roles": list(roles),
            }
            token = self._tokens[(sub, *roles)] = jwt.encode(claims, SECRET, algorithm="HS256")
        return token

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        sub: str | None = None,
        roles: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. Raises aiohttp's ClientError and TimeoutError where there is no answer."""
        sent = dict(headers or {})
        if sub is not None:
            sent["Authorization"] = f"Bearer {self.token(sub, *roles)}"
        async with self.session.request(
            method, URL(self.base + path, encoded=True), json=body, headers=sent
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, *, sub: str | None = None, roles: tuple[str, ...] = ()) -> Answer:
        """A read that must succeed."""
        answer = await self.send("GET", path, sub=sub, roles=roles)
        assert answer.status == 200, (path, answer)
        return answer

    async def post(
        self, thread: str, text: str, *, sub: str, to: str | None = None, title: str | None = None
    ) -> Answer:
        """Post a comment, which must be taken."""
        body: dict[str, object] = {"body": text}
        if to is not None:
            body["parent_id"] = to
        if title is not None:
            body["thread"] = {"title": title, "url": f"https://{self.site}.example/{thread}"}
        answer = await self.send("POST", f"{S}/threads/{thread}/comments", body, sub=sub)
        assert answer.status == 201, answer
        return answer


@dataclass(slots=True)
class Process:
    """A process that this test has started; what it says goes to a file."""

    verb: str
    popen: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    async def stop(self) -> int:
        """End it in good order; its exit code. One that does not end in time is killed, and -9."""
        if self.alive:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self.popen.wait, _STOPS_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode


@dataclass(slots=True)
class Threadlog:
    """Processes on one set of servers, and a client of them."""

    settings: Settings
    client: Client
    parts: Resources
    """The same servers, to look into from within the test."""
    folder: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, verb: str, *arguments: str, command: list[str] | None = None, **given: object) -> Process:
        """Start a process, by another command where one is given; `given` are settings of its own."""
        output = self.folder / f"{len(self.processes)}-{verb}.log"
        settings = self.settings.model_copy(update=given)
        with output.open("wb") as log:
            popen = subprocess.Popen(
                command or _command(verb, *arguments),
                cwd=ROOT,
                env=_environment(settings),
                stdout=log,
                stderr=log,
            )
        self.processes.append(Process(verb, popen, output))
        return self.processes[-1]

    async def api(self, status: str = "ok") -> Process:
        """Start an API and point the client to it; it is ready with `status`."""
        for _ in range(_TRIES):
            port = _free_port()
            process = self.start("api", port=port)
            self.client.base = f"http://127.0.0.1:{port}"
            found = await until(
                lambda started=process: self._readiness(started),  # type: ignore[misc]
                "the API is ready",
                lambda answer: answer in (status, "ended"),
                _STARTS_S,
            )
            if found == status:
                return process
            # Between our look and its own, somebody else may have taken the port.
            assert "address already in use" in process.said.lower(), process.said
        pytest.fail("no port was free for long enough")

    async def _readiness(self, process: Process) -> str:
        if not process.alive:
            return "ended"
        try:
            answer = await self.client.send("GET", "/readyz")
        except (ClientError, TimeoutError):
            return "silent"
        return str(answer.json["status"])

    def worker(self) -> Process:
        """Start the workers. When they are ready shows in what they do."""
        return self.start("worker", worker_processes=1, worker_threads=4)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command to its end: exit code, standard output and standard error."""
        process = await asyncio.create_subprocess_exec(
            *_command(*arguments),
            cwd=ROOT,
            env=_environment(self.settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def stream_of(self, thread: str) -> UUID:
        """The stream of a thread of the client's site."""
        return thread_stream_id(self.client.site, thread)

    async def page(self, thread: str, query: str = "limit=100&replies=20&depth=10") -> Answer:
        """A page as everyone sees it, whatever the view stands at."""
        return await self.client.get(f"{S}/threads/{thread}/comments?{query}")

    async def shows(self, thread: str, version: int, *, within: float = 30.0) -> Answer:
        """Wait until the page has come to a version by itself, and is not stale."""
        return await until(
            lambda: self.page(thread),
            f"{thread} at version {version}",
            lambda answer: answer.version >= version and not answer.stale,
            within,
        )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.ops.cli", *arguments]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **environment(settings), "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def threadlog(
    database_url: str, redis_url: str, broker_url: str, folder: Path
) -> AsyncIterator[Threadlog]:
    """Everything but the processes: the test starts those that it is about. All are ended afterwards."""
    settings = Settings.load(
        database_url=database_url,
        redis_url=redis_url,
        broker_url=broker_url,
        master_key=MASTER_KEY,
        pool_size=4,
    )
    session = ClientSession(timeout=ClientTimeout(total=20), connector=TCPConnector(limit=0))
    async with resources(settings) as parts, session:
        await Sites(parts.pool, parts.master).add(SITE, SECRET)
        appenders = Appenders(database_url, parts.lanes)
        await appenders.start()
        await set_site(appenders, SITE, UNLIMITED)
        await appenders.stop()
        started = Threadlog(settings, Client(session), parts, folder)
        try:
            yield started
        finally:
            await asyncio.gather(*(process.stop() for process in started.processes))
