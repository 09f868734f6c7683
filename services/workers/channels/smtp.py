"""The mail server: a few connections that are used for many mails, and what its answers come to.

Where it is away, or answers nothing, several times in a row, it is left alone for a while (RESTS_S), and then
tried with one mail. A mail that it did not get to see is no attempt, so that none dies of a server that is
away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote, urlsplit

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from services.eventlog.deliveries import Again, Dead, Later, Sent

CONNECTIONS: Final = 4
STEP_S: Final = 10.0
"""Seconds for each answer of the server."""
WHOLE_S: Final = 30.0
"""Seconds for a mail, connecting included: less than a deliverer waits for it."""
IDLE_S: Final = 30.0
"""Seconds after which an unused connection is not used again."""
_ASKED_S: Final = 2.0
"""Seconds after which it is first asked whether it still lives."""
MAILS: Final = 100
"""Mails over one connection: some servers end it after so many."""
FAILURES: Final = 3
"""Failures in a row after which the server is left alone."""
RESTS_S: Final = (10.0, 30.0, 60.0, 120.0, 300.0)

_ADDRESS: Final = re.compile(r"[^\s<>@]+@[^\s<>@]+")
_ENHANCED: Final = re.compile(r"\b5\.\d{1,3}\.\d{1,3}\b")
_NOBODY: Final = re.compile(r"5\.(1\.(?!7$|8$)\d+|2\.1)")
"""Enhanced status codes (RFC 3463) that speak of the address: all others speak of us, of the mail, or of a
mailbox that is full."""
_REASON: Final = 160


@dataclass(frozen=True, slots=True)
class Refused(Dead):
    """Nobody is there: no mail is to go to this address again."""


@dataclass(slots=True)
class _Connection:
    smtp: SMTP
    mails: int = 0
    idle_since: float = 0.0


class MailServer:
    """One mail server, for one process."""

    def __init__(
        self,
        url: str,
        sender: str,
        *,
        step: float = STEP_S,
        whole: float = WHOLE_S,
        away: Callable[[bool], object] = bool,
    ) -> None:
        """`sender` is who the server is told that mails come from; `away` is told when it is left alone, and
        when it answers again."""
        parts = urlsplit(url)
        assert parts.hostname is not None  # as the settings have checked
        self._host = parts.hostname
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 25)
        self._user = None if parts.username is None else unquote(parts.username)
        self._password = None if parts.password is None else unquote(parts.password)
        self._sender = sender
        self._step = step
        self._whole = whole
        self._tell_away = away
        self._idle: list[_Connection] = []
        self._failures = 0
        self._rests_until = 0.0
        self._trying = False

    @property
    def room(self) -> int:
        """How many mails it takes at once just now: none while it is left alone, then one to try."""
        if self._failures < FAILURES:
            return CONNECTIONS
        return 0 if time.monotonic() < self._rests_until else 1

    async def close(self) -> None:
        """Take leave of the server."""
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(SMTPException, OSError, TimeoutError):
                await connection.smtp.quit(timeout=1.0)
            connection.smtp.close()

    async def greeted(self) -> bool:
        """Connect, sign in and leave; whether the connection is encrypted. Raises OSError, TimeoutError or
        SMTPException where that fails."""
        async with asyncio.timeout(self._whole):
            async with self._connected() as smtp:
                await smtp.noop()
                encrypted = smtp.get_transport_info("sslcontext") is not None
            await self.close()
        return encrypted

    async def send(self, to: str, mail: bytes, *, utf8: bool = False) -> Sent | Again | Dead | Later:
        """Hand a mail over. `utf8`: the address is outside ASCII (RFC 6531)."""
        trial = self._failures >= FAILURES
        if trial and (self._trying or time.monotonic() < self._rests_until):
            return self._later()
        self._trying = trial
        try:
            async with asyncio.timeout(self._whole):
                outcome = await self._hand_over(to, mail, utf8=utf8)
        except (SMTPException, OSError, TimeoutError) as error:
            # Neither an answer to this mail nor a connection: the server's fault, not the mail's.
            self._failed()
            return self._later() if trial else Again(f"the mail server: {_line(error)}")
        finally:
            self._trying = False
        if self._failures >= FAILURES:
            self._tell_away(False)
        self._failures = 0
        return outcome

    async def _hand_over(self, to: str, mail: bytes, *, utf8: bool) -> Sent | Again | Dead:
        async with self._connected() as smtp:
            try:
                options = ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else []
                await smtp.sendmail(self._sender, [to], mail, mail_options=options, timeout=self._step)
            except SMTPRecipientsRefused as refused:
                return _judged(refused.recipients[0])
            except SMTPNotSupported:
                return Dead("the mail server takes no address outside ASCII")
            except SMTPResponseException as error:
                return _judged(error)
            except (ValueError, UnicodeError):
                return Refused("it is no mail address")
        return Sent()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[SMTP]:
        connection = await self._living() or _Connection(await self._connect())
        try:
            yield connection.smtp
        except BaseException:
            connection.smtp.close()  # where it stands in the conversation nobody knows
            raise
        connection.mails += 1
        connection.idle_since = time.monotonic()
        if connection.mails < MAILS and connection.smtp.is_connected:
            self._idle.append(connection)
        else:
            connection.smtp.close()

    async def _living(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            idle = time.monotonic() - connection.idle_since
            if idle < IDLE_S and connection.smtp.is_connected:
                if idle < _ASKED_S:
                    return connection
                with suppress(SMTPException, OSError, TimeoutError):
                    await connection.smtp.noop(timeout=self._step)
                    return connection
            connection.smtp.close()
        return None

    async def _connect(self) -> SMTP:
        # No password goes over a wire that others may read, whoever took the offer of TLS out.
        must = True if self._password is not None and not _is_local(self._host) else None
        smtp = SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            local_hostname=self._sender.rpartition("@")[2],
            timeout=self._step,
            use_tls=self._tls,
            start_tls=False if self._tls else must,
        )
        try:
            await smtp.connect()
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or error
            raise ConnectionError(f"TLS: {why}") from error
        except ValueError as error:
            raise ConnectionError(str(error)) from error
        return smtp

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            if self._failures == FAILURES:
                self._tell_away(True)
            rest = RESTS_S[min(self._failures - FAILURES, len(RESTS_S) - 1)]
            self._rests_until = time.monotonic() + rest

    def _later(self) -> Later:
        seconds = max(1.0, self._rests_until - time.monotonic())
        return Later(datetime.now(UTC) + timedelta(seconds=seconds))


def _judged(error: SMTPResponseException) -> Again | Dead:
    """What an answer comes to: 4xx may pass (RFC 5321, section 4.2.1)."""
    reason = f"the mail server answered {error.code} {_line(error)}"
    if error.code < 500:
        return Again(reason)
    if isinstance(error, SMTPRecipientRefused):
        enhanced = _ENHANCED.search(error.message)
        if enhanced is None or _NOBODY.fullmatch(enhanced[0]):
            return Refused(reason)
    return Dead(reason)


def _line(error: Exception) -> str:
    """What went wrong on one line, without the address: that is its owner's, and sealed where it is kept."""
    said = str(getattr(error, "message", error))
    line = " ".join(said.split()) or f"{type(error).__name__}: no answer in time"
    return _ADDRESS.sub("<address>", line)[:_REASON]


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
