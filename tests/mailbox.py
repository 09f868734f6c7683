"""A real mail server for tests, and its ways of going wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

FROM = "comments@mail.example"
BASE = "https://comments.example"


@dataclass(slots=True)
class Mailbox:
    """What a mail server has taken. `says` holds what it answers instead, by command: a text, or something
    that gives one."""

    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str | None, list[str]]] = field(default_factory=list)
    says: dict[str, str | Callable[[], str]] = field(default_factory=dict)
    signed_in: list[bytes] = field(default_factory=list)
    """The passwords of those who signed in."""
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in self.mails]

    async def handle_EHLO(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self._answer("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self._answer("RCPT", "250 OK")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = self._answer("DATA", "250 OK")
        if answer.startswith("2"):
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        return answer

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: LoginPassword
    ) -> AuthResult:
        """Let everybody in."""
        self.signed_in.append(given.password)
        return AuthResult(success=True)

    def _answer(self, command: str, usual: str) -> str:
        said = self.says.get(command, usual)
        return said if isinstance(said, str) else said()


@asynccontextmanager
async def mailbox(
    port: int = 0, *, tls: ssl.SSLContext | None = None, says: Mapping[str, str] | None = None
) -> AsyncIterator[Mailbox]:
    """A mail server on 127.0.0.1."""
    box = Mailbox(says={**(says or {})})

    def make() -> SMTP:
        box.connections += 1
        return SMTP(
            box,
            hostname="mail.example",
            enable_SMTPUTF8=True,
            tls_context=tls,
            authenticator=box.authenticate,
            auth_require_tls=False,
            loop=asyncio.get_running_loop(),
        )

    async with _listening(make, port) as box.port:
        yield box


@asynccontextmanager
async def _listening(make: Callable[[], asyncio.Protocol], port: int = 0) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def broken(says: Sequence[str | None]) -> AsyncIterator[int]:
    """A server that answers line by line what it is told to, whatever it hears; None ends the connection
    without a word, and after the last one it says nothing more. Its port."""
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        for place, line in enumerate(says):
            if place and not await reader.readline():
                break
            if line is None:
                writer.close()
                return
            writer.write(f"{line}\r\n".encode())
        await reader.read()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


def part(mail: EmailMessage, kind: str) -> str:
    """The text of a mail's part `plain` or `html`."""
    found = mail.get_body((kind,))
    assert isinstance(found, EmailMessage)
    return str(found.get_content()).replace("\r\n", "\n")
