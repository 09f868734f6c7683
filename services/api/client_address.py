"""From where a request comes: the peer's address, or what a trusted proxy says of it.

`X-Forwarded-For` is read from the right, since everything to the left of the last untrusted address was
written by whoever sent it. From any other peer the header is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import structlog
from aiohttp import web
from multidict import istr

FORWARDED_FOR: Final = istr("X-Forwarded-For")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_log = structlog.get_logger("threadlog.api")

_LONGEST: Final = 512
"""Characters of the header that are read, the last ones."""
_HOPS: Final = 16
"""Addresses of the header that are read, the last ones."""
_REMEMBERED: Final = 8192
_V6_SITE: Final = 64
"""Bits of an IPv6 address that name a subscriber: the rest is theirs to choose (RFC 6177, RFC 8981)."""


class ClientAddresses:
    """Finds the client of a request; `trusted` are the networks of the proxies in front of this process.

    A peer on a unix socket is a proxy too, whatever is trusted: whoever may open the socket speaks for it.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._warned = False
        self._found = lru_cache(maxsize=_REMEMBERED)(self._resolve)

    def client(self, request: web.Request) -> Address | None:
        """The client's address; None where it is not known, as where a peer on a unix socket tells none."""
        return self._of(request)[0]

    def bucket(self, request: web.Request) -> str | None:
        """What the client's writes are counted by: an IPv4 address, or the /64 of an IPv6 address."""
        return self._of(request)[1]

    def within(self, request: web.Request, networks: Sequence[Network]) -> bool:
        """Whether the client is in one of these networks. A peer on a unix socket that tells no address is:
        whoever may open the socket may do what those networks may."""
        address = self.client(request)
        if address is None:
            return not request.remote
        return any(address in network for network in networks)

    def _of(self, request: web.Request) -> tuple[Address | None, str | None]:
        peer = request.remote or ""
        headers = request.headers
        if FORWARDED_FOR not in headers:
            return self._found(peer, "")
        return self.of(peer, ",".join(headers.getall(FORWARDED_FOR)))

    def of(self, peer: str, forwarded: str) -> tuple[Address | None, str | None]:
        """Address and bucket, of the peer's address ("" on a unix socket) and what the header says."""
        if len(forwarded) > _LONGEST:
            forwarded = forwarded[-_LONGEST:].partition(",")[2]  # the first one may be cut in two
        return self._found(peer, forwarded)

    def _resolve(self, peer: str, forwarded: str) -> tuple[Address | None, str | None]:
        address = _parsed(peer)
        if forwarded and address is not None and address.is_private and not self._trusts(address):
            self._warn()
        if forwarded and (self._trusts(address) if address is not None else not peer):
            for hop in forwarded.split(",")[: -_HOPS - 1 : -1]:
                told = _parsed(hop)
                if told is None:
                    break  # the proxy that is known last stands for whoever is behind it
                address = told
                if not self._trusts(told):
                    break
        return address, None if address is None else _bucket(address)

    def _warn(self) -> None:
        """Say once what else shows only when a whole site shares the limit of its proxy's address."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "a private peer's X-Forwarded-For is ignored: THREADLOG_TRUSTED_PROXIES does not name it"
            )

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parsed(text: str) -> Address | None:
    """An address as proxies write it: with a port, in brackets, with a zone, IPv4 inside IPv6."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _bucket(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _V6_SITE), strict=False))
