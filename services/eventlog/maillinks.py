"""The links in mails, signed, so that they need no sign-in: who has the mail may stop the mails.

Links to unsubscribe never expire: a mail is found again after years, and must still be of use. One that
confirms an address does, after CONFIRM_DAYS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer

from services.eventlog.keys import MasterKey

CONFIRM_DAYS: Final = 7
TOKEN: Final = 2_048
"""Characters of a token, at most."""

_PURPOSE: Final = "mail links"


@dataclass(frozen=True, slots=True)
class Unsubscribing:
    """Whose mails are to end; `thread` is the one that the mail was about, if it was about one."""

    author_id: str
    thread: UUID | None


@dataclass(frozen=True, slots=True)
class Confirming:
    """Whose address is to count, and which one, by its digest."""

    author_id: str
    mac: str


class MailLinks:
    """Makes and reads the tokens of links. Each is of use at its own site alone."""

    def __init__(self, master: MasterKey) -> None:
        # The last one signs, any may have signed.
        keys = [*master.also_derived(_PURPOSE), master.derived(_PURPOSE)]
        self._unsubscribe = URLSafeSerializer(keys, salt=b"unsubscribe")
        self._confirm = URLSafeTimedSerializer(keys, salt=b"confirm")

    def unsubscribe(self, site: str, author_id: str, thread: UUID | None = None) -> str:
        """The token by which somebody's mails end."""
        token = self._unsubscribe.dumps([site, author_id, None if thread is None else thread.hex])
        return str(token)

    def unsubscribing(self, site: str, token: str) -> Unsubscribing | None:
        """What a token of `unsubscribe` says; None where it is none of this site's."""
        try:
            of, author_id, thread = self._unsubscribe.loads(token[:TOKEN])
        except BadData:
            return None
        return Unsubscribing(author_id, None if thread is None else UUID(thread)) if of == site else None

    def confirm(self, site: str, author_id: str, mac: str) -> str:
        """The token by which an address is confirmed."""
        return str(self._confirm.dumps([site, author_id, mac]))

    def confirming(self, site: str, token: str) -> Confirming | None:
        """What a token of `confirm` says; None where it is none of this site's, or too old."""
        try:
            of, author_id, mac = self._confirm.loads(token[:TOKEN], max_age=CONFIRM_DAYS * 86_400)
        except BadData:
            return None
        return Confirming(author_id, mac) if of == site else None
