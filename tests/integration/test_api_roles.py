"""Every route for every role: one table, which a new route or role is added to.

A row is a route, a column is a role, a cell is the status. To add a route, add its row, and its request to
`REQUESTS` where it takes a body or a header; to add a role, add its column and who it is to `ROLES`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import jwt
import pytest

from services.api import routes
from services.api.routes import ROUTES, C, S, T
from services.core.site import SiteSettings
from services.eventlog.sites import ROLES as KEY_ROLES
from tests.integration.api_client import SECRET, SITE, Answer, Client, client_of

# The comment that C names is ann's, but the one of `own` and `off`, who are the guest that wrote it.
TABLE: Final = """
                            nobody guest off own author other mod admin key op-key mod-key adm-key op-as
POST    S/guests              201   201  403 201   201   201  201  201  201   201    201     201    201
POST    T/comments            401   201  403 201   201   201  201  201  201   201    201     201    201
GET     T/comments            200   200  200 200   200   200  200  200  200   200    200     200    200
GET     C                     200   200  200 200   200   200  200  200  200   200    200     200    200
PATCH   C                     401   403  403 403   200   403  200  200  403   403    200     200    200
DELETE  C                     401   403  403 204   204   403  204  204  403   403    204     204    204
GET     C/revisions           401   403  200 200   200   403  200  200  403   403    200     200    200
POST    C/reports             401   202  403 403   403   202  202  202  202   202    202     202    403
POST    C/decisions           401   403  403 403   403   403  200  200  403   403    200     200    403
PUT     C/vote                401   403  403 403   403   200  200  200  200   200    200     200    403
GET     T                     200   200  200 200   200   200  200  200  200   200    200     200    200
GET     T/mine                401   200  200 200   200   200  200  200  200   200    200     200    200
PUT     T/subscription        401   403  403 403   200   200  200  200  200   200    200     200    200
DELETE  T/subscription        401   403  403 403   204   204  204  204  204   204    204     204    204
GET     T/feed.atom           200   200  200 200   200   200  200  200  200   200    200     200    200
GET     S/feed.atom           200   200  200 200   200   200  200  200  200   200    200     200    200
GET     S/comments            200   200  200 200   200   200  200  200  200   200    200     200    200
POST    S/counts              200   200  200 200   200   200  200  200  200   200    200     200    200
GET     S/counts              200   200  200 200   200   200  200  200  200   200    200     200    200
GET     S/me/comments         401   200  200 200   200   200  200  200  200   200    200     200    200
PATCH   T                     401   403  403 403   403   403  200  200  403   403    200     200    403
GET     T/events              401   403  403 403   403   403  200  200  403   200    200     200    200
GET     T/live                200   200  200 200   200   200  200  200  200   200    200     200    200
GET     S/settings            401   403  403 403   403   403  403  200  403   403    403     200    403
PATCH   S/settings            401   403  403 403   403   403  403  200  403   403    403     200    403
GET     S/me/notifications    401   200  200 200   200   200  200  200  200   200    200     200    200
POST    S/me/notifications/read 401 204  403 204   204   204  204  204  204   204    204     204    204
GET     S/me/notifications/live 401 200  200 200   200   200  200  200  200   200    200     200    200
GET     S/me/preferences      401   200  200 200   200   200  200  200  200   200    200     200    200
PATCH   S/me/preferences      401   200  403 200   200   200  200  200  200   200    200     200    200
GET     S/me                  401   200  200 200   200   200  200  200  200   200    200     200    200
DELETE  S/me                  401   202  202 202   202   202  202  202  202   202    202     202    202
GET     S/confirm             410   410  410 410   410   410  410  410  410   410    410     410    410
POST    S/confirm             410   410  410 410   410   410  410  410  410   410    410     410    410
GET     S/unsubscribe         410   410  410 410   410   410  410  410  410   410    410     410    410
POST    S/unsubscribe         410   410  410 410   410   410  410  410  410   410    410     410    410
GET     /v1/events            401   401  401 401   401   401  401  401  403   200    403     403    200
GET     /healthz              200   200  200 200   200   200  200  200  200   200    200     200    200
GET     /readyz               200   200  200 200   200   200  200  200  200   200    200     200    200
GET     /metrics              200   200  200 200   200   200  200  200  200   200    200     200    200
GET     /openapi.json         200   200  200 200   200   200  200  200  200   200    200     200    200
GET     /docs                 200   200  200 200   200   200  200  200  200   200    200     200    200
"""

REQUESTS: Final[Mapping[tuple[str, str], dict[str, Any]]] = {
    ("POST", "S/guests"): {"body": {"name": "Gil"}},
    ("POST", "T/comments"): {"body": {"body": "a word"}},
    ("PATCH", "C"): {"body": {"body": "another word"}, "headers": {"If-Match": '"1"'}},
    ("POST", "S/counts"): {"body": {"threads": ["story", "none"]}},
    ("POST", "C/reports"): {"body": {"reason": "spam"}},
    ("POST", "C/decisions"): {"body": {"action": "hide", "reason": "rude"}},
    ("PUT", "C/vote"): {"body": {"value": 1}},
    ("PATCH", "T"): {"body": {"title": "A title"}},
    ("PATCH", "S/settings"): {"body": {"report_threshold": 6}},
    ("POST", "S/me/notifications/read"): {"body": {"ids": []}},
    ("PUT", "T/subscription"): {"body": {"level": "all"}},
    ("PATCH", "S/me/preferences"): {"body": {"mail": "daily"}},
    # Asked for a stream, it would not come to an end.
    ("GET", "T/live"): {"headers": {"Accept": "application/json"}},
    ("GET", "S/me/notifications/live"): {"headers": {"Accept": "application/json"}},
}


@dataclass(slots=True)
class Scene:
    """A site with people, guests and server keys, and another site, which signs with the same secret."""

    client: Client
    keys: dict[str, str] = field(default_factory=dict)
    guests: dict[str, str] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def settle(self, **settings: object) -> None:
        """Change the site's settings."""
        answer = await self.client.send(
            "PATCH", f"/v1/sites/{SITE}/settings", settings, sub="root", roles=("admin",)
        )
        assert answer.status == 200, answer.raw

    def jwt(self, sub: str, *roles: str, **claims: object) -> dict[str, str]:
        return _bearer(self.client.token(sub, *roles, **claims))

    def key(self, name: str, sub: str | None = None) -> dict[str, str]:
        return _bearer(self.keys[name]) | ({} if sub is None else {"Threadlog-Act-As": sub})

    def guest(self, name: str) -> dict[str, str]:
        return _bearer(self.guests[name])

    def wrong_algorithm(self) -> dict[str, str]:
        claims = {"iss": SITE, "sub": "ann", "exp": 4_000_000_000}
        return _bearer(jwt.encode(claims, SECRET * 2, algorithm="HS512"))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


