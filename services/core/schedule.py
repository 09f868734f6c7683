"""When something that failed is tried again. `drawn` is a number in [0, 1) that the caller draws.

Full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): what failed together does not come back
together.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

ATTEMPTS: Final = 12
"""How many attempts there are: the last some three days after the first, and five and a half at most."""
FIRST_S: Final = 30.0
_TIMES: Final = 3.0
LONGEST_S: Final = 36 * 3600.0

ASKED_LEAST_S: Final = 1.0
ASKED_MOST_S: Final = 24 * 3600.0
_SPREAD: Final = 0.1

FAILURES_TO_OPEN: Final = 5
"""Failures in a row after which a circuit opens."""
_OPEN_FIRST_S: Final = 30.0
OPEN_LONGEST_S: Final = 3600.0

GIVEN_UP: Final = timedelta(days=5)
"""An endpoint that took nothing for so long, though it was tried, is switched off."""


def longest_wait(attempts: int) -> float:
    """The most seconds that may lie between attempt number `attempts`, which failed, and the next."""
    return min(FIRST_S * _TIMES ** min(attempts - 1, ATTEMPTS), LONGEST_S)


def wait(attempts: int, drawn: float, asked: float | None = None) -> float:
    """The seconds between attempt number `attempts`, which failed, and the next.

    `asked` is how many the other side wants (Retry-After, RFC 9110, section 10.2.3): that is kept to within
    bounds, and up to a tenth put on top.
    """
    if asked is None:
        return longest_wait(attempts) * drawn
    return min(max(asked, ASKED_LEAST_S), ASKED_MOST_S) * (1 + _SPREAD * drawn)


def open_for(failures: int, drawn: float) -> float:
    """The seconds for which nothing is sent to who failed so often in a row; 0 where that is not often."""
    if failures < FAILURES_TO_OPEN:
        return 0.0
    longest = min(_OPEN_FIRST_S * 2.0 ** min(failures - FAILURES_TO_OPEN, ATTEMPTS), OPEN_LONGEST_S)
    return longest * (1 + drawn) / 2
