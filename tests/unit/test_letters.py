"""Mails as bytes: other people's words in headers, and addresses that nobody should write to."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from uuid import UUID

import pytest

from services.eventlog.keys import MasterKey
from services.eventlog.maillinks import Confirming, MailLinks, Unsubscribing
from services.workers.channels.letters import LINE, Letter, address_of, one_line, written
from tests.writer import MASTER_KEY

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
LONG = "<https://comments.example/v1/sites/blog/unsubscribe?token=" + "t" * 500 + ">"
OTHER_KEY = "A" * 43 + "="


def read(raw: bytes) -> EmailMessage:
    mail = message_from_bytes(raw, policy=policy.default)
    assert isinstance(mail, EmailMessage)
    return mail


def sent(
    subject: str = "A word", *, name: str = "blog", to: str = "ann@example.org", **headers: str
) -> bytes:
    address = address_of(to)
    assert address is not None
    letter = Letter(
        subject, "as *written*, ümläut", "<p>as</p>", {k.replace("_", "-"): v for k, v in headers.items()}
    )
    return written(letter, Address(one_line(name), addr_spec="from@mail.example"), address, NOW)


@pytest.mark.parametrize(
    "evil",
    [
        "Ann\r\nBcc: all@example.org",
        "Ann\nBcc: x@y.z",
        "Ann\x85Bcc: x",
        "Ann\u2028Bcc: x",
        "A\x00nn",
        "\u202eAnn",
    ],
)
def test_no_name_or_title_adds_a_header_or_turns_the_writing_around(evil: str) -> None:
    raw = sent(evil, name=evil)
    mail = read(raw)
    assert mail["Bcc"] is None
    for header in (str(mail["Subject"]), mail["From"].addresses[0].display_name):
        assert header.isprintable()
        assert header.startswith("A")
    assert b"\nBcc" not in raw
    assert mail["From"].addresses[0].addr_spec == "from@mail.example"


def test_a_long_title_is_cut_and_an_emoji_of_several_stays_whole() -> None:
    subject = str(read(sent("ü" * 5_000))["Subject"])
    assert len(subject) == LINE
    assert subject.endswith("…")
    assert one_line("👩\u200d💻  says\thi") == "👩\u200d💻 says hi"


def test_no_line_is_longer_than_mail_allows_and_links_and_ids_stay_whole() -> None:
    raw = sent("ein sehr langer Titel " * 6, List_Unsubscribe=LONG, Message_ID=f"<{'i' * 100}@mail.example>")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\nList-Unsubscribe: " + LONG.encode() + b"\r\n" in raw
    assert b"\nMessage-ID: <" + b"i" * 100 + b"@mail.example>\r\n" in raw


def test_machines_are_told_not_to_answer() -> None:
    mail = read(sent())
    assert (mail["Auto-Submitted"], mail["Precedence"]) == ("auto-generated", "list")
    assert mail.get_content_type() == "multipart/alternative"
    assert [one.get_content_type() for one in mail.iter_parts()] == ["text/plain", "text/html"]


@pytest.mark.parametrize(
    ("email", "spec"),
    [
        ("ann@example.org", "ann@example.org"),
        ("ann,eve@evil.example@example.org", '"ann,eve@evil.example"@example.org'),
        ('a"b@example.org', '"a\\"b"@example.org'),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("jürgen@example.org", "jürgen@example.org"),
    ],
)
def test_an_address_is_quoted_so_that_it_stays_one(email: str, spec: str) -> None:
    address = address_of(email)
    assert address is not None
    assert address.addr_spec == spec
    if spec.isascii():
        assert [one.addr_spec for one in read(sent(to=email))["To"].addresses] == [spec]


@pytest.mark.parametrize(
    "email", ["ann", "ann@", "@b", "ann@a>b", "ann@a b", "ann@-", "ann@" + "a" * 300, "x" * 65 + "@b"]
)
def test_what_is_no_address_is_none(email: str) -> None:
    assert address_of(email) is None


def test_a_link_is_of_use_at_its_own_site_for_what_it_was_made_for_and_under_its_key() -> None:
    links, thread = MailLinks(MasterKey(MASTER_KEY)), UUID(int=7)
    token = links.unsubscribe("blog", "u-17", thread)
    assert links.unsubscribing("blog", token) == Unsubscribing("u-17", thread)
    assert links.unsubscribing("blog", links.unsubscribe("blog", "ü")) == Unsubscribing("ü", None)
    assert links.unsubscribing("news", token) is None
    assert links.confirming("blog", token) is None
    for wrong in ("", "x", token[:-1], token + "x", "ü", "." * 3000, token.replace(".", ":")):
        assert links.unsubscribing("blog", wrong) is None
    assert MailLinks(MasterKey(OTHER_KEY)).unsubscribing("blog", token) is None


def test_links_open_while_the_master_key_is_replaced() -> None:
    both = MailLinks(MasterKey(OTHER_KEY, MASTER_KEY))
    for before in (MailLinks(MasterKey(MASTER_KEY)), MailLinks(MasterKey(OTHER_KEY))):
        assert both.unsubscribing("blog", before.unsubscribe("blog", "ann")) is not None


def test_a_link_that_confirms_ends_after_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    links = MailLinks(MasterKey(MASTER_KEY))
    token = links.confirm("blog", "ann", "mac")
    assert links.confirming("blog", token) == Confirming("ann", "mac")
    import time

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86_400 - 60)
    assert links.confirming("blog", token) is not None
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86_400 + 60)
    assert links.confirming("blog", token) is None