Who = Callable[[Scene], dict[str, str]]

ROLES: Final[Mapping[str, Who]] = {
    "nobody": lambda _: {},
    "guest": lambda scene: scene.guest("gil"),
    "off": lambda scene: scene.guest("gus"),
    "own": lambda scene: scene.guest("gus"),
    "author": lambda scene: scene.jwt("ann"),
    "other": lambda scene: scene.jwt("bob"),
    "mod": lambda scene: scene.jwt("mia", "moderator"),
    "admin": lambda scene: scene.jwt("ada", "admin"),
    "key": lambda scene: scene.key("plain"),
    "op-key": lambda scene: scene.key("operator"),
    "mod-key": lambda scene: scene.key("moderator"),
    "adm-key": lambda scene: scene.key("admin"),
    "op-as": lambda scene: scene.key("operator", "ann"),
}
"""Who somebody is, by the headers that they send."""

KEYS: Final = {"operator": "op-key", "moderator": "mod-key", "admin": "adm-key"}
"""The column of each role that a server key may have."""

REFUSED: Final[Mapping[str, tuple[int, Who]]] = {
    "another site's token": (401, lambda scene: scene.jwt("ann", iss="blog")),
    "expired": (401, lambda scene: scene.jwt("ann", exp=1_700_000_000)),
    "wrong algorithm": (401, lambda scene: scene.wrong_algorithm()),
    "no token": (401, lambda _: _bearer("x")),
    "another site's server key": (401, lambda scene: scene.key("blog")),
    "another site's guest": (401, lambda scene: scene.guest("blog")),
    "revoked server key": (401, lambda scene: scene.key("revoked")),
    "revoked, acting": (401, lambda scene: scene.key("revoked", "ann")),
    "acting by a token": (400, lambda scene: scene.jwt("ann", "admin") | {"Threadlog-Act-As": "bob"}),
    "acting as a guest": (400, lambda scene: scene.key("operator", "guest:1")),
    "acting without a key": (400, lambda _: {"Threadlog-Act-As": "ann"}),
}
"""Whom no route of a site takes, public reads included."""

AT_NO_SITE: Final = {"another site's server key": 200, "acting as a guest": 400, "acting without a key": 400}
"""What `/v1/events` answers otherwise: it knows all sites' server keys, and no tokens."""


def rows() -> tuple[list[str], dict[tuple[str, str], list[int]]]:
    """The columns' names, and each row's cells by method and short path."""
    head, *lines = (line.split() for line in TABLE.strip().splitlines())
    found = {(method, path): [int(cell) for cell in cells] for method, path, *cells in lines}
    assert len(found) == len(lines), "a route has two rows"
    return head, found


COLUMNS, ROWS = rows()


def short(path: str) -> str:
    """A route's path as the table has it."""
    for letter, whole in (("C", C), ("T", T), ("S", S)):
        if path == whole or path.startswith(whole + "/"):
            return letter + path.removeprefix(whole)
    return path


def test_every_route_has_a_row_and_every_row_is_a_route() -> None:
    assert set(ROWS) == {(route.method, short(route.path)) for route in ROUTES}


