"""`threadlog erase`, and what `doctor` says of erasures."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from services.ops.cli import app
from services.ops.exits import Exit

Invoke = Callable[..., Result]
LINES: list[dict[str, str | None]] = [
    {"id": "1", "parent_id": None, "author": "ann", "body": "by ann"},
    {"id": "2", "parent_id": "1", "author": "bob", "body": "by bob"},
]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "erased-keys"


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    redis_url: str,
    broker_url: str,
    keys_file: Path,
    tmp_path: Path,
) -> Invoke:
    """Runs a verb on this test's servers, where a thread is; `code` is the exit code it must end with."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_BROKER_URL", broker_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"k" * 32).decode())
    monkeypatch.setenv("THREADLOG_ERASED_KEYS_FILE", str(keys_file))

    def run(*arguments: str, code: Exit = Exit.DONE) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result

    file = tmp_path / "thread.jsonl"
    rows = [{**row, "created_at": f"2024-05-01T10:00:0{row['id']}Z"} for row in LINES]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("site", "add", "blog", "--secret", "a secret of thirty-two bytes, or more")
    run("import", "jsonl", str(file), "--site", "blog", "--thread", "bees")
    return run


def sql(database_url: str, statement: str, *arguments: object) -> Any:
    """What a statement answers."""

    async def ask() -> Any:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(ask())


def author(database_url: str) -> str:
    """Who wrote the thread's first comment."""
    return str(sql(database_url, "select author_id from comments where parent = 0")[0][0])


def finding(invoke: Invoke, code: Exit) -> dict[str, Any]:
    found = json.loads(invoke("doctor", "--json", code=code).stdout)
    return next(one for one in found if one["check"] == "erasures")


def test_erasing_destroys_the_key_and_writes_its_id_to_the_file(
    invoke: Invoke, database_url: str, keys_file: Path
) -> None:
    ann = author(database_url)
    assert "by ann" in invoke("log", "show", "blog", "bees", "--open").stdout
    (erasure,) = json.loads(invoke("erase", "blog", ann, "--json").stdout)
    assert (erasure["author_id"], erasure["done_at"], erasure["requested_by"]) == (ann, None, None)
    assert keys_file.read_text().startswith(erasure["key_id"])
    assert keys_file.stat().st_mode & 0o077 == 0
    opened = invoke("log", "show", "blog", "bees", "--open").stdout
    assert "by bob" in opened
    assert "by ann" not in opened
    assert "by ann" not in invoke("thread", "show", "blog", "bees", "--moderator").stdout


def test_erasing_again_and_erasing_a_stranger_change_nothing(
    invoke: Invoke, database_url: str, keys_file: Path
) -> None:
    ann = author(database_url)
    invoke("erase", "blog", ann)
    assert ann in invoke("erase", "blog", ann).stdout
    assert "nothing of nobody" in invoke("erase", "blog", "nobody").stdout
    assert len(keys_file.read_text().splitlines()) == 1
    assert json.loads(invoke("erase", "blog", "nobody", "--json").stdout) == []
    invoke("erase", "elsewhere", ann, code=Exit.USAGE)


@pytest.mark.parametrize(
    "arguments",
    [[], ["blog"], ["blog", ""], ["blog", "ann", "--list"], ["--list", "--reapply"], ["blog", "--reapply"]],
)
def test_what_names_nobody_is_refused(invoke: Invoke, arguments: list[str]) -> None:
    invoke("erase", *arguments, code=Exit.USAGE)


def test_a_person_is_found_however_their_id_is_composed(invoke: Invoke, database_url: str) -> None:
    sql(
        database_url,
        "insert into author_keys (key_id, site, author_id, wrapped)"
        " values (gen_random_uuid(), 'blog', $1, '')",
        "\u00e9x",
    )
    (erased,) = json.loads(invoke("erase", "blog", "e\u0301x", "--json").stdout)
    assert erased["author_id"] == "\u00e9x"


def test_the_erasures_are_listed_newest_first(invoke: Invoke, database_url: str) -> None:
    assert "no erasures" in invoke("erase", "--list").stdout
    bob = str(sql(database_url, "select author_id from comments where parent > 0")[0][0])
    for one in (author(database_url), bob):
        invoke("erase", "blog", one)
    listed = json.loads(invoke("erase", "--list", "blog", "--json").stdout)
    assert [one["author_id"] for one in listed] == [bob, author(database_url)]
    assert json.loads(invoke("erase", "--list", "other", "--json").stdout) == []
    assert len(json.loads(invoke("erase", "--list", "--limit", "1", "--json").stdout)) == 1


def test_a_key_that_a_backup_brought_back_is_found_and_destroyed_again(
    invoke: Invoke, database_url: str, keys_file: Path
) -> None:
    ann = author(database_url)
    ((key_id, wrapped),) = sql(
        database_url, "select key_id, wrapped from author_keys where author_id = $1", ann
    )
    invoke("erase", "blog", ann)
    assert finding(invoke, Exit.DONE)["detail"] == "1 under way"
    sql(database_url, "delete from erasures")
    sql(
        database_url,
        "update author_keys set wrapped = $2, destroyed_at = null where key_id = $1",
        key_id,
        wrapped,
    )
    with keys_file.open("a") as file:
        file.write("0199")  # a crash cut it off
    found = finding(invoke, Exit.FOUND)
    assert (found["ok"], found["next"]) == (False, "threadlog erase reapply")
    assert "1 keys live" in found["detail"]
    reapplied = json.loads(invoke("erase", "--reapply", "--json").stdout)
    assert (reapplied["keys"], len(reapplied["erased_again"])) == (1, 1)
    assert sql(database_url, "select wrapped from author_keys where key_id = $1", key_id)[0][0] is None
    assert finding(invoke, Exit.DONE)["ok"]
    assert "1 keys in the file; 0 were alive" in invoke("erase", "--reapply").stdout


def test_an_erasure_that_nobody_carries_out_is_found(invoke: Invoke, database_url: str) -> None:
    invoke("erase", "blog", author(database_url))
    sql(database_url, "update erasures set requested_at = now() - interval '11 minutes'")
    found = finding(invoke, Exit.FOUND)
    assert "1 are not carried out" in found["detail"]
    assert "threadlog worker" in found["next"]


def test_a_broken_file_is_refused(invoke: Invoke, keys_file: Path) -> None:
    keys_file.write_text("no key\n0199f0a0-0000-7000-8000-000000000000 2026-11-23T05:00:00Z\n")
    assert "line 1 names no key" in invoke("erase", "--reapply", code=Exit.USAGE).output
