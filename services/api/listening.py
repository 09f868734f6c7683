"""One port for several processes of this host.

On Linux each process listens on a socket of its own (SO_REUSEPORT): the kernel spreads the connections evenly
(measured: 32 of them over two processes as 18 and 14), and a process that dies takes its socket with it. One
socket that all accept from gave one process 31 of the 32: whoever wakes first accepts all that wait.
Elsewhere SO_REUSEPORT spreads nothing, and one socket is what there is.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import Final

_SPREADS: Final = sys.platform == "linux"
"""Whether SO_REUSEPORT divides the connections (socket(7), Linux 3.9)."""
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Port:
    """An address and a port, held from when it is made until `close`. 0 is any free port."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError where the port is taken, or the address is none of this host's."""
        self._held: list[socket.socket] = []
        self.port = port
        refused: OSError | None = None
        try:
            for family, address in _addresses(host, port):
                try:
                    self._hold(family, address)
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    refused = error  # as of `localhost` where there is no IPv6; another one may do
            if not self._held:
                raise refused or OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this host")
        except BaseException:
            self.close()
            raise

    def _hold(self, family: int, host: str) -> None:
        if self.port:
            # Sockets that share a port do not mind others that do: only one that does not finds them.
            _bound(family, host, self.port, shared=False).close()
        held = _bound(family, host, self.port, shared=_SPREADS)
        self._held.append(held)
        self.port = int(held.getsockname()[1])

    def sockets(self) -> list[socket.socket]:
        """The sockets that the calling process is to listen on, one for each address."""
        if not _SPREADS:
            return [held.dup() for held in self._held]
        return [
            _bound(held.family, str(held.getsockname()[0]), self.port, shared=True) for held in self._held
        ]

    def close(self) -> None:
        """Let go of the port. Those who listen go on."""
        for held in self._held:
            with contextlib.suppress(OSError):
                held.close()


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Families and addresses that a host's name stands for."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(int(family), str(address[0])) for family, _, _, _, address in found]


def _bound(family: int, host: str, port: int, *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made
