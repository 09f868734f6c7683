"""Commands put into the Redis protocol by hiredis.

redis-py's asyncio connections put each argument in by themselves, in Python; only its blocking ones use
hiredis for it. A build sends some eight arguments for every comment.
"""

from __future__ import annotations

from typing import cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool

Value = str | bytes | int | float


class _Packing:
    """Mixed into a pool's class of connections."""

    def pack_command(self, *args: Value) -> list[bytes]:
        """As the connection's own, in one piece. Raises TypeError for what is no value of the protocol."""
        name = args[0]
        # redis-py names some commands by two words, which the protocol takes for two arguments.
        words = name.encode().split() if isinstance(name, str) else [name]
        return [hiredis.pack_command((*words, *args[1:]))]


def pack_by_hiredis(pool: ConnectionPool) -> None:
    """Have the connections that the pool opens from now on pack by hiredis."""
    own = pool.connection_class
    if not issubclass(own, _Packing):
        mixed = type(f"{own.__name__}ByHiredis", (_Packing, own), {})
        pool.connection_class = cast(type[AbstractConnection], mixed)
