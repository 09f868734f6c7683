"""How schemathesis asks: as whom, about what, and what comes of it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final
from uuid import UUID

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.generation import GenerationMode
from schemathesis.hooks import unregister

from services.api.routes import ROUTES
from services.eventlog.keys import MasterKey
from services.eventlog.maillinks import MailLinks
from tests.processes import Client
from tests.writer import MASTER_KEY, SITE

EXAMPLES: Final = int(os.environ.get("THREADLOG_TEST_EXAMPLES", "40"))
"""Of each route and each way to go wrong, beside the edges of each parameter."""
THREADS: Final = ("one", "two", "a%2Fb")
"""As a path has them."""
OTHER_SITE: Final = "quiz"
AUTHORS: Final = ("ann", "bob")
CONFIRMING: Final = "eve"
"""Who gave an address, and is asked whether it is theirs."""

LET_IN: Final[dict[tuple[str, str], str]] = {
    (route.method, route.path): {
        "moderator": "moderator",
        "overseer": "key",
        "admin": "admin",
        "operator": "key",
    }.get(route.who, "author")
    for route in ROUTES
}
"""Somebody whom a route is for."""
Case = schemathesis.Case[Any]
CHECKS: Final[dict[str, object]] = {
    # What is valid by its shape may be refused for what it is, or means.
    "positive_data_acceptance": {"enabled": False},
    # Who may do what has a table: tests/integration/test_api_roles.py.
    "ignored_auth": {"enabled": False},
    "negative_data_rejection": {"expected-statuses": ["4xx"]},
    "missing_required_header": {"expected-statuses": ["400", "401", "403", "404", "428"]},
}


@dataclass(slots=True)
class Scene:
    """A site with people, threads and comments in every state; another one, whose settings may change."""

    client: Client
    keys: dict[str, str]
    guest: str
    comments: list[tuple[str, str]]
    """Threads and comments, by ann and bob in turn."""
    spare: list[tuple[str, str]]
    """Comments that may be deleted, hidden and removed."""
    address_mac: str
    """Of the address that CONFIRMING gave."""
    asked: Counter[tuple[str, bool, int]] = field(default_factory=Counter)
    """Answers by operation, whether the request had the described shape, and status."""
    random: random.Random = field(default_factory=random.Random)

    def headers(self, case: Case) -> dict[str, str]:
        """Who asks, and which revision they saw."""
        seen = {"If-Match": f'"{self.random.choice((1, 1, 2, 3))}"'} if "If-Match" in case.headers else {}
        return seen | self._somebody(case.method, case.path)

    def _somebody(self, method: str, path: str) -> dict[str, str]:
        if path.endswith("/settings") and method == "PATCH":
            return bearer(self.keys["other"])
        if path.endswith("/me") and method == "DELETE":
            return bearer(self.client.token(f"gone-{self.random.randrange(1000)}"))
        who = self.random.choice(("nobody", "guest", "author", "moderator", "admin", "key", "acting"))
        if self.random.random() < 0.6:
            who = LET_IN.get((method, path), "author")
        match who:
            case "nobody":
                return {}
            case "guest":
                return bearer(self.guest)
            case "author":
                return bearer(self.client.token(self.random.choice(AUTHORS)))
            case "key":
                return bearer(self.keys["operator"])
            case "acting":
                return bearer(self.keys["operator"]) | {"Threadlog-Act-As": self.random.choice(AUTHORS)}
        return bearer(self.client.token(who, who))

    def place(self, method: str, path: str) -> dict[str, str]:
        """What the path names."""
        if path.endswith("/settings") and method == "PATCH":
            return {"site": OTHER_SITE}
        supply = self.spare if method == "DELETE" or path.endswith("/decisions") else self.comments
        thread, comment = self.random.choice(supply)
        return {"site": SITE, "thread": thread, "comment": comment}

    def link(self, path: str) -> str:
        """The token that a mail's link to this page has."""
        links = MailLinks(MasterKey(MASTER_KEY))
        if path.endswith("/confirm"):
            return links.confirm(SITE, CONFIRMING, self.address_mac)
        return links.unsubscribe(SITE, "ann", UUID(int=1))

    def sensible(self, body: dict[str, Any], thread: str) -> None:
        """Let a body that is right by its shape name what there is."""
        there = [comment for place, comment in self.comments if place == thread]
        if body.get("parent_id") and there:
            body["parent_id"] = self.random.choice(there)
        if isinstance(body.get("thread"), dict):
            body["thread"] = {"title": "A title", "url": "https://blog.example/a"}
        for name, value in (
            ("reason", "spam"),
            ("email", None),
            ("url", "https://blog.example/b"),
            ("comment_url", "{url}#{id}"),
            ("origins", ["https://blog.example"]),
            ("report_reasons", ["spam", "other"]),
            ("through", "0199b2c3-0000-7000-8000-000000000000"),
        ):
            if body.get(name) is not None:
                body[name] = value


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _wrong(case: Case) -> set[ParameterLocation]:
    """The parts of a request that are wrong by their shape, on purpose."""
    parts = {} if case.meta is None else case.meta.components
    return {place for place, part in parts.items() if part.mode is GenerationMode.NEGATIVE}


