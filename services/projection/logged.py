"""Answers read from the log, for others who ask for the same a moment later.

While Redis is away, or the view of a long thread is being built, every reader of a page comes this way.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from services.projection.answers import OneComment, ThreadPage

FRESH_S: Final = 1.0
"""Seconds for which an answer is given after its reading began."""

COMMENTS: Final = 20_000
"""Comments in all answers together, at most: some 20 MB."""


class Logged:
    """A bounded number of answers, none older than FRESH_S."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[float, ThreadPage | OneComment, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: Hashable, least: int | None) -> ThreadPage | OneComment | None:
        """The answer, if there is a fresh one of at least that version of its thread."""
        known = self._answers.get(key)
        if known is None or time.monotonic() - known[0] > FRESH_S:
            return None
        version = 0 if known[1].head is None else known[1].head.version
        return known[1] if version >= (least or 0) else None

    def keep(self, key: Hashable, answer: ThreadPage | OneComment, comments: int, began: float) -> None:
        """Remember an answer with so many comments, whose reading began then (monotonic seconds)."""
        self._forget(key)
        weight = comments + 1
        self._answers[key] = (began, answer, weight)
        self._weight += weight
        while self._answers:
            oldest = next(iter(self._answers))
            if self._weight <= COMMENTS and began - self._answers[oldest][0] <= FRESH_S:
                return
            self._forget(oldest)

    def _forget(self, key: Hashable) -> None:
        known = self._answers.pop(key, None)
        if known is not None:
            self._weight -= known[2]
