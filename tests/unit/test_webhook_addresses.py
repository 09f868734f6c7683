"""Which addresses a webhook may be sent to."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from services.errors import ConfigurationError
from services.eventlog.endpoints import check_url
from services.workers.channels.public import AddressRefused, is_public, sockets

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_reached_from_everywhere_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_is_reached_from_everywhere_is_public(address: str) -> None:
    assert is_public(ip_address(address))


def found(address: str) -> tuple[int, int, int, str, tuple[object, ...]]:
    """An address as getaddrinfo tells it."""
    six = ":" in address
    name = (address, 443, 0, 0) if six else (address, 443)
    return socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, 0, "", name


@pytest.mark.parametrize("address", PRIVATE)
def test_there_is_no_socket_to_a_private_address(address: str) -> None:
    with pytest.raises(AddressRefused, match="no public address"):
        sockets((), public=True)(found(address))


def test_there_are_sockets_to_public_and_to_allowed_addresses() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    outside, inside = sockets(allowed, public=True), sockets(allowed, public=False)
    for address in ("10.1.2.3", "fd12::1", "::ffff:10.1.2.3"):
        outside(found(address)).close()
        inside(found(address)).close()
    outside(found("1.1.1.1")).close()
    with pytest.raises(AddressRefused, match="http:// is for allowed networks"):
        inside(found("1.1.1.1"))
    for make in (outside, inside):
        with pytest.raises(AddressRefused, match="no public address"):
            make(found("10.2.0.1"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "blog.example",
        "ftp://blog.example/",
        "file:///etc/passwd",
        "https://",
        "https://:443/",
        "https://blog.example:0/",
        "https://blog.example:99999/",
        "https://blog.example/a b",
        "https://blog.example/\n",
        "https://bl\u00f6g.example/",
        "https://user@blog.example/",
        "https://user:secret@blog.example/",
        "https://@blog.example/",
        "https://blog.example/#part",
        "https://[::1/",
        "https://blog.example/" + "a" * 2_000,
    ],
)
def test_what_is_no_endpoints_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://blog.example", "https://[2606:4700::1]:8443/a?b=c", "http://127.0.0.1/"]
)
def test_an_endpoints_address_is_taken(url: str) -> None:
    assert check_url(url) == url
