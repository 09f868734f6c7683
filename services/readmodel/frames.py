"""How a node is stored: 12 bytes that the scripts read, and the node in a zstd frame.

    the parent's posting version, 4 bytes big-endian · created_at in µs, 8 bytes big-endian · frame

The frame is compressed with the dictionary beside this file, which services/ops/dictionary.py makes. It says
how long the node is, but names neither the format nor the dictionary. Frames of one node may differ between
releases of zstd: only what is in them is ever compared.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, cast

from zstandard import (
    FORMAT_ZSTD1_MAGICLESS,
    ZstdCompressionDict,
    ZstdCompressionParameters,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdError,
)

from services.core.node import PARENT_BYTES

_DICTIONARY: Final = files("services.readmodel").joinpath("nodes.zdict").read_bytes()
DIGEST: Final = hashlib.sha256(_DICTIONARY).hexdigest()[:6]
"""Names the dictionary in the views' format."""

_LEVEL: Final = 3
_PLACE: Final = struct.Struct(">IQ")


class FrameDamaged(Exception):
    """What is stored is no node: the view that holds it is broken."""


def _compressor() -> ZstdCompressor:
    trained = ZstdCompressionDict(_DICTIONARY)
    parameters = ZstdCompressionParameters.from_level(
        _LEVEL, format=FORMAT_ZSTD1_MAGICLESS, write_content_size=1, write_checksum=0, write_dict_id=0
    )
    return ZstdCompressor(dict_data=trained, compression_params=parameters)


class Frames:
    """Packs and unpacks nodes; not for several threads at once."""

    __slots__ = ("_compress", "_decompress")

    def __init__(self) -> None:
        self._compress = _compressor().compress
        self._decompress = ZstdDecompressor(
            dict_data=ZstdCompressionDict(_DICTIONARY), format=FORMAT_ZSTD1_MAGICLESS
        ).decompress

    def pack(self, parent: int, created: int, raw: bytes) -> bytes:
        """The node `raw` as it is stored; `created` is its created_at in microseconds."""
        return _PLACE.pack(parent, created) + self._compress(raw)

    def pack_node(self, created: int, raw: bytes) -> bytes:
        """As `pack`, with the parent that the node itself begins with."""
        return raw[:PARENT_BYTES] + created.to_bytes(8, "big") + self._compress(raw)

    def unpack(self, stored: bytes) -> bytes:
        """The node. Raises FrameDamaged."""
        try:
            return self._decompress(stored[_PLACE.size :])
        except (ZstdError, MemoryError) as error:
            raise FrameDamaged(str(error)) from error

    def unpack_all(self, stored: Sequence[bytes | None]) -> list[bytes]:
        """The nodes. Raises FrameDamaged, for one that is not there too."""
        if None in stored:
            raise FrameDamaged("a node is gone")
        decompress = self._decompress
        try:
            return [decompress(one[12:]) for one in cast(Sequence[bytes], stored)]
        except (ZstdError, MemoryError) as error:
            raise FrameDamaged(str(error)) from error


def place(stored: bytes) -> tuple[int, int]:
    """The parent's posting version, and created_at in microseconds. Raises FrameDamaged."""
    try:
        parent, created = _PLACE.unpack_from(stored)
    except struct.error as error:
        raise FrameDamaged(str(error)) from error
    return parent, created
