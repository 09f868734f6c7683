"""Event types, their present schema versions, and the upcasters that bring old events up to them.

An event is never rewritten: when a payload's shape changes, its schema version rises and an upcaster from
the last version is added here. Readers only ever see the present shape. How a version is added, over two
releases: docs/events.md.
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
    """One event type: its payload at the present schema version, and what may be sealed beside it.

    `written` is the schema version that decisions are recorded in: the present one, or the one before while
    releases may still run beside this one that do not read it.
    """

    name: str
    schema_version: int
    payload: TypeAdapter[Any]
    sealed: TypeAdapter[Any] | None = None
    written: int = 0

    def __post_init__(self) -> None:
        if not self.written:
            object.__setattr__(self, "written", self.schema_version)


def _contract(
    payload: type, schema_version: int = 1, sealed: type | None = None, *, written: int = 0
) -> Contract:
    return Contract(
        payload.__name__,
        schema_version,
        TypeAdapter(payload),
        None if sealed is None else TypeAdapter(sealed),
        written,
    )


CONTRACTS: Final[Mapping[str, Contract]] = {
    contract.name: contract
    for contract in (
        _contract(payloads.CommentPosted, 3, sealed=payloads.Text),
        _contract(payloads.ReplyPosted, 3, sealed=payloads.Text),
        _contract(payloads.CommentEdited, sealed=payloads.Body),
        _contract(payloads.CommentDeleted),
        _contract(payloads.CommentReported, sealed=payloads.Detail),
        _contract(payloads.CommentVoted),
        _contract(payloads.CommentApproved, sealed=payloads.Reason),
        _contract(payloads.CommentHidden, 2, sealed=payloads.Reason),
        _contract(payloads.CommentRestored, sealed=payloads.Reason),
        _contract(payloads.CommentRemoved, sealed=payloads.Reason),
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


def _as_it_is(payload: Json) -> Json:
    """The next version may say more. A comment of version 1 goes without a badge: nobody knows who was a
    moderator."""
    return payload


def _badge_by_name(payload: Json) -> Json:
    """Version 3 tells admins from moderators. Of version 2 it is known that they moderated."""
    return payload | {"badge": "moderator"} if payload.get("badge") else payload


STEPS: Final[Mapping[tuple[str, int], Upcaster]] = {
    ("CommentHidden", 1): _as_it_is,
    ("CommentPosted", 1): _as_it_is,
    ("CommentPosted", 2): _badge_by_name,
    ("ReplyPosted", 1): _as_it_is,
    ("ReplyPosted", 2): _badge_by_name,
}
UPCASTERS: Final = Upcasters(CONTRACTS, STEPS)
