"""The garbage collector of processes that make many objects and few cycles.

With Python's default of 700 new objects between two looks, requests spent a tenth of their time on looking,
and folds of the log a fifth.
"""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLDS: Final = (20_000, 20, 20)


def settle() -> None:
    """Look seldom from here on, and never again at what there is by now: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
