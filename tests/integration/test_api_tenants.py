"""Two sites with the same threads, people and secret: nothing of one is reached through the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import jwt
import pytest

from services.core.addresses import thread_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import ROLES
from tests.integration.api_client import SECRET, SITE, Answer, Client, client_of

OTHER: Final = "blog"
HERE, THERE = f"/v1/sites/{SITE}", f"/v1/sites/{OTHER}"
STORY: Final = "threads/story"


@dataclass(slots=True)
class Tenant:
    """What one site has, by which another one's could be asked for."""

    name: str
    comment: str
    reply: str
    root_cursor: str
    reply_cursor: str
    revision_cursor: str
    inbox_cursor: str
    newest_cursor: str
    own_cursor: str
    notification: str
    guest: str
    key: str
    tag: str


@dataclass(slots=True)
class Tenants:
    """Both sites, and ann, who is an admin of either."""

    client: Client
    here: Tenant
    there: Tenant

    async def ask(
        self, method: str, path: str, body: object = None, *, site: str = SITE, **headers: str
    ) -> Answer:
        """As ann, admin of `site`, unless the headers say otherwise."""
        sent = as_ann(site) | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.send(method, path, body, headers=sent)


def as_ann(site: str) -> dict[str, str]:
    claims = {"iss": site, "sub": "ann", "exp": 4_000_000_000, "roles": ["admin"]}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


async def tenant(client: Client, name: str) -> Tenant:
    """Fill a site: three roots, replies, revisions, notifications, a guest and a server key."""
    site, thread = f"/v1/sites/{name}", f"/v1/sites/{name}/{STORY}"

    async def ask(method: str, path: str, body: object = None, **headers: str) -> Answer:
        answer = await client.send(method, path, body, headers=as_ann(name) | headers)
        assert answer.status < 300, answer.raw
        return answer

    limits = {one: None for one in SiteSettings.model_fields if "_writes_per_" in one}
    await ask("PATCH", f"{site}/settings", {"guests": True} | limits)
    roots = [(await ask("POST", f"{thread}/comments", {"body": f"{name} {n}"})).json["id"] for n in range(3)]
    replies = [
        (await ask("POST", f"{thread}/comments", {"body": "a reply", "parent_id": roots[0]})).json["id"]
        for _ in range(3)
    ]
    for revision in (1, 2):
        change = {"body": f"{name}, revised {revision}"}
        await ask("PATCH", f"{thread}/comments/{roots[0]}", change, **{"If-Match": f'"{revision}"'})
    notifications = [uuid4(), uuid4()]
    for id in notifications:
        await client.running.resources.pool.execute(
            "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, comment_id,"
            " reason, created_at) values ($1, 'ann', $2, $2, $3, $4, 'reply', now())",
            name,
            id,
            thread_stream_id(name, "story"),
            UUID(replies[0]),
        )
    page = await ask("GET", f"{thread}/comments?limit=1&replies=1")
    inbox = await ask("GET", f"{site}/me/notifications?limit=1")
    newest = await ask("GET", f"{site}/comments?limit=1")
    own = await ask("GET", f"{site}/me/comments?limit=1")
    revisions = await ask("GET", f"{thread}/comments/{roots[0]}/revisions?limit=1")
    made = await client.running.resources.credentials.add_key(name, ROLES)
    client.running.api.sites.forget(name)
    found = Tenant(
        name,
        comment=roots[0],
        reply=replies[0],
        root_cursor=page.json["after"],
        reply_cursor=page.json["comments"][0]["replies"]["after"],
        revision_cursor=revisions.json["after"],
        inbox_cursor=inbox.json["after"],
        newest_cursor=newest.json["after"],
        own_cursor=own.json["after"],
        notification=str(max(notifications)),
        guest=(await ask("POST", f"{site}/guests", {"name": "Gil"})).json["token"],
        key=made.key,
        tag=(await ask("GET", thread)).headers["Etag"],
    )
    assert all(getattr(found, name) for name in Tenant.__slots__)
    return found


@pytest.fixture
async def tenants(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Tenants]:
    async with client_of(database_url, redis_url, broker_url) as client:
        await client.running.api.sites.add(OTHER, SECRET)
        yield Tenants(client, await tenant(client, SITE), await tenant(client, OTHER))


Attempt = tuple[str, str, Callable[[Tenant], str], Any, dict[str, str], tuple[int, str]]
HIDE = {"action": "hide", "reason": "rude"}
NO_COMMENT, NO_PARENT = (404, "comment-not-found"), (404, "parent-not-found")
NO_CURSOR, NO_TOKEN = (400, "cursor-invalid"), (401, "token-invalid")
ROOT = f"{STORY}/comments"

