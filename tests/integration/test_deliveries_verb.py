"""`threadlog deliveries`, `threadlog site webhook`, and what `lag` and `doctor` say of them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

from services.eventlog.deliveries import Dead, Deliveries, Outcome, Sent
from services.eventlog.endpoints import ENDPOINTS
from services.eventlog.queries import QUERIES
from services.ops.cli import app
from services.ops.exits import Exit

Invoke = Callable[..., Result]
URL = "https://blog.example/hooks"
UNKNOWN = "0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55"
ABOUT = '{"comment_id": "0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55", "recipients": [["ann", "reply"]]}'


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, broker_url: str) -> Invoke:
    """Runs a verb where there is a site `blog`; `code` is the exit code it must end with."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_BROKER_URL", broker_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"k" * 32).decode())

    def run(*arguments: str, code: Exit | None = Exit.DONE) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert code is None or result.exit_code == code, result.output
        return result

    run("site", "add", "blog", "--secret", "a secret of thirty-two bytes, or more")
    return run


def added(invoke: Invoke, url: str = URL, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        invoke("site", "webhook", "add", "blog", url, *options, "--json").stdout
    )
    return found


def listed(invoke: Invoke) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(invoke("site", "webhook", "list", "blog", "--json").stdout)
    return found


def told(database_url: str, outcome: Outcome | None = None) -> None:
    """Enter what the site's endpoints are to be told, and record what came of it."""

    async def tell() -> None:
        async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
            await pool.execute(QUERIES["enter_webhooks"], ["blog"], [UUID(UNKNOWN)], [ABOUT], [""])
            if outcome is not None:
                for one in await Deliveries(pool).claim("webhook", 10, 60):
                    await Deliveries(pool).record(one, outcome, 0.5)

    asyncio.run(tell())


# --- endpoints ---------------------------------------------------------------------------------------------


def test_an_endpoint_has_a_secret_that_is_shown_once(invoke: Invoke) -> None:
    secret = invoke("site", "webhook", "add", "blog", URL, "--owner", "me@b.example").stdout.strip()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    Webhook(secret)
    (one,) = listed(invoke)
    assert (one["url"], one["owner"], one["failures"], one["disabled_at"]) == (URL, "me@b.example", 0, None)
    for arguments in ((), ("--json",)):
        shown = invoke("site", "webhook", "list", "blog", *arguments).output
        assert secret.removeprefix("whsec_") not in shown
    new = json.loads(invoke("site", "webhook", "rotate-secret", "blog", one["id"], "--json").stdout)
    assert new["secret"] != secret
    assert new["both_sign_seconds"] == 86_400
    assert f"removed {URL}" in invoke("site", "webhook", "remove", "blog", one["id"]).stdout
    assert "adds one" in invoke("site", "webhook", "list", "blog").stdout


@pytest.mark.parametrize(
    "url", ["blog.example", "ftp://blog.example/", "http://10.0.0.1/", "https://a:b@c.example/"]
)
def test_an_address_out_of_shape_is_refused(invoke: Invoke, url: str) -> None:
    invoke("site", "webhook", "add", "blog", url, code=Exit.USAGE)
    assert listed(invoke) == []


def test_http_is_taken_where_there_are_networks_for_it(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLOG_WEBHOOK_ALLOW_PRIVATE", "10.0.0.0/8")
    assert added(invoke, "http://10.0.0.1/")["url"] == "http://10.0.0.1/"


def test_what_is_not_there_is_refused(invoke: Invoke) -> None:
    invoke("site", "webhook", "add", "nowhere", URL, code=Exit.USAGE)
    invoke("site", "webhook", "list", "nowhere", code=Exit.USAGE)
    invoke("site", "webhook", "add", "blog", URL, "--owner", "nobody", code=Exit.USAGE)
    for verb in ("remove", "enable", "rotate-secret"):
        refused = invoke("site", "webhook", verb, "blog", UNKNOWN, code=Exit.USAGE)
        assert f"no endpoint {UNKNOWN}" in refused.stderr
    invoke("deliveries", "show", UNKNOWN, code=Exit.USAGE)
    invoke("deliveries", "retry", UNKNOWN, code=Exit.USAGE)
    invoke("deliveries", "list", "--site", "nowhere", code=Exit.USAGE)


def test_a_site_has_only_so_many_endpoints(invoke: Invoke, database_url: str) -> None:
    added(invoke)

    async def fill() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "insert into webhook_endpoints (endpoint_id, site, url, wrapped)"
            " select gen_random_uuid(), site, url, wrapped from webhook_endpoints, generate_series(2, $1)",
            ENDPOINTS,
        )
        await connection.close()

    asyncio.run(fill())
    refused = invoke("site", "webhook", "add", "blog", URL, code=Exit.USAGE)
    assert f"blog has {ENDPOINTS} endpoints" in refused.stderr


