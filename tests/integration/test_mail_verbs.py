"""A site's own templates, and what the doctor says of mail."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.ops.cli import app
from services.ops.exits import Exit
from tests.mailbox import BASE, FROM, mailbox

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, broker_url: str) -> Invoke:
    """Runs a verb on this test's servers; `code` is the exit code it must end with."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_BROKER_URL", broker_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"k" * 32).decode())

    def run(*arguments: str, code: Exit = Exit.DONE, given: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=given)
        assert result.exit_code == code, result.output
        return result

    return run


@contextmanager
def listening() -> Iterator[str]:
    """A mail server in a thread of its own; its URL."""
    loop = asyncio.new_event_loop()
    started: list[str] = []
    ready, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with mailbox() as box:
            started.append(box.url)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def test_a_site_s_template_is_set_shown_and_removed(invoke: Invoke, tmp_path: Path) -> None:
    invoke("site", "add", "blog")
    file = tmp_path / "subject"
    file.write_text("{{ item.actor }} auf {{ site }}")
    assert (
        invoke("site", "template", "set", "blog", "notification.subject", str(file)).stdout
        == "Ann auf blog\n"
    )
    shown = invoke("site", "template", "show", "blog", "notification.subject").stdout
    assert shown == "{{ item.actor }} auf {{ site }}\n"
    assert "notification.subject" in invoke("site", "template", "show", "blog").stdout
    [one] = json.loads(invoke("site", "template", "show", "blog", "--json").stdout)
    assert one["source"] == "{{ item.actor }} auf {{ site }}"
    again = invoke(
        "site", "template", "set", "blog", "notification.subject", "-", "--json", given="{{ site }}!"
    )
    assert json.loads(again.stdout) == {"site": "blog", "name": "notification.subject", "sample": "blog!"}
    assert invoke("site", "template", "remove", "blog", "notification.subject").stdout.startswith("removed")
    invoke("site", "template", "remove", "blog", "notification.subject", code=Exit.USAGE)
    invoke("site", "template", "show", "blog", "notification.subject", code=Exit.USAGE)


def test_a_template_that_does_not_work_is_not_stored(invoke: Invoke, tmp_path: Path) -> None:
    invoke("site", "add", "blog")
    verb = ("site", "template", "set", "blog")
    wrong = invoke(*verb, "digest.txt", "-", given="a\n{{ range(9) }}", code=Exit.USAGE)
    assert "digest.txt, line 2: Call is not taken here" in wrong.output
    invoke(*verb, "page.html", "-", given="x", code=Exit.USAGE)
    invoke(*verb, "digest.txt", str(tmp_path / "none"), code=Exit.USAGE)
    (tmp_path / "latin").write_bytes(b"\xe4")
    invoke(*verb, "digest.txt", str(tmp_path / "latin"), code=Exit.USAGE)
    invoke("site", "template", "set", "quiz", "digest.txt", "-", given="x", code=Exit.USAGE)
    assert json.loads(invoke("site", "template", "show", "blog", "--json").stdout) == []


def findings(invoke: Invoke, code: Exit) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in json.loads(invoke("doctor", "--json", code=code).stdout)}


def test_the_doctor_looks_at_mail(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("site", "add", "blog")
    assert "none is sent" in findings(invoke, Exit.DONE)["mail"]["detail"]
    with listening() as url:
        monkeypatch.setenv("THREADLOG_SMTP_URL", url)
        found = findings(invoke, Exit.FOUND)["mail"]
        assert found["detail"] == (
            "none is sent: THREADLOG_MAIL_FROM and THREADLOG_PUBLIC_URL not set, THREADLOG_SMTP_URL is"
        )
        monkeypatch.setenv("THREADLOG_MAIL_FROM", FROM)
        assert "THREADLOG_PUBLIC_URL not set" in findings(invoke, Exit.FOUND)["mail"]["detail"]
        monkeypatch.setenv("THREADLOG_PUBLIC_URL", "http://comments.example")
        assert "not https" in findings(invoke, Exit.FOUND)["mail links"]["detail"]
        monkeypatch.setenv("THREADLOG_PUBLIC_URL", BASE)
        assert findings(invoke, Exit.DONE)["mail"]["detail"] == "the mail server answers, without TLS"
    assert "Error connecting" in findings(invoke, Exit.FOUND)["mail"]["detail"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("THREADLOG_SMTP_URL", "http://mail.example"),
        ("THREADLOG_SMTP_URL", "smtp://"),
        ("THREADLOG_SMTP_URL", "smtp://mail.example:port"),
        ("THREADLOG_SMTP_URL", "smtp://user:secret@mail.example/path"),
        ("THREADLOG_MAIL_FROM", "Comments <comments@mail.example>"),
        ("THREADLOG_MAIL_FROM", "a@b\nBcc: c@d"),
        ("THREADLOG_PUBLIC_URL", "comments.example"),
        ("THREADLOG_PUBLIC_URL", "https://comments.example/?x"),
    ],
)
def test_settings_of_mail_that_are_wrong_are_refused_by_name(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    refused = invoke("site", "list", code=Exit.USAGE)
    assert f"{variable}: takes" in refused.output
    assert "secret" not in refused.output
