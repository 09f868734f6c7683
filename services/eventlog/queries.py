"""The named statements of `schema/queries`, read once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import schema

_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def _read(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        _, *parts = _NAME.split(path.read_text())
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"two statements are named {name}")
            found[name] = text.strip().removesuffix(";")
    return found


QUERIES: Final[Mapping[str, str]] = _read(Path(schema.__file__).parent / "queries")
