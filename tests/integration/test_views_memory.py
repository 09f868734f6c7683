"""What a view takes of Redis's memory, all its keys included."""

from __future__ import annotations

import asyncio
from random import Random
from uuid import UUID

from redis.asyncio import Redis

from services.core.node import author_fragment, encode, text_fragment
from services.core.page import FoldIndex
from services.core.thread import CommentState
from services.readmodel.frames import Frames
from services.readmodel.views import Views
from tests.threads import Said, index_of, thread_of
from tests.viewing import written

COMMENTS = 10_000
SYLLABLES = [a + b + c for a in ("", *"bcdfghjklmnprstvwz") for b in "aeiou" for c in ("", *"nrstl")]


def texts(random: Random) -> list[str]:
    """Comments of 300 characters. Their words are made up, so that none is the dictionary's; they compress a
    little worse than English prose does."""
    words = ["".join(random.choices(SYLLABLES, k=random.randint(1, 4))) for _ in range(8_000)]
    often = [1 / (place + 2) for place in range(len(words))]
    made = []
    for _ in range(COMMENTS):
        text = " ".join(random.choices(words, often, k=120))
        made.append(text[:300].strip().capitalize())
    return made


async def test_a_comment_of_300_characters_takes_at_most_600_bytes(redis_url: str) -> None:
    random = Random(4)
    said: list[Said] = []
    for number in range(COMMENTS):
        parent = 0 if random.random() < 0.5 else max(number - random.randint(0, 500), 0)
        up, down = (random.randint(0, 9), random.randint(0, 3)) if random.random() < 0.1 else (0, 0)
        said.append(Said(parent, number + random.random(), CommentState.VISIBLE, None, up, down))
    thread = thread_of(said)
    nodes: dict[int, bytes] = {}
    for comment, text in zip(thread.comments.values(), texts(random), strict=True):
        comment.id = UUID(bytes=comment.id.bytes[:8] + random.randbytes(8))
        author = author_fragment(f"u-{random.randrange(30_000)}", f"N{random.randrange(900)}", None)
        nodes[comment.posted] = encode(comment, author, text_fragment(text))
    thread.comments = {comment.id: comment for comment in thread.comments.values()}
    index = FoldIndex(thread, nodes)
    # 275 bytes is what the docstrings of a large library came to, cut to this length.
    stored = [len(Frames().pack(0, 0, raw)) for raw in list(nodes.values())[:500]]
    assert 275 < sum(stored) / len(stored) < 300
    async with Redis.from_url(redis_url) as redis:
        await written(Views(redis), index_of(thread_of([Said()])))  # the scripts are loaded
        await redis.flushall(asynchronous=False)
        before = await used(redis)
        await written(Views(redis), index, 500)
        taken = (await used(redis) - before) / COMMENTS
    assert 300 < taken <= 600


async def used(redis: Redis) -> int:
    """What the server takes, once it has freed what it drops in the background."""
    async with asyncio.timeout(20):
        while (await redis.info("memory"))["lazyfree_pending_objects"]:
            await asyncio.sleep(0.01)
    return int((await redis.info("memory"))["used_memory"])