def _plain(case: Case, scene: Scene) -> None:
    """Take out of the query what chance seldom gets right, or put in what it never does."""
    if "token" in case.query:
        case.query["token"] = scene.link(case.path)
    for name in ("after", "parent", "min_version", "access_token"):
        case.query.pop(name, None)


@contextmanager
def asking(scene: Scene) -> Iterator[None]:
    """Change what schemathesis sends: the parts that are right in shape are mostly right in sense too."""

    draw = scene.random
    right: set[str] = set()

    def before_call(context: object, case: Case, kwargs: dict[str, Any]) -> None:
        wrong = _wrong(case)
        if not wrong and case.method == case.operation.method.upper():
            right.add(case.id)
        if ParameterLocation.PATH not in wrong and draw.random() < 0.95:
            named = scene.place(case.method, case.path)
            case.path_parameters.update({name: named[name] for name in case.path_parameters})
        if ParameterLocation.HEADER not in wrong:
            case.headers.pop("Threadlog-Act-As", None)
            case.headers.update(scene.headers(case))
        elif "Authorization" not in case.headers:
            case.headers.update(bearer(scene.client.token("mia", "moderator")))
        if case.path.endswith("/live"):
            case.headers["Accept"] = "application/json"  # a stream would not come to an end
        if ParameterLocation.QUERY not in wrong and draw.random() < 0.8:
            _plain(case, scene)
        if ParameterLocation.BODY not in wrong and isinstance(case.body, dict) and draw.random() < 0.7:
            scene.sensible(case.body, str(case.path_parameters.get("thread")))

    def after_call(context: object, case: Case, response: schemathesis.Response) -> None:
        scene.asked[case.operation.label, case.id in right, response.status_code] += 1

    hooks: tuple[Callable[..., None], ...] = (before_call, after_call)
    for hook in hooks:
        schemathesis.hook(hook)
    try:
        yield
    finally:
        for hook in hooks:
            unregister(hook)


def findings(scene: Scene, document: dict[str, Any], seed: int, *phases: str) -> list[str]:
    """Everything that these phases of schemathesis find."""
    scene.random.seed(seed)
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": scene.client.base,
            "request-timeout": 20,
            "continue-on-failure": True,
            "cache": {"enabled": False},
            "checks": CHECKS,
            "generation": {
                "deterministic": True,
                "database": "none",
                "no-shrink": True,
                "max-examples": EXAMPLES,
            },
            "phases": {
                name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")
            },
        }
    )
    found: list[str] = []
    with asking(scene):
        for event in from_schema(schemathesis.openapi.from_dict(document, config=config)).execute():
            match event:
                case events.ScenarioFinished():
                    found += (
                        f"{event.recorder.label}: {info.failure}\n{info.code_sample}"
                        for check in chain.from_iterable(event.recorder.checks.values())
                        if (info := check.failure_info) is not None
                    )
                case events.NonFatalError():
                    found.append(f"{event.label}: {event.value!r}")
                case events.FatalError():
                    found.append(repr(event.exception))
    return found
