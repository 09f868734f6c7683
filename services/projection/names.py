"""Who bears which name in a thread, and whom its comments name: a fold of the log and of the texts in it.

Names are personal and lie in the log sealed. The database knows them by keyed digests, bound to the thread,
so that whoever reads it learns neither a name nor who bears the same one elsewhere. A text whose key is
destroyed names nobody any more, and nobody bears a name that only such texts know.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.mentions import MENTIONS, Named, folded, named_in, people
from services.core.recipients import IMPORTED
from services.core.tellable import Step
from services.eventlog.keys import AuthorKey, Keyring
from services.projection.fold import open_text

PURPOSE: Final = "participants"
"""What the digests' key is derived for."""
_MAC: Final = 16


@dataclass(frozen=True, slots=True)
class Said:
    """A text as far as names go: the digest of its author's name (None in an edit), and what it names, with
    the digest of each name that it may mean. `closed`: its key is not there, so that it says nothing."""

    name: bytes | None = None
    named: tuple[Named, ...] = ()
    macs: Mapping[str, bytes] = field(default_factory=dict)
    closed: bool = False


NOTHING: Final = Said()
CLOSED: Final = Said(closed=True)


@dataclass(frozen=True, slots=True)
class Mentioned:
    """Whom a comment's text at `version` names, and whom only earlier texts of it named. Both together are no
    more than one comment may name."""

    version: int
    people: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


class Reading:
    """Opens texts and reads the names in them."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._secret = keyring.master.derived(PURPOSE)

    async def keys(self, events: Iterable[Recorded]) -> dict[UUID, AuthorKey]:
        """The living ones of the keys that these events are sealed under."""
        return await self._keyring.by_id({event.key_id for event in events if event.key_id is not None})

    def read(self, event: Recorded, keys: Mapping[UUID, AuthorKey]) -> Said:
        """What the text of an event says of names. Raises PoisonEvent where it does not open."""
        if event.sealed is None:
            return NOTHING
        text = open_text(event, keys)
        if text is None:
            return CLOSED
        name, named = text.get("name"), named_in(text["body"])
        if name is None and not named:
            return NOTHING
        return Said(
            None if name is None else self._mac(event.stream_id, folded(name)),
            named,
            {each: self._mac(event.stream_id, each) for one in named for each in one.names} if named else {},
        )

    def _mac(self, stream_id: UUID, name: str) -> bytes:
        return hmac.digest(self._secret, stream_id.bytes + name.encode(), "sha256")[:_MAC]


class ThreadNames:
    """The names of one thread, folded up to some version. What is stored of them may be put in first."""

    def __init__(self) -> None:
        self.bearers: dict[bytes, dict[str, int]] = {}
        """Of each name its bearers, each with the version of their last comment under it."""
        self.mentioned: dict[UUID, Mentioned] = {}
        self._at: dict[int, tuple[bytes, str]] = {}
        self.met: set[tuple[bytes, str]] = set()
        """Names and their bearers that this fold has met."""
        self.touched: set[UUID] = set()
        """Comments whose mentions this fold has changed."""
        self.erased: dict[UUID, int] = {}
        """Comments that were erased, and the version that posted each."""
        self.closed: dict[int, str | None] = {}
        """The versions of the texts that are not to be opened any more, and who wrote them."""
        self.unsure: set[UUID] = set()
        """Comments of which it is not known for sure any more whom they named: by a name, behind a text that
        is closed, whose author may have borne it."""

    def fold(self, step: Step, said: Said) -> tuple[str, ...]:
        """Take in one event, in the order of the log; whom its text names that no text of the comment named
        before."""
        if step.what == "erase":
            self._erase(step)
            return ()
        if step.what not in ("post", "edit"):
            return ()
        if said.closed:
            self.closed[step.event.version] = step.event.actor_id
            self.unsure.add(step.comment_id)
            return ()
        new = self._mention(step, said)
        author = step.event.actor_id
        if said.name is not None and author is not None and not author.startswith(IMPORTED):
            self.bear(said.name, author, step.event.version)
            self.met.add((said.name, author))
        return new

    def bear(self, name: bytes, author: str, version: int) -> None:
        """`author` bears this name since `version`: the last of its bearers."""
        bearers = self.bearers.setdefault(name, {})
        if (before := bearers.pop(author, None)) is not None:
            del self._at[before]
        bearers[author] = version
        self._at[version] = (name, author)

    def _mention(self, step: Step, said: Said) -> tuple[str, ...]:
        was = self.mentioned.get(step.comment_id)
        if not said.named and was is None:
            return ()
        now = people(said.named, self._bearer(said.macs))
        known = dict.fromkeys(() if was is None else (*was.people, *was.before))
        new = [person for person in now if person not in known][: MENTIONS - len(known)]
        named = tuple(person for person in now if person in known or person in new)
        if was is not None or named:
            before = tuple(person for person in known if person not in named)
            self.mentioned[step.comment_id] = Mentioned(step.event.version, named, before)
            self.touched.add(step.comment_id)
        if self.closed and said.macs:
            self.unsure.add(step.comment_id)
        return tuple(new)

    def _bearer(self, macs: Mapping[str, bytes]) -> Callable[[str], str | None]:
        def bears(name: str) -> str | None:
            bearers = self.bearers.get(macs[name])
            return next(reversed(bearers)) if bearers else None

        return bears

    def _erase(self, step: Step) -> None:
        self.erased[step.comment_id] = step.posted
        self.mentioned.pop(step.comment_id, None)
        self.touched.discard(step.comment_id)
        if (borne := self._at.pop(step.posted, None)) is not None:
            name, author = borne
            del self.bearers[name][author]
            self.met.discard(borne)
