"""Addresses in tokens: written once, together, and never without bound."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from services.api import token_addresses
from services.api.token_addresses import TokenAddresses
from services.eventlog.contacts import Address
from tests.faults.cutting import until


class Kept:
    """Stands for the contacts: what is written to them, and whether that fails."""

    def __init__(self) -> None:
        self.batches: list[list[Address]] = []
        self.asked: list[str] = []
        self.fails = False

    async def keep_tokens(self, addresses: Collection[Address]) -> dict[Address, bool]:
        if self.fails:
            raise OSError("away")
        self.batches.append(list(addresses))
        return dict.fromkeys(addresses, True)

    async def ask(self, site: str, author_id: str, email: str) -> bool:
        self.asked.append(author_id)
        return True


class Scene:
    def __init__(self, kept: Any) -> None:
        self.kept: Kept = kept
        self.now = 0.0
        self.addresses = TokenAddresses(kept, asks=True, clock=lambda: self.now)

    async def written(self) -> list[list[str]]:
        """What `run` writes, by whom."""
        task = asyncio.create_task(self.addresses.run())
        await until(lambda: not self.addresses._waiting, "all is taken")
        await asyncio.sleep(0)  # what was taken is written
        task.cancel()
        found = [[one.author_id for one in batch] for batch in self.kept.batches]
        self.kept.batches.clear()
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene(Kept())


async def test_what_gathers_goes_together_and_what_is_known_not_again(scene: Scene) -> None:
    for _ in range(3):
        for name in ("ann", "bob"):
            scene.addresses.note("news", name, f"{name}@blog.example")
    assert await scene.written() == [["ann", "bob"]]
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == []
    scene.addresses.note("news", "ann", "ann@other.example")
    scene.addresses.note("blog", "bob", "bob@blog.example")
    assert await scene.written() == [["ann", "bob"]]


async def test_it_is_written_again_after_ten_minutes(scene: Scene) -> None:
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == [["ann"]]
    scene.now = token_addresses.HELD_S - 1
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == []
    scene.now = token_addresses.HELD_S
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == [["ann"]]


async def test_what_could_not_be_written_is_brought_by_the_next_request(scene: Scene) -> None:
    scene.kept.fails = True
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == []
    scene.kept.fails = False
    scene.addresses.note("news", "ann", "ann@blog.example")
    assert await scene.written() == [["ann"]]


async def test_a_guest_is_asked_and_nobody_else(scene: Scene) -> None:
    scene.addresses.note("news", "ann", "ann@blog.example")
    scene.addresses.note("news", "guest:1", "gil@mail.example")
    await scene.written()
    assert scene.kept.asked == ["guest:1"]


async def test_who_is_being_erased_is_not_written(scene: Scene) -> None:
    scene.addresses.note("news", "ann", "ann@blog.example")
    scene.addresses.note("news", "bob", "bob@blog.example")
    scene.addresses.forget("news", "ann")
    assert await scene.written() == [["bob"]]


async def test_neither_what_waits_nor_what_is_known_grows_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_addresses, "WAITING", 10)
    monkeypatch.setattr(token_addresses, "KNOWN", 5)
    monkeypatch.setattr(token_addresses, "AT_ONCE", 4)
    monkeypatch.setattr(token_addresses, "GATHER_S", 0.0)
    for number in range(50):
        scene.addresses.note("news", f"u-{number}", "x@blog.example")
    assert len(scene.addresses._waiting) == 10
    assert len(scene.addresses._known) == 5
    assert [len(batch) for batch in await scene.written()] == [4, 4, 2]
    scene.addresses.note("news", "u-49", "x@blog.example")  # it was not taken: so it is not known
    assert await scene.written() == [["u-49"]]
