"""Which release runs: what dead letters name, so that another one tries again what this one could not."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

FOLLOWING: Final = (
    "schema",
    "services/core",
    "services/eventlog",
    "services/projection",
    "services/readmodel",
    "services/workers",
)
"""The folders of the code that applies events."""

_SUFFIXES: Final = frozenset((".py", ".sql", ".lua"))
_AS_IT_LIES: Final = "0"
_DIGITS: Final = 12


def release(root: Path = Path(__file__).parents[2]) -> str:
    """The version, or 0 where the code was never installed, and a digest of the code that applies events.

    So a repair deployed under the same version is another release. To be called as the process starts, before
    the files change under it. `root` is the folder of the packages.
    """
    try:
        number = version("threadlog")
    except PackageNotFoundError:
        number = _AS_IT_LIES
    return f"{number}+{_digest(root)}"


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for folder in FOLLOWING:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                content = path.read_bytes()
                digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()[:_DIGITS]
