"""What belongs together on a page of an inbox: "Ann and 4 others replied to your comment".

Made on reading, of the page's own items: each of them is in one bundle, and the list is paged as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson

from services.core.node import decode
from services.core.thread import CommentState, timestamp
from services.eventlog.inbox import Notification
from services.language.phrases import Phrases, phrases
from services.projection.reader import OneComment

ACTORS: Final = 3
"""People that a bundle shows: the latest."""


@dataclass(slots=True)
class _Bundle:
    first: Notification
    parent_id: UUID | None
    items: list[Notification] = field(default_factory=list)
    actors: dict[str, dict[str, Any]] = field(default_factory=dict)


def bundled(told: Iterable[tuple[Notification, OneComment | None]], language: str) -> list[dict[str, object]]:
    """The bundles of these notifications, which come newest first, and so do they.

    Those of one thread and reason go together, replies by the comment that they answer. Who cannot be named,
    since their comment is not visible any more, counts among the items, and not among the others.
    """
    bundles: dict[object, _Bundle] = {}
    for one, found in told:
        parent_id = found.path[-1] if one.reason == "reply" and found is not None and found.path else None
        # A comment that cannot be shown answers nobody knows which: it is alone.
        place = one.id if one.reason == "reply" and parent_id is None else parent_id
        bundle = bundles.setdefault((one.stream_id, one.reason, place), _Bundle(one, parent_id))
        bundle.items.append(one)
        if found is not None and (node := decode(found.picked.raw)).state is CommentState.VISIBLE:
            author = orjson.loads(node.author)
            if author is not None:
                bundle.actors.setdefault(author["id"], author)
    return [_shown(bundle, phrases(language)) for bundle in bundles.values()]


def _shown(bundle: _Bundle, speaks: Phrases) -> dict[str, object]:
    first, actors = bundle.first, list(bundle.actors.values())
    others = max(0, len(actors) - 1)
    name = actors[0]["name"] or actors[0]["id"] if actors else None
    return {
        "reason": first.reason,
        "thread": {"key": first.key, "title": first.title, "url": first.url},
        "parent_id": None if bundle.parent_id is None else str(bundle.parent_id),
        "ids": [str(one.id) for one in bundle.items],
        "actors": actors[:ACTORS],
        "count": len(bundle.items),
        "others": others,
        "sentence": speaks.told(first.reason, name, others),
        "created_at": timestamp(first.created_at),
        "read": all(one.read for one in bundle.items),
    }
