"""Comments that arrive at a rate while something else is measured."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from services.ops.bench.processes import Answering
from services.ops.bench.reading.pace import Pace, Paced
from services.ops.bench.servers import SITE, Servers


class Pacing:
    """Posts at a rate while it is entered; `stop` ends it and tells how it went."""

    def __init__(
        self,
        servers: Servers,
        port: int,
        rate: float,
        threads: list[str],
        seen: str,
        *,
        parents: Sequence[str] = (),
        author: int = 0,
    ) -> None:
        self._process = Answering("services.ops.bench.reading.pace", log=servers.folder / "pace.log")
        self._pace = Pace(
            port=port,
            site=SITE,
            token=servers.tokens[author],
            threads=threads,
            parents=list(parents),
            seen=seen,
            rate=rate,
            seed=servers.seed,
        )

    def __enter__(self) -> Self:
        self._process.__enter__()
        self._process.tell(self._pace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)

    def stop(self) -> Paced:
        """End it."""
        self._process.tell(None)
        paced: Paced = self._process.answer()
        return paced
