"""The verbs on a real Postgres and a real Redis-compatible server, in this process."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
import redis
from typer.testing import CliRunner, Result

from services.dev.servers import EmbeddedRedis
from services.ops.cli import app
from services.ops.exits import Exit
from tests.databases import Databases

Invoke = Callable[..., Result]
SECRET = "a secret of thirty-two bytes, or more"
LINES: list[dict[str, str | None]] = [
    {"id": "1", "parent_id": None, "author": "ann", "body": "as *written*"},
    {"id": "2", "parent_id": "1", "author": "bob", "body": "an answer"},
    {"id": "3", "parent_id": "2", "author": "ann", "body": "and one to it"},
    {"id": "4", "parent_id": "9", "author": "cem", "body": "an answer to what is gone"},
]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, broker_url: str) -> Invoke:
    """Runs a verb on this test's servers; `code` is the exit code it must end with."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_BROKER_URL", broker_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"k" * 32).decode())

    def run(*arguments: str, code: Exit = Exit.DONE) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def thread(invoke: Invoke, tmp_path: Path) -> str:
    """A thread of five comments on the site `blog`, one of them a placeholder; its key."""
    file = tmp_path / "thread.jsonl"
    rows = [{**row, "created_at": f"2024-05-01T10:00:0{row['id']}Z"} for row in LINES]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    invoke("site", "add", "blog", "--secret", SECRET)
    invoke("import", "jsonl", str(file), "--site", "blog", "--thread", "on/bees")
    return "on/bees"


def execute(url: str, statement: str, *arguments: Any) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    asyncio.run(run())


# --- migrate ----------------------------------------------------------------------------------------------


