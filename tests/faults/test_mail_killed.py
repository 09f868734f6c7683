"""A worker that dies with a mail on its way.

A mail is handed over at least once, and always under the same Message-ID. Who is killed after the server took
it, and before that was recorded, leaves it to be handed over again: so the reader's mailbox may be given the
same mail once more for each worker that died there, and can tell by the Message-ID that it is the same one.
At any other moment a death costs nothing but time. What a mail tells of is the same each time, but for what
may not be seen any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from services.eventlog.contacts import Contacts
from services.eventlog.preferences import AllPreferences
from tests.mailbox import BASE, FROM, Mailbox, mailbox, part
from tests.processes import Process, Threadlog, threadlog, until
from tests.writer import SITE


@dataclass(slots=True)
class Scene:
    """An API, workers one after the other, and the mail server that they hand mails to."""

    log: Threadlog
    box: Mailbox

    async def deliveries(self) -> list[dict[str, Any]]:
        rows = await self.log.parts.pool.fetch("select * from deliveries order by created_at")
        return [dict(row) for row in rows]

    async def state(self) -> tuple[str, int]:
        [delivery] = await self.deliveries()
        return delivery["state"], delivery["attempts"]

    async def run_out(self) -> None:
        """Let the claim of whoever was killed run out now."""
        await self.log.parts.pool.execute("update deliveries set next_at = now() where state = 'pending'")

    async def reply(self) -> None:
        """Ann, who wants mail at once, is replied to."""
        parts = self.log.parts
        await Contacts(parts.pool, parts.keyring).keep(SITE, "ann", "token", "ann@example.org")
        await AllPreferences(parts.pool).change(SITE, "ann", {"mail": "now"})
        root = await self.log.client.post("t", "a question", sub="ann", title="A title")
        await self.log.client.post("t", "an answer", sub="bob", to=root.json["id"])


@pytest.fixture
async def scene(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        box = await stack.enter_async_context(mailbox())
        log = await stack.enter_async_context(threadlog(database_url, redis_url, broker_url, tmp_path))
        log.settings = log.settings.model_copy(
            update={"smtp_url": SecretStr(box.url), "mail_from": FROM, "public_url": BASE}
        )
        await log.api()
        yield Scene(log, box)


def kill(worker: Process) -> None:
    """End its processes as a crash would, those first that would else end in good order after it."""
    master = psutil.Process(worker.popen.pid)
    for process in [*master.children(recursive=True), master]:
        process.kill()
    worker.popen.wait()


async def test_a_mail_that_was_taken_and_not_recorded_comes_again_under_its_message_id(scene: Scene) -> None:
    worker = scene.log.worker()
    killed: list[Process] = []

    def last_word() -> str:
        """The server takes the mail, and whoever sent it never hears of that."""
        if len(killed) < 2:
            kill(worker)
            killed.append(worker)
        return "250 OK"

    scene.box.says["DATA"] = last_word
    await scene.reply()
    await until(lambda: _count(scene), "the mail is taken", lambda taken: taken == 1, 60)
    assert await scene.state() == ("pending", 1)
    worker = scene.log.worker()
    await scene.run_out()
    await until(lambda: _count(scene), "the mail is taken again", lambda taken: taken == 2, 60)
    assert await scene.state() == ("pending", 2)
    worker = scene.log.worker()
    await scene.run_out()
    await until(scene.state, "it is recorded", lambda state: state == ("sent", 3), 60)
    # Once for each that died, and once: all the same mail, as the reader's mailbox can tell.
    assert len(scene.box.mails) == len(killed) + 1
    assert len(set(scene.box.ids)) == 1
    assert len({part(mail, "plain") for mail in scene.box.mails}) == 1
    assert worker.alive


async def test_a_worker_killed_before_the_server_has_the_mail_costs_nothing_but_time(scene: Scene) -> None:
    worker = scene.log.worker()
    killed: list[Process] = []

    def die() -> str:
        if not killed:
            killed.append(worker)
            kill(worker)
        return "250 OK"

    scene.box.says["RCPT"] = die
    await scene.reply()

    async def dead() -> bool:
        return bool(killed)

    await until(dead, "the worker is killed", within=60)
    assert await scene.state() == ("pending", 1)
    assert scene.box.mails == []
    scene.log.worker()
    await scene.run_out()
    await until(scene.state, "it is recorded", lambda state: state == ("sent", 2), 60)
    assert len(scene.box.mails) == 1


async def _count(scene: Scene) -> int:
    await asyncio.sleep(0)
    return len(scene.box.mails)
