"""The API does what `/openapi.json` says: schemathesis asks a real process whatever the description allows
and forbids, as everyone there is, of things that are there and things that are not.

Each answer must have a described status, code, content type, shape and headers; what the description forbids
must be refused; and no answer is a 5xx. `THREADLOG_TEST_EXAMPLES` asks for more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.api.openapi import describe
from services.api.problems import CODES
from services.api.route_codes import codes_by_status
from services.api.routes import ROUTES
from services.eventlog.contacts import Contacts
from tests.contract.asking import AUTHORS, CONFIRMING, OTHER_SITE, THREADS, Scene, findings
from tests.processes import SECRET, S, Threadlog, threadlog
from tests.writer import SITE


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        await started.api()
        yield started


@pytest.fixture
async def scene(running: Threadlog) -> Scene:
    client, parts = running.client, running.parts
    await parts.sites.add(OTHER_SITE, SECRET)
    keys = {
        "operator": (await parts.credentials.add_key(SITE, ["operator"])).key,
        "other": (await parts.credentials.add_key(OTHER_SITE, ["admin"])).key,
    }
    changed = await client.send("PATCH", f"{S}/settings", {"guests": True}, sub="root", roles=("admin",))
    assert changed.status == 200, changed.raw
    joined = await client.send("POST", f"{S}/guests", {"name": "Gil"})
    assert joined.status == 201, joined.raw
    made: list[tuple[str, str]] = []
    for number in range(90):
        thread = THREADS[number % len(THREADS)]
        to = made[-len(THREADS)][1] if number % 4 == 3 else None
        answer = await client.post(thread, f"text *{number}*", sub=AUTHORS[number % 2], to=to)
        made.append((thread, answer.json["id"]))
    comments, spare = made[:60], made[60:]
    for (thread, comment), sub, roles in ((made[0], "ann", ()), (made[1], "mia", ("moderator",))):
        path = f"{S}/threads/{thread}/comments/{comment}"
        assert (await client.send("DELETE", path, sub=sub, roles=roles)).status == 204
    contacts = Contacts(parts.pool, parts.keyring)
    await contacts.keep(SITE, CONFIRMING, "given", "eve@mail.example")
    (address,) = await contacts.all(SITE, CONFIRMING)
    return Scene(client, keys, joined.json["token"], comments, spare, address.mac)


def shares(asked: Counter[tuple[str, bool, int]]) -> dict[bool, Counter[str]]:
    """How many answers of each class there were to requests of the described shape, and to others."""
    found = {True: Counter[str](), False: Counter[str]()}
    for (_, right, status), count in asked.items():
        found[right][f"{status // 100}xx"] += count
    return found


def test_the_description_is_openapi() -> None:
    OpenAPIV31SpecValidator(json.loads(describe(ROUTES))).validate()


def test_every_code_is_one_that_some_route_answers_with() -> None:
    described = {code for route in ROUTES for codes in codes_by_status(route).values() for code in codes}
    # A method that is not there is no route's, and a fault is nobody's promise.
    assert described == set(CODES) - {"method-not-allowed", "internal"}


async def asked(running: Threadlog, scene: Scene, seed: int, *phases: str) -> Counter[str]:
    """Ask, and assert that nothing was found; the answers by class to requests of the described shape."""
    described = (await scene.client.get("/openapi.json")).json
    found = findings(scene, described, seed, *phases)  # alone: it draws from `random`
    told = shares(scene.asked)
    print(f"{scene.asked.total()} answers: {told}")  # noqa: T201 - for pytest -s
    assert not found, "\n\n".join(found[:20])
    assert "request failed" not in running.processes[0].said
    return told[True]


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_edges_of_every_parameter_are_answered_as_described(
    running: Threadlog, scene: Scene, seed: int
) -> None:
    told = await asked(running, scene, seed, "coverage")
    assert scene.asked.total() >= 1000
    assert told["2xx"] >= 0.4 * told.total(), told


async def test_whatever_the_description_allows_is_answered_as_described(
    running: Threadlog, scene: Scene
) -> None:
    told = await asked(running, scene, 3, "fuzzing", "stateful")
    # and it could be answered: a run that meets nothing but refusals shows nothing
    assert scene.asked.total() >= 500
    assert told["2xx"] >= 0.5 * told.total(), told
    done = {operation for operation, right, status in scene.asked if right and status < 300}
    assert done == {f"{route.method} {route.path}" for route in ROUTES}
