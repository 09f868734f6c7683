"""A client of a real API process's application, on real servers, in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import ClientSession
from yarl import URL

from services.api.serving import Serving, serving
from services.settings import Settings
from tests.sites import UNLIMITED, set_site

SECRET = b"a-secret-of-at-least-thirty-two-bytes"
SITE = "news"
S = f"/v1/sites/{SITE}"
T = f"{S}/threads/story"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """The problem's code; fails where the answer is no problem."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), (self.status, self.raw)
        body = self.json
        assert body["status"] == self.status
        assert body["request_id"] == self.headers["X-Request-ID"]
        return str(body["type"]).removeprefix("urn:threadlog:problem:")

    @property
    def version(self) -> int:
        return int(self.headers["Threadlog-Version"])


@dataclass(slots=True)
class Client:
    """Sends requests; `sub` signs in as somebody."""

    running: Serving
    session: ClientSession
    secret: bytes = SECRET
    claims: dict[str, object] = field(default_factory=dict)

    def token(self, sub: str, *roles: str, **claims: object) -> str:
        given = {"iss": SITE, "sub": sub, "exp": int(time.time()) + 300, "roles": list(roles), **claims}
        return jwt.encode(given, self.secret, algorithm="HS256")

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        sub: str | None = None,
        roles: tuple[str, ...] = (),
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; `path` goes over the wire as it is."""
        sent = dict(headers or {})
        if sub is not None:
            sent.setdefault("Authorization", f"Bearer {self.token(sub, *roles)}")
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        url = URL(f"http://{self.running.host}:{self.running.port}{path}", encoded=True)
        async with self.session.request(method, url, data=data, headers=sent) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.send("GET", path, **more)

    async def post(self, text: str, *, to: str | None = None, sub: str = "ann", at: str = T) -> Any:
        """Post a comment; the comment."""
        body = {"body": text} | ({} if to is None else {"parent_id": to})
        answer = await self.send("POST", f"{at}/comments", body, sub=sub)
        assert answer.status == 201, answer.raw
        return answer.json

    async def raw(self, request: bytes) -> bytes:
        """Bytes as they are, and everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection(self.running.host, self.running.port)
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@asynccontextmanager
async def client_of(
    database_url: str, redis_url: str, broker_url: str, *, unlimited: bool = False, **given: Any
) -> AsyncIterator[Client]:
    """An API on these servers, with one site; `given` are settings of the process. For tests that write more
    than the default rate limits take, `unlimited` turns them off, by the first event of the site's stream."""
    settings = Settings.load(
        database_url=database_url,
        redis_url=redis_url,
        broker_url=broker_url,
        master_key=b64encode(b"m" * 32).decode(),
        port=0,
        **given,
    )
    async with serving(settings) as running, ClientSession() as session:
        await running.api.sites.add(SITE, SECRET)
        if unlimited:
            await set_site(running.api.appenders, SITE, UNLIMITED)
            running.api.sites.forget(SITE)
        yield Client(running, session)