def test_every_row_has_a_cell_for_every_role() -> None:
    assert list(ROLES) == COLUMNS
    for row, cells in ROWS.items():
        assert len(cells) == len(COLUMNS), row


def test_every_role_that_a_key_may_have_has_a_column() -> None:
    assert set(KEYS) == set(KEY_ROLES)
    assert set(KEYS.values()) <= set(COLUMNS)


def test_a_route_that_says_whom_it_is_for_is_closed_to_others() -> None:
    """The description in `/openapi.json` agrees with the table."""
    closed = {
        "anyone": (),
        "network": (),
        "signed in": ("nobody",),
        "member": ("nobody", "guest", "off"),
        "moderator": ("nobody", "guest", "author", "other", "key", "op-key"),
        "overseer": ("nobody", "guest", "author", "other", "key"),
        "admin": ("nobody", "guest", "author", "other", "key", "op-key", "mod", "mod-key"),
        "operator": ("nobody", "key", "mod-key", "adm-key"),
    }
    for route in ROUTES:
        cells = dict(zip(COLUMNS, ROWS[route.method, short(route.path)], strict=True))
        for role in closed[route.who]:
            assert cells[role] == (401 if role == "nobody" else 403), (route.method, route.path, role)
    assert set(closed) == set(get_args(routes.Who))


@pytest.fixture
async def scene(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Scene]:
    async with client_of(database_url, redis_url, broker_url) as client:
        made = Scene(client)
        await client.running.api.sites.add("blog", SECRET)
        credentials = client.running.resources.credentials
        for name in ("plain", *KEY_ROLES):
            made.keys[name] = (await credentials.add_key(SITE, [] if name == "plain" else [name])).key
        made.keys["blog"] = (await credentials.add_key("blog", KEY_ROLES)).key
        revoked = await credentials.add_key(SITE, KEY_ROLES)
        made.keys["revoked"] = revoked.key
        await credentials.revoke_key(SITE, revoked.id)
        for site in (SITE, "blog"):
            client.running.api.sites.forget(site)
        limits = [name for name in SiteSettings.model_fields if "_writes_per_" in name]
        await made.settle(guests=True, **dict.fromkeys(limits))
        given = {"iss": "blog", "sub": "root", "exp": 4_000_000_000, "roles": ["admin"]}
        admin = _bearer(jwt.encode(given, SECRET, algorithm="HS256"))
        await client.send("PATCH", "/v1/sites/blog/settings", {"guests": True}, headers=admin)
        for name, site in (("gil", SITE), ("gus", SITE), ("blog", "blog")):
            joined = await client.send("POST", f"/v1/sites/{site}/guests", {"name": name.title()})
            assert joined.status == 201, joined.raw
            made.guests[name] = joined.json["token"]
        yield made


async def ask(scene: Scene, method: str, path: str, role: str, headers: dict[str, str]) -> Answer:
    """Send one cell's request, about a thread and a comment of its own."""
    thread = f"/v1/sites/{SITE}/threads/t-{next(scene.numbers)}"
    author = scene.guest("gus") if role in ("own", "off") else scene.jwt("ann")
    posted = await scene.client.send("POST", f"{thread}/comments", {"body": "a comment"}, headers=author)
    assert posted.status == 201, posted.raw
    if role == "off":
        await scene.settle(guests=False)
    place = path
    for letter, whole in (
        ("C", f"{thread}/comments/{posted.json['id']}"),
        ("T", thread),
        ("S", f"/v1/sites/{SITE}"),
    ):
        if path == letter or path.startswith(f"{letter}/"):
            place = whole + path.removeprefix(letter)
    request = REQUESTS.get((method, path), {})
    sent = {**request.get("headers", {}), **headers}
    answer = await scene.client.send(method, place, request.get("body"), headers=sent)
    if role == "off":
        await scene.settle(guests=True)
    return answer


def told(found: Iterable[tuple[str, int, Answer]]) -> list[str]:
    """What differs from the table, in words."""
    return [
        f"{role}: {answer.status}, not {expected}: {answer.raw[:200]!r}"
        for role, expected, answer in found
        if answer.status != expected
    ]


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[" ".join(row) for row in ROWS])
async def test_a_route_answers_each_role_as_the_table_says(scene: Scene, method: str, path: str) -> None:
    found = [
        (role, expected, await ask(scene, method, path, role, ROLES[role](scene)))
        for role, expected in zip(COLUMNS, ROWS[method, path], strict=True)
    ]
    assert told(found) == []
    everyones = ROWS[method, path][COLUMNS.index("nobody")]
    others = AT_NO_SITE if path == "/v1/events" else {}
    found = [
        (
            name,
            others.get(name, status if path[0] in "STC" else everyones),
            await ask(scene, method, path, name, who(scene)),
        )
        for name, (status, who) in REFUSED.items()
    ]
    assert told(found) == []
    for name, _, answer in found:
        if answer.status == 401:
            expired = name == "expired" and not others
            assert answer.code == ("token-expired" if expired else "token-invalid")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        elif answer.status == 400:
            assert answer.code == "bad-header"
