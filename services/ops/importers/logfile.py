"""Reads the file of an export of the log (`services/ops/exporters/log.py`): what each line is, and whether
the whole of it holds together. Everything in it is untrusted."""

from __future__ import annotations

import io
import struct
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import orjson
import zstandard
from pydantic import ValidationError

from schema.events.envelope import GENESIS, Recorded, chain_of
from services.core.addresses import BadAddress, check_site, check_thread_key, site_stream_id, thread_stream_id
from services.eventlog.keytransfer import MovedKey
from services.eventlog.lines import event_of
from services.ops.exporters.log import FORMAT, End, Header
from services.ops.importers.records import ImportRefused

LONGEST_LINE: Final = 1 << 20
"""Bytes of a line, at most; a comment's text has 40,000 at most."""

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BUFFER: Final = 1 << 18
_WINDOW: Final = 1 << 27
"""Bytes that a compressed file may have us keep, at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line behind the header: a key, an event, or the end."""

    number: int
    what: MovedKey | Recorded | End


class LogFile:
    """An export's file, compressed or not. It is read from its beginning as often as one likes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self.size = path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def read(self) -> int:
        """How many bytes of the file have been read."""
        return self._file.tell()

    def header(self) -> Header:
        """What the first line says. Raises ImportRefused."""
        number, line = next(self._lines(), (1, b""))
        try:
            told = Header.model_validate_json(line)
            check_site(told.site)
        except (ValidationError, BadAddress) as error:
            known = b'"format_version"' in line and FORMAT.encode() in line
            reason = "of a later version: upgrade first" if known else "is no export of a log"
            raise ImportRefused(reason, f"line {number}") from error
        return told

    def lines(self) -> Iterator[Line]:
        """What comes after the header. Raises ImportRefused, also where the end is missing."""
        ended, number = False, 1
        lines = self._lines()
        next(lines, None)
        for number, line in lines:
            if ended:
                raise ImportRefused("there is more behind the end", f"line {number}")
            what = _parsed(line, number)
            ended = isinstance(what, End)
            yield Line(number, what)
        if not ended:
            raise ImportRefused("the file is cut off: its end is missing", f"line {number}")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        packed = self._file.read(len(_ZSTD)) == _ZSTD
        self._file.seek(0)
        source: BinaryIO | io.BufferedReader = self._file
        if packed:
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(
                self._file, read_across_frames=True, closefd=False
            )
            source = io.BufferedReader(reader, _BUFFER)
        number = 0
        while True:
            number += 1
            try:
                line = source.readline(LONGEST_LINE + 1)
            except zstandard.ZstdError as error:
                raise ImportRefused(f"the compressed data is damaged: {error}", f"line {number}") from error
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise ImportRefused(f"has more than {LONGEST_LINE:,} bytes", f"line {number}")
            yield number, line


def _parsed(line: bytes, number: int) -> MovedKey | Recorded | End:
    try:
        told = orjson.loads(line)
        if not isinstance(told, dict):
            raise TypeError("is no JSON object")
        if "hash" in told:
            return event_of(told)
        if "wrapped" in told:
            return _key(told)
        return End.model_validate(told["end"])
    except orjson.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else ", and the file ends within it"
        raise ImportRefused(f"is no JSON{cut}", f"line {number}") from error
    except (ValidationError, KeyError) as error:
        raise ImportRefused("is neither event nor key nor end", f"line {number}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ImportRefused(str(error), f"line {number}") from error


def _key(told: dict[str, Any]) -> MovedKey:
    wrapped, destroyed = told["wrapped"], told["destroyed_at"]
    if not isinstance(told["author"], str):
        raise TypeError("a key without its author")
    return MovedKey(
        UUID(told["key_id"]),
        told["author"],
        None if wrapped is None else b64decode(wrapped),
        None if destroyed is None else datetime.fromisoformat(destroyed),
    )


class Chains:
    """Checks that the events of a file are whole streams, or the rest of some, of one site."""

    def __init__(self, header: Header) -> None:
        self._site = header.site
        self._thread = None if header.thread is None else thread_stream_id(header.site, header.thread)
        self._stream: UUID | None = None
        self._version = 0
        self._hash = GENESIS
        self.streams = 0
        self.events = 0
        self.keys = 0

    def take(self, line: Line) -> bool:
        """Check what comes next; whether it begins a stream. Raises ImportRefused."""
        where = f"line {line.number}"
        match line.what:
            case MovedKey():
                if self.events:
                    raise ImportRefused("a key behind the first event", where)
                self.keys += 1
                return False
            case End() as end:
                if (end.streams, end.events, end.keys) != (self.streams, self.events, self.keys):
                    raise ImportRefused("lines are missing: there were more of them", where)
                return False
            case Recorded() as event:
                return self._event(event, where)

    def _event(self, event: Recorded, where: str) -> bool:
        begins = event.stream_id != self._stream
        if begins:
            self._begin(event, where)
        else:
            if event.version != self._version + 1:
                raise ImportRefused(f"version {self._version + 1} is missing", where)
            _check(self._hash, event, where)
        self._version, self._hash = event.version, event.hash
        self.events += 1
        return begins

    def _begin(self, event: Recorded, where: str) -> None:
        if self._thread is not None and event.stream_id != self._thread:
            raise ImportRefused("an event of another thread than the header names", where)
        if event.version == 1:
            _check(GENESIS, event, where)
            if opened_by(event, self._site) != event.stream_id:
                raise ImportRefused(f"an event of another site than {self._site}", where)
        elif event.version < 1:
            raise ImportRefused("a version that is none", where)
        self._stream = event.stream_id
        self.streams += 1


def _check(previous: bytes, event: Recorded, where: str) -> None:
    try:
        holds = chain_of(previous, event) == event.hash
    except (AttributeError, TypeError, ValueError, struct.error, OverflowError) as error:
        raise ImportRefused(f"an event with a member that is none: {error}", where) from error
    if not holds:
        raise ImportRefused("the hash chain does not hold: the line was changed", where)


def opened_by(event: Recorded, site: str) -> UUID | None:
    """The stream of `site` that its first event says it opens; None where it names none."""
    try:
        opens = orjson.loads(event.data)["opens"]
        if opens["site"] != site:
            return None
        if "key" not in opens:
            return site_stream_id(site)
        return thread_stream_id(site, check_thread_key(opens["key"]))
    except (BadAddress, KeyError, TypeError, ValueError, AttributeError):
        return None
