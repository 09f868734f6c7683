"""An event as JSON: as recorded (contract, section 12), and with what is sealed, as it moves between logs."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from schema.events.envelope import Recorded, canonical
from services.core.thread import timestamp


def recorded(event: Recorded) -> dict[str, object]:
    """An event as recorded; its position is one of its lane. `data` is null where it is no JSON object: it is
    then in `data_base64`."""
    told: dict[str, object] = {
        "position": event.position,
        "lane": event.lane,
        "stream": str(event.stream_id),
        "version": event.version,
        "event_id": str(event.event_id),
        "type": event.type,
        "schema_version": event.schema_version,
        "actor": event.actor_id,
        "correlation_id": event.correlation_id,
        "causation_id": None if event.causation_id is None else str(event.causation_id),
        "recorded_at": timestamp(event.recorded_at),
        "data": orjson.Fragment(event.data),
        "hash": event.hash.hex(),
    }
    if not _is_object(event.data):
        told |= {"data": None, "data_base64": _base64(event.data)}
    return told


def line_of(event: Recorded) -> bytes:
    """A line that `event_of` makes the event of again, lane and position aside."""
    told = recorded(event)
    if told["data"] is not None and canonical(orjson.loads(event.data)) != event.data:
        told |= {"data": None, "data_base64": _base64(event.data)}  # the hash is over these very bytes
    told["sealed"] = None if event.sealed is None else _base64(event.sealed)
    told["key_id"] = None if event.key_id is None else str(event.key_id)
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def event_of(told: Mapping[str, Any]) -> Recorded:
    """The event of a line that `line_of` made, in lane 0. Its hash is yet to be checked.

    Raises ValueError, which says what is wrong.
    """
    try:
        data = canonical(told["data"]) if "data_base64" not in told else b64decode(told["data_base64"])
        recorded_at = datetime.fromisoformat(told["recorded_at"]).astimezone(UTC)
        causation, sealed, key = told["causation_id"], told["sealed"], told["key_id"]
        event = Recorded(
            stream_id=UUID(told["stream"]),
            version=told["version"],
            event_id=UUID(told["event_id"]),
            type=told["type"],
            schema_version=told["schema_version"],
            actor_id=told["actor"],
            correlation_id=told["correlation_id"],
            causation_id=None if causation is None else UUID(causation),
            recorded_at=recorded_at,
            data=data,
            sealed=None if sealed is None else b64decode(sealed),
            key_id=None if key is None else UUID(key),
            hash=bytes.fromhex(told["hash"]),
            lane=0,
            position=told["position"],
        )
    except KeyError as error:
        raise ValueError(f"an event without {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"an event with a member that is none: {error}") from error
    if not all(type(number) is int for number in (event.version, event.schema_version)):
        raise ValueError("an event whose version is no number")
    return event


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return False


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()
