"""The file of destroyed keys, outside the backups: a restored database is told again what it must forget.

One line for each key: its id and when it was destroyed (RFC 3339). Nothing in it names anybody. Several
processes may append at once: a line is one write to a file that is open for appending.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from services.core.thread import timestamp
from services.errors import ConfigurationError

_CUT_OFF: Final = re.compile("[0-9a-f-]{0,35}")


class ErasedKeysFile:
    """THREADLOG_ERASED_KEYS_FILE."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, key_id: UUID, destroyed_at: datetime) -> None:
        """Write a key's id, and let it reach the disk, and the file's name too. Raises OSError."""
        line = f"{key_id} {timestamp(destroyed_at)}\n".encode()
        new = not self._path.exists()
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind what a crash cut off
            if os.write(file, line) != len(line):
                raise OSError(f"{self._path} takes no more")
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def keys(self) -> Iterator[UUID]:
        """The ids in the file, as they stand there; none where there is no file yet.

        A line that a crash cut off is passed over: it was not answered. Raises ConfigurationError for any
        other line that is none.
        """
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, 1):
            try:
                yield UUID(line.split(" ")[0])
            except ValueError:
                if not _CUT_OFF.fullmatch(line):
                    raise ConfigurationError(
                        f"THREADLOG_ERASED_KEYS_FILE: line {number} names no key"
                    ) from None
