"""What the API processes of one port have counted, told by whichever of them is asked for /metrics.

Each counts for itself and tells its own on a unix socket. The counts are not added up: each series has the
label `process`. Added up, they would fall whenever a process starts anew, and Prometheus takes a count that
fell for one that began again at zero: a rate would leap by all that the others ever counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Siblings:
    """The `count` processes of a port, whose sockets lie in `folder`; this one is `number`, from 0."""

    folder: Path
    number: int
    count: int

    @contextlib.asynccontextmanager
    async def telling(self, own: Callable[[], bytes]) -> AsyncIterator[None]:
        """Tell the others what this process has counted, for as long as this lasts."""

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(own())
                await writer.drain()
            writer.close()

        path = self._socket(self.number)
        path.unlink(missing_ok=True)  # of one that was killed
        server = await asyncio.start_unix_server(tell, path)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)

    async def gathered(self, own: bytes) -> bytes:
        """The counts of all processes, beside those of this one. One that does not answer within a second,
        since it starts anew, is left out."""
        told = await asyncio.gather(
            *(self._told_by(number) for number in range(self.count) if number != self.number)
        )
        return labelled([(self.number, own), *((number, text) for number, text in told if text)])

    async def _told_by(self, number: int) -> tuple[int, bytes]:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                try:
                    return number, await reader.read(-1)
                finally:
                    writer.close()
        return number, b""

    def _socket(self, number: int) -> Path:
        return self.folder / f"{number}.sock"


def labelled(told: Iterable[tuple[int, bytes]]) -> bytes:
    """Expositions in Prometheus' text format as one: every sample gets the label `process`, and the samples
    of one metric stay together, as the format demands."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for number, text in sorted(told):
        name = b""
        for line in text.splitlines():
            if line.startswith(b"# HELP "):
                name = line.split(b" ", 3)[2]
                heads.setdefault(name, [line])
            elif line.startswith(b"# TYPE "):
                if len(heads.setdefault(name, [])) < _HEAD_LINES:
                    heads[name].append(line)
            elif line and not line.startswith(b"#"):
                samples.setdefault(name, []).append(_with_label(line, number))
    return b"".join(
        b"\n".join((*head, *samples.get(name, ()))) + b"\n" for name, head in sorted(heads.items())
    )


_HEAD_LINES: Final = 2


def _with_label(sample: bytes, number: int) -> bytes:
    """`name{…} value` or `name value`, with one label more."""
    label = b'process="%d"' % number
    brace, blank = sample.find(b"{"), sample.find(b" ")
    if 0 <= brace < blank:
        between = b"" if sample[brace + 1 : brace + 2] == b"}" else b","
        return sample[: brace + 1] + label + between + sample[brace + 1 :]
    return sample[:blank] + b"{" + label + b"}" + sample[blank:]
