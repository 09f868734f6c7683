"""Which addresses a webhook may be sent to, checked on the socket itself.

A name is looked up by whoever connects, and the address that comes of it is checked as its socket is made:
there is no time between the check and the connection in which the answer could change, and no other way to a
socket, be it a literal address, a redirect or the second of two answers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNICAST: Final = IPv6Network("2000::/3")
"""All of IPv6 that is given out to be reached from everywhere (RFC 4291, section 2.4)."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator (RFC 6052)."""
_RELAYS: Final = IPv4Network("192.88.99.0/24")
"""Whatever stands behind them is 6to4's (RFC 7526)."""


class AddressRefused(OSError):
    """Nothing is sent to this address."""


def is_public(address: Address) -> bool:
    """Whether an address is one that is reached from everywhere, and so is the one inside it, if any."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _RELAYS
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    inside = address.ipv4_mapped or address.sixtofour
    if inside is not None:
        return is_public(inside)
    return address in _UNICAST and address.is_global


def is_among(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address, or the IPv4 address that it maps, is in one of these networks."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in networks)


def sockets(allowed: Sequence[Network], *, public: bool) -> Callable[[Any], socket.socket]:
    """Make sockets to allowed networks, and to `public` addresses or not; others raise AddressRefused."""

    def make(found: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, name = found
        address = ip_address(str(name[0]))
        if not is_among(address, allowed) and not (public and is_public(address)):
            why = "http:// is for allowed networks" if is_public(address) else "no public address"
            raise AddressRefused(f"{address}: {why}")
        return socket.socket(family, kind, protocol)

    return make
