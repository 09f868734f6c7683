"""The JSON Schemas of the events, written from the contracts: `python -m schema.events.export`.

One file for each event type and schema version, `json_schema/CommentPosted.v1.json`, and one for what may be
sealed beside it, `CommentPosted.v1.sealed.json`. A file of an old schema version is never written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from schema.events.registry import CONTRACTS, Contract

FOLDER: Final = Path(__file__).parent / "json_schema"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def documents(contracts: Mapping[str, Contract] = CONTRACTS) -> dict[str, bytes]:
    """Every JSON Schema of the present schema versions, by file name."""
    found: dict[str, bytes] = {}
    for name, contract in contracts.items():
        stem = f"{name}.v{contract.schema_version}"
        found[f"{stem}.json"] = _document(stem, contract.payload)
        if contract.sealed is not None:
            found[f"{stem}.sealed.json"] = _document(f"{stem}.sealed", contract.sealed)
    return found


def _document(stem: str, adapter: TypeAdapter[Any]) -> bytes:
    document = {"$schema": DIALECT, "$id": f"urn:threadlog:event:{stem}"} | adapter.json_schema()
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def write(folder: Path = FOLDER) -> list[str]:
    """Write the files that differ; their names."""
    folder.mkdir(exist_ok=True)
    changed: list[str] = []
    for name, document in documents().items():
        path = folder / name
        if not path.exists() or path.read_bytes() != document:
            path.write_bytes(document)
            changed.append(name)
    return changed


if __name__ == "__main__":
    write()
