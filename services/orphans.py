"""Forked processes end with their parent, which may have been killed without a word to them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

_ORPHAN_LOOK_S: Final = 0.5
_ORPHAN_GRACE_S: Final = 10.0


def end_with_parent(
    end: Callable[[], None], grace: float = _ORPHAN_GRACE_S, *, parent: int | None = None
) -> None:
    """Call `end` when the process that this one was forked from is gone, even by SIGKILL; leave the hard way
    `grace` seconds later. `parent` is its id, where it is known from before the fork."""
    # Not the pid that multiprocessing names: under its fork server, which ends with the master, the parent is
    # another.
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_LOOK_S)
        end()
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="orphan-watch", daemon=True).start()
