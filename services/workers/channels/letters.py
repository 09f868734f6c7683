"""A mail as it is sent: its headers, and its text as plain text and as HTML.

Names and titles are other people's words. On their way into a header they become one line without invisible
and direction-changing characters, of bounded length; addresses are quoted by the standard library, not by
hand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address, BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.policy import Policy
from email.utils import format_datetime
from typing import Final

LINE: Final = 150
"""Characters of a subject or a name, at most."""

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_KEPT: Final = frozenset("\u200d")
"""Format characters that join what is one: an emoji of several."""
_DOMAIN: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class _AsItIs(UnstructuredHeader, BaseHeader):
    """A header whose long words stay whole: folded, they would be encoded, and no reader takes that for an
    address or an id."""

    def fold(self, *, policy: Policy) -> str:
        return f"{self.name}: {self}{policy.linesep}"


def _registry() -> HeaderRegistry:
    registry = HeaderRegistry()
    for name in ("message-id", "in-reply-to", "references", "list-id", "list-unsubscribe"):
        registry.map_to_type(name, _AsItIs)
    return registry


_POLICY: Final = SMTP_POLICY.clone(header_factory=_registry())


@dataclass(frozen=True, slots=True)
class Letter:
    """What is to be sent. `headers` come beside those that every mail has."""

    subject: str
    text: str
    html: str
    headers: Mapping[str, str]


def one_line(text: str) -> str:
    """Somebody's words on one line: what cannot be seen left out, and cut where they are too long."""
    spaced = "".join(" " if one.isspace() else one for one in text)
    seen = "".join(one for one in spaced if one in _KEPT or unicodedata.category(one) not in _INVISIBLE)
    line = " ".join(seen.split())
    return line if len(line) <= LINE else line[: LINE - 1].rstrip() + "…"


def address_of(email: str, name: str = "") -> Address | None:
    """A mail address as a header takes it, its domain in ASCII; None where it is none."""
    local, _, domain = email.rpartition("@")
    try:
        host = domain.encode("idna").decode()
    except UnicodeError:
        return None
    if not local or len(local) > 64 or not _DOMAIN.fullmatch(host):
        return None
    return Address(one_line(name), local, host)


def written(letter: Letter, sender: Address, to: Address, when: datetime) -> bytes:
    """The mail's bytes. One delivery's are the same each time, but for the texts."""
    mail = EmailMessage(_POLICY)
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = one_line(letter.subject)
    mail["Date"] = format_datetime(when.astimezone(UTC))
    # Machines are not to answer (RFC 3834), nor the readers' own absence notes.
    mail["Auto-Submitted"] = "auto-generated"
    mail["Precedence"] = "list"
    mail["X-Auto-Response-Suppress"] = "All"
    for name, value in letter.headers.items():
        mail[name] = value
    mail.set_content(letter.text, cte="quoted-printable")
    mail.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    return mail.as_bytes(policy=_POLICY if to.addr_spec.isascii() else _POLICY.clone(utf8=True))
