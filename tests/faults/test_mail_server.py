"""A mail server that refuses, hangs, leaves in the middle, or is not there."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiosmtplib import SMTPException
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.eventlog.deliveries import Again, Dead, Later, Sent
from services.workers.channels import smtp
from services.workers.channels.smtp import CONNECTIONS, FAILURES, MailServer, Refused
from tests.mailbox import FROM, broken, mailbox

TO = "ann@example.org"
MAIL = b"Subject: a word\r\nMessage-ID: <1@mail.example>\r\n\r\na word\r\n"
STEP = 0.3
GREETING = ["220 mail.example", "250 mail.example", "250 OK", "250 OK", "354 go on"]


def at(port: int, *, step: float = STEP, **more: Callable[[bool], object]) -> MailServer:
    return MailServer(f"smtp://127.0.0.1:{port}", FROM, step=step, whole=20, **more)


async def reason(server: MailServer) -> str:
    outcome = await server.send(TO, MAIL)
    assert isinstance(outcome, Again), outcome
    return outcome.reason


async def test_a_connection_is_used_for_many_mails_and_there_are_few() -> None:
    async with mailbox() as box:
        server = at(box.port, step=10)
        for _ in range(3):
            assert await server.send(TO, MAIL) == Sent()
        assert box.connections == 1
        assert set(await asyncio.gather(*(server.send(TO, MAIL) for _ in range(CONNECTIONS)))) == {Sent()}
        assert 1 < box.connections <= CONNECTIONS
        before = box.connections
        assert set(await asyncio.gather(*(server.send(TO, MAIL) for _ in range(CONNECTIONS)))) == {Sent()}
        assert box.connections == before
        await server.close()
    assert box.envelopes == [(FROM, [TO])] * (3 + 2 * CONNECTIONS)


async def test_a_connection_that_the_server_has_ended_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mailbox() as box:
        server = at(box.port, step=10)
        assert await server.send(TO, MAIL) == Sent()
        server._idle[0].smtp.close()
        assert await server.send(TO, MAIL) == Sent()
        monkeypatch.setattr(smtp, "MAILS", 1)
        for _ in range(2):
            assert await server.send(TO, MAIL) == Sent()
        monkeypatch.setattr(smtp, "IDLE_S", 0)
        assert await server.send(TO, MAIL) == Sent()
        assert box.connections == 4
        await server.close()


async def test_a_server_that_is_not_there_is_told_of_in_words() -> None:
    async with broken([]) as port:
        pass
    assert "Error connecting to 127.0.0.1" in await reason(at(port))


@pytest.mark.parametrize("lines", range(len(GREETING) + 1))
async def test_a_server_that_hangs_is_not_waited_for(lines: int) -> None:
    async with broken(GREETING[:lines]) as port:
        server = at(port)
        began = time.monotonic()
        assert await reason(server)
        assert time.monotonic() - began < 20
        assert server._idle == []


@pytest.mark.parametrize("lines", range(len(GREETING) + 1))
async def test_a_server_that_leaves_in_the_middle_gets_the_mail_again(lines: int) -> None:
    async with broken([*GREETING[:lines], None]) as port:
        server = at(port, step=10)
        assert await reason(server)
        assert server._idle == []


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    "answer", ["451 4.7.1 greylisted, come back", "421 4.3.2 going down", "452 4.2.2 full"]
)
async def test_4xx_may_pass(command: str, answer: str) -> None:
    async with mailbox(says={command: answer}) as box:
        server = at(box.port, step=10)
        assert await reason(server) == f"the mail server answered {answer}"
        # It was about that mail: the server itself is well, and the next one may go at once.
        for _ in range(FAILURES):
            await reason(server)
        assert server.room == CONNECTIONS
        box.says.clear()
        assert await server.send(TO, MAIL) == Sent()
        await server.close()


@pytest.mark.parametrize(
    ("command", "answer", "outcome"),
    [
        ("RCPT", "550 5.1.1 no such user", Refused),
        ("RCPT", "550 nobody here", Refused),
        ("RCPT", "550 5.2.1 mailbox disabled", Refused),
        # Of us, or of the time being: no word of the address.
        ("RCPT", "554 5.7.1 relaying denied", Dead),
        ("RCPT", "550 5.1.8 bad sender", Dead),
        ("RCPT", "552 5.2.2 mailbox full", Dead),
        ("MAIL", "550 5.7.1 who are you", Dead),
        ("DATA", "554 5.6.0 looks like spam", Dead),
    ],
)
async def test_5xx_is_for_good(command: str, answer: str, outcome: type[Dead]) -> None:
    async with mailbox(says={command: answer}) as box:
        server = at(box.port, step=10)
        assert await server.send(TO, MAIL) == outcome(f"the mail server answered {answer}")
        assert box.mails == []
        assert server.room == CONNECTIONS
        await server.close()


async def test_a_reason_does_not_tell_the_address() -> None:
    async with mailbox(says={"RCPT": f"450 <{TO}>: {TO.upper()} is not known"}) as box:
        server = at(box.port, step=10)
        said = await reason(server)
        assert "<address>: <address> is not known" in said.replace("<<address>>", "<address>")
        assert "example.org" not in said.lower()
        await server.close()


async def test_a_server_that_is_away_is_left_alone_and_no_mail_loses_an_attempt() -> None:
    told: list[bool] = []
    async with mailbox() as box:
        port = box.port
    server = at(port, away=told.append)
    for _ in range(FAILURES):
        await reason(server)
    assert told == [True]
    assert server.room == 0
    before = datetime.now(UTC)
    outcome = await server.send(TO, MAIL)
    assert isinstance(outcome, Later)
    assert timedelta(0) < outcome.at - before <= timedelta(seconds=smtp.RESTS_S[0] + 1)
    # Its rest is over, and it still is away: what tries it has lost nothing, and it rests for longer.
    server._rests_until = time.monotonic()
    assert server.room == 1
    assert isinstance(await server.send(TO, MAIL), Later)
    assert server.room == 0
    assert server._rests_until - time.monotonic() > smtp.RESTS_S[0]
    async with mailbox(port) as box:
        server._rests_until = time.monotonic()
        assert await server.send(TO, MAIL) == Sent()
        assert told == [True, False]
        assert server.room == CONNECTIONS
        await server.close()


async def test_one_mail_at_a_time_tries_a_server_that_was_away() -> None:
    async with broken([]) as port:
        server = at(port, step=5)
        server._failures = FAILURES
        trial = asyncio.create_task(server.send(TO, MAIL))
        while not server._trying:
            await asyncio.sleep(0)
        assert isinstance(await server.send(TO, MAIL), Later)
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        assert not server._trying


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for localhost, and the certificate that a client is to trust."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(key.private_bytes(*plain) + made.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context, file


async def test_tls_is_used_where_it_is_offered_by_whoever_can_prove_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cert = certificate(tmp_path)
    async with mailbox(tls=context) as box:
        server = MailServer(f"smtp://localhost:{box.port}", FROM, step=10)
        assert (await reason(server)).startswith("the mail server: TLS: self")
        assert box.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        server = MailServer(f"smtp://localhost:{box.port}", FROM, step=10)
        assert await server.greeted()
        assert await server.send(TO, MAIL) == Sent()
        await server.close()


async def test_no_password_goes_to_another_machine_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mailbox() as box:
        url = f"smtp://ann:s%20ecret@127.0.0.1:{box.port}"
        server = MailServer(url, FROM, step=10)
        assert await server.send(TO, MAIL) == Sent()
        assert box.signed_in == [b"s ecret"]
        await server.close()
        monkeypatch.setattr(smtp, "_is_local", lambda _: False)
        server = MailServer(url, FROM, step=10)
        assert "STARTTLS" in await reason(server)
        with pytest.raises(SMTPException):
            await server.greeted()
        assert len(box.signed_in) == len(box.mails) == 1
