"""A person who has lived on the test's site, and the worker that erases them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from services.core.addresses import thread_stream_id
from services.readmodel.remains import Remains
from services.workers.eraser import Eraser
from services.workers.notifier import Notifier
from tests.integration.api_client import SITE, Answer, Client, S, T, client_of
from tests.sites import UNLIMITED, set_site

MASTER = b64encode(b"m" * 32).decode()
NAME, AVATAR = "Ann Quixotic", "https://pictures.example/quixotic.png"
BODY, EDITED = "zyzzogeton *first*", "zyzzogeton second"
REPLY, DETAIL = "a reply, xenopus", "because of kumquats"
NEEDLES = ("zyzzogeton", "xenopus", "kumquats", "Quixotic", "quixotic.png")
OTHER = f"{S}/threads/other"


@asynccontextmanager
async def erasing_client(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Client]:
    """A client of a site without rate limits."""
    async with client_of(database_url, redis_url, broker_url) as client:
        await set_site(client.running.api.appenders, SITE, UNLIMITED)
        client.running.api.sites.forget(SITE)
        yield client


def eraser(client: Client, *, abandoned: float = 120.0) -> Eraser:
    """A worker's eraser, on the API's own appenders."""
    parts = client.running.resources

    @asynccontextmanager
    async def appending() -> AsyncIterator[Any]:
        yield client.running.api.appenders

    return Eraser(
        parts.pool, parts.erasures, parts.projector, Remains(parts.redis), appending, abandoned=abandoned
    )


def as_ann(client: Client, **headers: str) -> dict[str, str]:
    token = client.token("u-ann", name=NAME, avatar=AVATAR)
    return {"Authorization": f"Bearer {token}", **headers}


async def send_as_ann(client: Client, method: str, path: str, body: object = None, **headers: str) -> Answer:
    return await client.send(method, path, body, headers=as_ann(client, **headers))


async def post_as_ann(client: Client, text: str, at: str = T, to: str | None = None, **headers: str) -> Any:
    body = {"body": text} | ({} if to is None else {"parent_id": to})
    answer = await send_as_ann(client, "POST", f"{at}/comments", body, **headers)
    assert answer.status == 201, answer.raw
    return answer.json


async def lived(client: Client) -> dict[str, Any]:
    """Ann has written, edited, replied, reported and voted; others have replied to her and voted for her."""
    first = await post_as_ann(client, BODY, **{"Idempotency-Key": "first"})
    edited = await send_as_ann(
        client, "PATCH", f"{T}/comments/{first['id']}", {"body": EDITED}, **{"If-Match": '"1"'}
    )
    assert edited.status == 200
    bobs = await client.post("by bob", to=first["id"], sub="bob")
    reply = await post_as_ann(client, REPLY, to=bobs["id"])
    away = await post_as_ann(client, "zyzzogeton elsewhere", at=OTHER)
    gone = await post_as_ann(client, "zyzzogeton regretted")
    await send_as_ann(client, "DELETE", f"{T}/comments/{gone['id']}")
    removed = await post_as_ann(client, "zyzzogeton removed")
    await client.send("DELETE", f"{T}/comments/{removed['id']}", sub="mod", roles=("moderator",))
    report = {"reason": "spam", "detail": DETAIL}
    answer = await send_as_ann(client, "POST", f"{T}/comments/{bobs['id']}/reports", report)
    assert answer.status == 202, answer.raw
    assert (await send_as_ann(client, "PUT", f"{T}/comments/{bobs['id']}/vote", {"value": 1})).status == 200
    vote = await client.send("PUT", f"{T}/comments/{first['id']}/vote", {"value": 1}, sub="bob")
    assert vote.status == 200
    for at in (T, OTHER):
        await client.get(f"{at}/comments")
        parts = client.running.resources
        await Notifier(parts.pool, parts.keyring).notify(stream_of(at))
    return {"first": first, "reply": reply, "bobs": bobs, "away": away, "gone": gone, "removed": removed}


def stream_of(at: str) -> UUID:
    return thread_stream_id(SITE, at.rpartition("/")[2])


async def erased(client: Client) -> dict[str, Any]:
    """Ann has lived, and is erased: key, comments, views."""
    life = await lived(client)
    answer = await send_as_ann(client, "DELETE", f"{S}/me")
    assert answer.status == 202, answer.raw
    await eraser(client).round()
    return life


ROLES: list[dict[str, Any]] = [
    {},
    {"sub": "u-ann"},
    {"sub": "bob"},
    {"sub": "mod", "roles": ("moderator",)},
    {"sub": "admin", "roles": ("admin",)},
]