def test_migrate_check_tells_whether_the_database_is_behind(
    invoke: Invoke, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLOG_DATABASE_URL", databases.create_empty())
    assert "run `threadlog migrate`" in invoke("migrate", "--check", code=Exit.FOUND).stdout
    assert json.loads(invoke("migrate", "--json").stdout)["applied"][0] == "0001_log"
    assert invoke("migrate").stdout == "up to date\n"
    assert json.loads(invoke("migrate", "--check", "--json").stdout) == {"missing": []}


def test_verbs_refuse_an_older_schema_and_name_the_way_out(
    invoke: Invoke, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLOG_DATABASE_URL", databases.create_empty())
    assert "run `threadlog migrate`" in invoke("site", "list", code=Exit.FAILED).stderr
    assert "threadlog migrate" in invoke("doctor", code=Exit.FOUND).stdout


# --- site and token ---------------------------------------------------------------------------------------


def test_site_add_prints_the_secret_that_tokens_are_signed_with(invoke: Invoke) -> None:
    secret = invoke("site", "add", "blog").stdout.strip()
    token = invoke("token", "blog", "ann", "--name", "Ann", "--role", "moderator", "--expires", "60").stdout
    claims = jwt.decode(token.strip(), secret, algorithms=["HS256"], issuer="blog")
    del claims["exp"]
    assert claims == {"iss": "blog", "sub": "ann", "name": "Ann", "roles": ["moderator"]}
    assert [row["site"] for row in json.loads(invoke("site", "list", "--json").stdout)] == ["blog"]


def test_site_add_takes_a_secret_and_never_prints_it_again(invoke: Invoke) -> None:
    assert SECRET not in invoke("site", "add", "blog", "--secret", SECRET).output
    token = invoke("token", "blog", "ann").stdout.strip()
    assert jwt.decode(token, SECRET, algorithms=["HS256"], issuer="blog")["sub"] == "ann"
    assert "exists already" in invoke("site", "add", "blog", code=Exit.USAGE).stderr
    assert "32 bytes" in invoke("site", "add", "other", "--secret", "short", code=Exit.USAGE).stderr


def test_a_token_for_a_site_that_is_not_there_is_refused(invoke: Invoke) -> None:
    assert "no site 'nowhere'" in invoke("token", "nowhere", "ann", code=Exit.USAGE).stderr


# --- log and thread ---------------------------------------------------------------------------------------


def test_log_show_prints_a_thread_and_opens_it_on_demand(invoke: Invoke, thread: str) -> None:
    shown = invoke("log", "show", "blog", thread).stdout
    assert len(shown.splitlines()) == 5
    assert "an answer" not in shown
    assert 'body="an answer"' in invoke("log", "show", "blog", thread, "--open").stdout
    events = [
        json.loads(line) for line in invoke("log", "show", "blog", thread, "--json").stdout.splitlines()
    ]
    assert [event["version"] for event in events] == [1, 2, 3, 4, 5]
    assert "opened" not in events[0]


def test_log_tail_begins_where_it_is_asked_to(invoke: Invoke, thread: str) -> None:
    lines = invoke("log", "tail", "--lines", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [4, 5]
    assert invoke("log", "tail", "--lines", "0").stdout == ""


def test_log_stats_counts_the_events_by_type(invoke: Invoke, thread: str) -> None:
    stats = json.loads(invoke("log", "stats", "--json").stdout)
    assert (stats["events"], stats["threads"], stats["lanes"]) == (5, 1, {"0": 5})
    assert {name: row["events"] for name, row in stats["types"].items()} == {
        "CommentPosted": 2,
        "ReplyPosted": 3,
    }
    assert "ReplyPosted" in invoke("log", "stats", "--site", "blog").stdout
    assert json.loads(invoke("log", "stats", "--site", "other", "--json").stdout)["events"] == 0


def test_a_thread_without_events_is_wrong_usage(invoke: Invoke, thread: str) -> None:
    for verb in (("log", "show"), ("thread", "show")):
        assert "has no events" in invoke(*verb, "blog", "nothing", code=Exit.USAGE).stderr
        assert "no site 'none'" in invoke(*verb, "none", thread, code=Exit.USAGE).stderr


def test_thread_show_prints_the_tree(invoke: Invoke, thread: str) -> None:
    lines = invoke("thread", "show", "blog", thread).stdout.splitlines()
    assert "version 5" in lines[0]
    assert sorted(lines[1:]) == sorted(
        [
            "• ann: as *written*",
            "  • bob: an answer",
            "    • ann: and one to it",
            "• [deleted]",
            "  • cem: an answer to what is gone",
        ]
    )


def test_thread_show_goes_on_where_pages_end(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    parents = {
        number: None if number < 130 else 1 if number < 190 else number - 1 for number in range(1, 240)
    }
    rows = [
        {
            "id": str(number),
            "parent_id": None if parent is None else str(parent),
            "author": "ann",
            "created_at": f"2024-05-01T10:{number // 60:02}:{number % 60:02}Z",
            "body": f"number {number}",
        }
        for number, parent in parents.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    invoke("site", "add", "blog")
    invoke("import", "jsonl", str(file), "--site", "blog", "--thread", "large")
    lines = invoke("thread", "show", "blog", "large").stdout.splitlines()[1:]
    said = [line.rpartition(" ")[2] for line in lines]
    assert sorted(map(int, said)) == list(range(1, 240))
    assert lines[-1] == "• ann: number 129"
    depths = {int(line.rpartition(" ")[2]): (len(line) - len(line.lstrip())) // 2 for line in lines}
    assert depths[239] == 51
    few = invoke("thread", "show", "blog", "large", "--limit", "3", "--json").stdout
    assert json.loads(few)["after"] is not None


# --- replay and verify ------------------------------------------------------------------------------------


def test_verify_finds_what_was_changed_behind_its_back_and_replay_repairs_it(
    invoke: Invoke, thread: str, database_url: str
) -> None:
    one = ("--site", "blog", "--thread", thread)
    assert invoke("verify", *one).stdout == "identical: 1 thread\n"
    execute(database_url, "update comments set state = 'hidden' where posted = 2")
    found = json.loads(invoke("verify", *one, "--json", code=Exit.FOUND).stdout)
    assert found["identical"] is False
    (difference,) = found["differences"]
    assert (difference["kind"], difference["stored"], difference["replayed"]) == (
        "comments",
        "hidden",
        "visible",
    )
    assert "next: threadlog replay" in invoke("verify", "--all", code=Exit.FOUND).stdout
    replayed = json.loads(invoke("replay", *one, "--json").stdout)
    assert (replayed["threads"], replayed["events"], replayed["rows_changed"]) == (1, 5, 1)
    assert "every hash chain holds" in invoke("verify", "--all", "--chain").stdout


def test_verify_finds_what_was_changed_in_the_view(invoke: Invoke, thread: str, redis_url: str) -> None:
    invoke("thread", "show", "blog", thread)
    with redis.Redis.from_url(redis_url) as client:
        (descendants,) = client.keys("tl:*:d")
        first = (1).to_bytes(4, "big")
        record = client.hget(descendants, first)
        assert isinstance(record, bytes)
        below = int.from_bytes(record[4:8], "big") + 1
        client.hset(descendants, first, record[:4] + below.to_bytes(4, "big") + record[8:])
    found = invoke("verify", "--site", "blog", code=Exit.FOUND).stdout
    assert "(version 1): descendants: stored 3, replayed 2" in found
    assert "1 of 1 thread differ" in found
    invoke("replay", "--all")
    invoke("verify", "--all")


def test_verify_finds_a_broken_chain(invoke: Invoke, thread: str, database_url: str) -> None:
    execute(database_url, "alter table events disable trigger user")
    execute(
        database_url,
        "do $$ declare p text; begin for p in select inhrelid::regclass::text from pg_inherits "
        "where inhparent = 'events'::regclass loop execute 'alter table ' || p || ' disable trigger user'; "
        "end loop; end $$",
    )
    execute(database_url, "update events set actor_id = 'mallory' where version = 3")
    found = json.loads(invoke("verify", "--all", "--chain", "--json", code=Exit.FOUND).stdout)
    assert [one["kind"] for one in found["differences"]] == ["chain", "comments"]
    assert found["differences"][0]["path"] == "version 3"
    assert found["differences"][1]["path"].endswith("(version 3): author_id")


def test_a_dry_replay_changes_nothing(invoke: Invoke, thread: str, redis_url: str) -> None:
    assert "1 threads, 5 events; nothing was changed" in invoke("replay", "--all", "--dry-run").stdout
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("tl:*:head") == []


# --- lag and doctor ---------------------------------------------------------------------------------------


def test_lag_tells_of_lanes_queues_and_dead_letters(invoke: Invoke, thread: str, database_url: str) -> None:
    seen = json.loads(invoke("lag", "--json").stdout)
    (lane,) = seen["lanes"]
    assert (lane["head"], lane["behind"], lane["notified"]) == (5, 1, 0)
    assert lane["seconds"] > 0
    assert seen["queues"].keys() == {"project", "notify", "fan_out", "replay"}
    execute(
        database_url,
        "insert into dead_letters (projection, stream_id, version, event_id, reason, build) "
        "select 'view', stream_id, 3, stream_id, 'is odd', '0' from streams",
    )
    printed = invoke("lag", code=Exit.FOUND).stdout
    assert "is odd" in printed
    assert thread in printed
    assert "threadlog dead-letters list" in invoke("doctor", code=Exit.FOUND).stdout


def test_the_doctor_is_content_with_a_healthy_installation(invoke: Invoke, thread: str) -> None:
    findings = json.loads(invoke("doctor", "--json").stdout)
    assert all(one["ok"] for one in findings)
    assert {one["check"] for one in findings} == {
        "configuration",
        "postgres",
        "durability",
        "clock",
        "schema",
        "partitions",
        "keys",
        "erasures",
        "views",
        "broker",
        "sites",
        "lag",
        "dead letters",
        "deliveries",
        "mail",
        "webhooks",
    }


def test_the_doctor_finds_a_budget_that_the_views_server_cannot_reach(
    invoke: Invoke,
    thread: str,
    monkeypatch: pytest.MonkeyPatch,
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    monkeypatch.setenv("THREADLOG_REDIS_URL", start_redis(settings={"maxmemory": "64mb"}).url())
    invoke("doctor")
    monkeypatch.setenv("THREADLOG_VIEWS_MEMORY_MB", "64")
    found = {one["check"]: one for one in json.loads(invoke("doctor", "--json", code=Exit.FOUND).stdout)}
    assert not found["views"]["ok"]
    assert "THREADLOG_VIEWS_MEMORY_MB" in found["views"]["next"]


def test_the_doctor_finds_the_wrong_master_key(
    invoke: Invoke, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"x" * 32).decode())
    found = {one["check"]: one for one in json.loads(invoke("doctor", "--json", code=Exit.FOUND).stdout)}
    assert not found["keys"]["ok"]
    assert "THREADLOG_MASTER_KEY" in found["keys"]["next"]
    assert "THREADLOG_MASTER_KEY" in invoke("token", "blog", "ann", code=Exit.USAGE).stderr


def test_the_doctor_finds_missing_partitions(invoke: Invoke, thread: str, database_url: str) -> None:
    execute(
        database_url,
        "do $$ declare p text; begin for p in select inhrelid::regclass::text from pg_inherits "
        "where inhparent = 'idempotency'::regclass and inhrelid::regclass::text <> 'idempotency_later' "
        "loop execute 'drop table ' || p; end loop; end $$",
    )
    assert "those of Idempotency-Keys are missing" in invoke("doctor", code=Exit.FOUND).stdout
    invoke("migrate")
    invoke("doctor")
