"""Event types, their present schema versions, and the upcasters that bring old events up to them.

An event is never rewritten: when a payload's shape changes, its schema version rises and an upcaster from
the last version is added here. Readers only ever see the present shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from schema.events import payloads

Json = dict[str, Any]
Upcaster = Callable[[Json], Json]


class TypeUnknown(LookupError):
    """No such event type, or a schema version later than this release knows."""


class PayloadInvalid(ValueError):
    """The payload is not JSON of the shape that its type promises."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One event type: its payload at the present schema version, and what may be sealed beside it."""

    name: str
    schema_version: int
    payload: TypeAdapter[Any]
    sealed: TypeAdapter[Any] | None = None


def _contract(payload: type, schema_version: int = 1, sealed: type | None = None) -> Contract:
    return Contract(
        payload.__name__,
        schema_version,
        TypeAdapter(payload),
        None if sealed is None else TypeAdapter(sealed),
    )


CONTRACTS: Final[Mapping[str, Contract]] = {
    contract.name: contract
    for contract in (
        _contract(payloads.CommentPosted, sealed=payloads.Text),
        _contract(payloads.ReplyPosted, sealed=payloads.Text),
        _contract(payloads.CommentEdited, sealed=payloads.Body),
        _contract(payloads.CommentDeleted),
        _contract(payloads.CommentReported, sealed=payloads.Detail),
        _contract(payloads.CommentVoted),
        _contract(payloads.CommentHidden),
        _contract(payloads.CommentRemoved),
        _contract(payloads.CommentErased),
        _contract(payloads.ThreadDescribed),
        _contract(payloads.ThreadClosed),
        _contract(payloads.ThreadReopened),
        _contract(payloads.SiteSettingsChanged),
        _contract(payloads.AuthorErased),
    )
}


class Upcasters:
    """The chain of functions from each old schema version to the next."""

    def __init__(self, contracts: Mapping[str, Contract], steps: Mapping[tuple[str, int], Upcaster]) -> None:
        """`steps[type, n]` turns a payload of schema version n into one of n + 1.

        Raises ValueError where a step between version 1 and the present one is missing.
        """
        self._present = {name: contract.schema_version for name, contract in contracts.items()}
        self._steps = dict(steps)
        for name, present in self._present.items():
            for version in range(1, present):
                if (name, version) not in self._steps:
                    raise ValueError(f"no upcaster for {name} from schema version {version}")

    def payload(self, type: str, schema_version: int, data: bytes) -> Json:
        """The payload in its present shape.

        Raises TypeUnknown for what a newer release wrote, PayloadInvalid for what is not a JSON object.
        """
        present = self._present.get(type)
        if present is None or schema_version > present:
            raise TypeUnknown(f"{type} at schema version {schema_version}")
        try:
            payload: Json = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise PayloadInvalid(str(error)) from error
        if not isinstance(payload, dict):
            raise PayloadInvalid("not a JSON object")
        while schema_version < present:
            payload = self._steps[type, schema_version](payload)
            schema_version += 1
        return payload


STEPS: Final[Mapping[tuple[str, int], Upcaster]] = {}
UPCASTERS: Final = Upcasters(CONTRACTS, STEPS)
