"""A process that appends to two lanes, and stops itself (SIGSTOP) in the middle of a batch when told to.

`python -m tests.faults.racer '{"url": …, "name": …, "locks": "held", "pause": null}'` posts until its
standard input ends, then prints a JSON line: what each command was answered with.

`locks` takes away what keeps a lane in order, to show that the test would notice: `held` nothing, `dropped`
the lane's lock, `unguarded` also the check that the lane's head did not move.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.core.addresses import lane_of
from services.errors import ThreadlogError
from services.eventlog import appender
from services.eventlog.batch import Batch
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.queries import QUERIES
from tests.factories import Place, Writer

LANES = 2
MOST = 3_000
PAUSED_BATCH = 5
GUARD = "where lane = $1 and head = $3"


class Racer(appender.Appender):
    """An appender that stops its process once, at `pause`: after the load, or after the append."""

    def __init__(self, url: str, lane: int, pause: str | None) -> None:
        super().__init__(url, lane)
        self._pause = pause
        self._batches = 0

    def _stop_at(self, place: str) -> None:
        if place == self._pause and self._batches >= PAUSED_BATCH:
            self._pause = None
            os.kill(os.getpid(), signal.SIGSTOP)

    async def _decide(self, waiting: Sequence[Any]) -> Any:
        self._batches += 1
        attempt = await super()._decide(waiting)
        self._stop_at("loaded")
        return attempt

    async def _append(self, batch: Batch) -> None:
        await super()._append(batch)
        self._stop_at("appended")


def take_away(locks: str) -> None:
    """Replace the statements that keep a lane in order.

    A stopped session then lives on for longer, so that a slow machine does not end it before it shows.
    """
    if locks == "held":
        return
    setattr(appender, "IDLE", "10s")  # noqa: B010 - the module means it as a constant
    statements = dict(QUERIES)
    statements["take_lane"] = statements["give_lane"] = "select $1::int, $2::int"
    if locks == "unguarded":
        assert GUARD in statements["append"]
        statements["append"] = statements["append"].replace(GUARD, "where lane = $1 and $3::bigint >= 0")
    setattr(appender, "QUERIES", statements)  # noqa: B010 - the module means it as a constant


def places(name: str, lane: int) -> list[Place]:
    """Three threads of this process alone in one lane: nothing but positions is raced for."""
    found = (Place("blog", f"{name}-{number}") for number in range(1_000))
    return [place for place in found if lane_of(place.stream_id, LANES) == lane][:3]


async def run(url: str, name: str, pause: str | None) -> list[tuple[str, list[UUID]]]:
    """Post to both lanes, one command at a time in each; the answers."""
    answers: list[tuple[str, list[UUID]]] = []
    finish = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), finish.set)
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))

        async def post(lane: int) -> None:
            writers = [Writer(keyring, place) for place in places(name, lane)]
            racer = Racer(url, lane, pause if lane == 0 else None)
            await racer.start()
            for number in range(MOST):
                if finish.is_set():
                    break
                command = await writers[number % len(writers)].post(f"number {number}", by=name)
                try:
                    answer = await racer.submit(command)
                    answers.append(("Appended", [event.event_id for event in answer.events]))
                except ThreadlogError as error:
                    answers.append((f"{type(error).__name__}: {error}", [command.event_id]))
                await asyncio.sleep(0.01)  # the race is about order, not load
            await racer.stop()

        await asyncio.gather(*(post(lane) for lane in range(LANES)))
    return answers


if __name__ == "__main__":
    asked = orjson.loads(sys.argv[1])
    take_away(asked["locks"])
    sys.stdout.buffer.write(
        orjson.dumps(asyncio.run(run(asked["url"], asked["name"], asked["pause"]))) + b"\n"
    )