# --- deliveries --------------------------------------------------------------------------------------------


def test_deliveries_are_listed_shown_and_retried(invoke: Invoke, database_url: str) -> None:
    assert "no deliveries" in invoke("deliveries", "list").stdout
    endpoint = added(invoke)["id"]
    told(database_url)
    (one,) = [json.loads(line) for line in invoke("deliveries", "list", "--json").stdout.splitlines()]
    assert (one["state"], one["endpoint_id"], one["attempts"]) == ("pending", endpoint, 0)
    told(database_url, Dead("404 Not Found"))
    dead = invoke(
        "deliveries", "list", "--site", "blog", "--state", "dead", "--channel", "webhook", code=Exit.FOUND
    )
    assert one["id"] in dead.stdout
    assert "404 Not Found" in dead.stdout
    assert "no deliveries" in invoke("deliveries", "list", "--channel", "mail").stdout
    shown = invoke("deliveries", "show", one["id"], code=Exit.FOUND).stdout
    assert f"next: threadlog deliveries retry {one['id']}" in shown
    assert json.loads(invoke("deliveries", "show", one["id"], "--json", code=Exit.FOUND).stdout)[
        "about"
    ] == json.loads(ABOUT)
    assert "1 go again" in invoke("deliveries", "retry", one["id"]).stdout
    again = json.loads(invoke("deliveries", "show", one["id"], "--json").stdout)
    assert (again["state"], again["attempts"], again["reason"]) == ("pending", 0, None)
    told(database_url, Sent())
    refused = invoke("deliveries", "retry", one["id"], code=Exit.USAGE)
    assert "was sent" in refused.stderr


def test_all_dead_ones_of_a_site_are_retried(invoke: Invoke, database_url: str) -> None:
    added(invoke)
    added(invoke, URL + "/2")
    told(database_url, Dead("no"))
    assert json.loads(invoke("deliveries", "retry", "--dead", "--site", "blog", "--json").stdout) == {
        "retried": 2
    }
    assert "no dead deliveries" in invoke("deliveries", "retry", "--dead", "--site", "blog").stdout
    for wrong in ((), ("--dead",), (UNKNOWN, "--dead", "--site", "blog"), (UNKNOWN, "--site", "blog")):
        invoke("deliveries", "retry", *wrong, code=Exit.USAGE)


def test_lag_and_doctor_tell_of_what_is_not_delivered(invoke: Invoke, database_url: str) -> None:
    endpoint = added(invoke)["id"]
    told(database_url, Dead("no"))

    async def off() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "update webhook_endpoints set disabled_at = now(), disabled_reason = 'no tea'"
        )
        await connection.close()

    def checks() -> dict[str, dict[str, Any]]:
        return {one["check"]: one for one in json.loads(invoke("doctor", "--json", code=None).stdout)}

    assert checks()["webhooks"]["ok"]
    asyncio.run(off())
    lag = invoke("lag").stdout
    assert (
        "deliveries by webhook: 0 due, the oldest for 0 s, 1 dead (threadlog deliveries list --state dead)"
        in lag
    )
    assert f"endpoint off: blog {URL} (threadlog site webhook list blog)" in lag
    told_of = json.loads(invoke("lag", "--json").stdout)
    assert [one["dead"] for one in told_of["deliveries"]] == [0, 1]
    assert [one["id"] for one in told_of["endpoints_off"]] == [endpoint]
    found = checks()
    assert found["deliveries"]["next"] == "threadlog deliveries list --state dead --channel webhook"
    assert found["webhooks"]["next"] == f"threadlog site webhook enable blog {endpoint}"
    enabled = invoke("site", "webhook", "enable", "blog", endpoint)
    assert "threadlog deliveries retry --dead --site blog --channel webhook" in enabled.stderr
    assert checks()["webhooks"]["ok"]
    invoke("deliveries", "retry", "--dead", "--site", "blog")
    assert checks()["deliveries"]["ok"]