BY_ID: Final[list[Attempt]] = [
    ("read a comment", "GET", lambda t: f"{ROOT}/{t.comment}", None, {}, NO_COMMENT),
    ("read its revisions", "GET", lambda t: f"{ROOT}/{t.comment}/revisions", None, {}, NO_COMMENT),
    ("edit", "PATCH", lambda t: f"{ROOT}/{t.comment}", {"body": "x"}, {"If-Match": '"3"'}, NO_COMMENT),
    ("remove", "DELETE", lambda t: f"{ROOT}/{t.comment}", None, {}, NO_COMMENT),
    ("decide", "POST", lambda t: f"{ROOT}/{t.comment}/decisions", HIDE, {}, NO_COMMENT),
    ("report", "POST", lambda t: f"{ROOT}/{t.comment}/reports", {"reason": "spam"}, {}, NO_COMMENT),
    ("vote", "PUT", lambda t: f"{ROOT}/{t.comment}/vote", {"value": 1}, {}, NO_COMMENT),
    ("page below", "GET", lambda t: f"{ROOT}?parent={t.comment}", None, {}, NO_PARENT),
    ("go on with its roots", "GET", lambda t: f"{ROOT}?after={t.root_cursor}", None, {}, NO_CURSOR),
    (
        "go on with its newest comments",
        "GET",
        lambda t: f"comments?after={t.newest_cursor}",
        None,
        {},
        NO_CURSOR,
    ),
    (
        "go on with my comments there",
        "GET",
        lambda t: f"me/comments?after={t.own_cursor}",
        None,
        {},
        NO_CURSOR,
    ),
    (
        "go on with its inbox",
        "GET",
        lambda t: f"me/notifications?after={t.inbox_cursor}",
        None,
        {},
        NO_CURSOR,
    ),
]
"""What an admin of one site tries with what the other one has given out."""


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [row[1:] for row in BY_ID],
    ids=[row[0] for row in BY_ID],
)
async def test_ids_and_cursors_of_another_site_lead_nowhere(
    tenants: Tenants,
    method: str,
    path: Callable[[Tenant], str],
    body: Any,
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    before = await everything(tenants, THERE, OTHER)
    answer = await tenants.client.send(
        method, f"{HERE}/{path(tenants.there)}", body, headers=as_ann(SITE) | headers
    )
    assert (answer.status, answer.code) == expected
    assert await everything(tenants, THERE, OTHER) == before
    # The same request about the site's own is no such thing, so that the refusal is not for another reason.
    own = await tenants.client.send(
        method, f"{HERE}/{path(tenants.here)}", body, headers=as_ann(SITE) | headers
    )
    assert own.status < 300 or own.code == "own-comment", own.raw


async def everything(tenants: Tenants, site: str, name: str) -> list[bytes]:
    """All that a site's admin sees of it."""
    paths = (f"{STORY}/comments?replies=20", f"{STORY}/events", "me/notifications", "settings")
    return [(await tenants.ask("GET", f"{site}/{path}", site=name)).raw for path in paths]


@pytest.mark.parametrize(
    ("path", "cursor"),
    [
        ("{root}?parent={comment}&after=", "reply_cursor"),
        ("{root}/{comment}/revisions?after=", "revision_cursor"),
    ],
    ids=["replies", "revisions"],
)
async def test_a_cursor_below_a_comment_is_of_that_comment(tenants: Tenants, path: str, cursor: str) -> None:
    below = f"{HERE}/{path.format(root=ROOT, comment=tenants.here.comment)}"
    assert (await tenants.ask("GET", below + getattr(tenants.here, cursor))).status == 200
    answer = await tenants.ask("GET", below + getattr(tenants.there, cursor))
    assert (answer.status, answer.code) == NO_CURSOR


async def test_a_comment_of_another_site_is_no_parent(tenants: Tenants) -> None:
    reply = {"body": "x", "parent_id": tenants.there.comment}
    answer = await tenants.ask("POST", f"{HERE}/{ROOT}", reply)
    assert (answer.status, answer.code) == NO_PARENT


@pytest.mark.parametrize("path", [f"{STORY}/comments", f"{STORY}/events", "settings", "me/notifications"])
@pytest.mark.parametrize("what", ["token", "guest", "key", "key, acting"])
async def test_nobody_of_another_site_signs_in(tenants: Tenants, what: str, path: str) -> None:
    bearers = {
        "token": as_ann(OTHER)["Authorization"],
        "guest": f"Bearer {tenants.there.guest}",
        "key": f"Bearer {tenants.there.key}",
        "key, acting": f"Bearer {tenants.there.key}",
    }
    headers = {"Authorization": bearers[what]} | ({"Threadlog-Act-As": "ann"} if "," in what else {})
    # There first, so that what is remembered of it would be found.
    there = await tenants.client.send("GET", f"{THERE}/{path}", headers=headers)
    assert there.status == 200 or what == "guest"
    answer = await tenants.client.send("GET", f"{HERE}/{path}", headers=headers)
    assert (answer.status, answer.code) == NO_TOKEN


async def test_notifications_of_another_site_are_not_marked(tenants: Tenants) -> None:
    for body in ({"ids": [tenants.there.notification]}, {"through": tenants.there.notification}):
        assert (await tenants.ask("POST", f"{HERE}/me/notifications/read", body)).status == 204
    there = await tenants.ask("GET", f"{THERE}/me/notifications", site=OTHER)
    assert there.json["unread"] == 2


async def test_an_idempotency_key_is_of_one_site(tenants: Tenants) -> None:
    body = {"body": "the same words"}
    first = await tenants.ask("POST", f"{HERE}/{ROOT}", body, Idempotency_Key="one")
    second = await tenants.ask("POST", f"{THERE}/{ROOT}", body, site=OTHER, Idempotency_Key="one")
    again = await tenants.ask("POST", f"{HERE}/{ROOT}", body, Idempotency_Key="one")
    assert (first.status, second.status, again.status) == (201, 201, 201)
    assert first.json["id"] == again.json["id"] != second.json["id"]
    other = await tenants.ask("POST", f"{THERE}/{ROOT}", {"body": "y"}, site=OTHER, Idempotency_Key="two")
    assert other.status == 201
    assert (await tenants.ask("POST", f"{HERE}/{ROOT}", {"body": "z"}, Idempotency_Key="two")).status == 201


async def test_lists_and_counts_hold_nothing_of_another_site(tenants: Tenants) -> None:
    for path in ("comments", "me/comments", "feed.atom", f"{STORY}/feed.atom"):
        here = await tenants.ask("GET", f"{HERE}/{path}")
        assert here.status == 200
        assert tenants.here.comment.encode() in here.raw
        assert tenants.there.comment.encode() not in here.raw
    await tenants.ask("POST", f"{THERE}/{ROOT}", {"body": "one more"}, site=OTHER)
    counted = [(await tenants.client.get(f"{one}/counts?thread=story")).json for one in (HERE, THERE)]
    assert counted == [{"story": 6}, {"story": 7}]
    mine = await tenants.ask("GET", f"{HERE}/{STORY}/mine?ids={tenants.there.comment}")
    assert mine.json["votes"] == {}


async def test_a_tag_of_another_site_is_no_reason_to_send_nothing(tenants: Tenants) -> None:
    assert tenants.here.tag != tenants.there.tag
    own = await tenants.ask("GET", f"{HERE}/{STORY}", If_None_Match=tenants.here.tag)
    other = await tenants.ask("GET", f"{HERE}/{STORY}", If_None_Match=tenants.there.tag)
    assert (own.status, other.status) == (304, 200)


async def test_settings_reach_as_far_as_their_site(tenants: Tenants) -> None:
    changed = await tenants.ask("PATCH", f"{HERE}/settings", {"guests": False, "report_threshold": 2})
    assert changed.status == 200
    there = await tenants.ask("GET", f"{THERE}/settings", site=OTHER)
    assert (there.json["guests"], there.json["report_threshold"]) == (True, 5)
    guest = {"Authorization": f"Bearer {tenants.there.guest}"}
    answer = await tenants.client.send("POST", f"{THERE}/{ROOT}", {"body": "x"}, headers=guest)
    assert answer.status == 201


async def test_who_is_erased_on_one_site_stays_on_the_other(tenants: Tenants) -> None:
    before = await tenants.ask("GET", f"{THERE}/{ROOT}/{tenants.there.comment}", site=OTHER)
    assert (await tenants.ask("DELETE", f"{HERE}/me")).status == 202
    after = await tenants.ask("GET", f"{THERE}/{ROOT}/{tenants.there.comment}", site=OTHER)
    assert after.raw == before.raw
    stored = await tenants.ask("GET", f"{THERE}/me", site=OTHER)
    assert OTHER.encode() in stored.raw


async def test_what_is_stored_of_me_is_what_one_site_stores(tenants: Tenants) -> None:
    stored = await tenants.ask("GET", f"{HERE}/me")
    assert tenants.here.comment.encode() in stored.raw
    assert tenants.there.comment.encode() not in stored.raw
    assert b"blog" not in stored.raw
