"""From where a request comes: the peer, or what a trusted proxy says."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from services.api.client_address import ClientAddresses

PROXIES = ClientAddresses([ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48")])


def found(peer: str, forwarded: str, addresses: ClientAddresses = PROXIES) -> str | None:
    address, _ = addresses.of(peer, forwarded)
    return None if address is None else str(address)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # an untrusted peer says what it likes
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the left is the client's own invention
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", ", ,", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", '"[2001:db8::7]:4711"', "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:ffff::1", "2001:db8::7", "2001:db8::7"),
        ("", "", None),
        ("", "198.51.100.1", "198.51.100.1"),  # a unix socket: who may open it speaks for it
        ("/run/client.sock", "198.51.100.1", None),
    ],
)
def test_the_client_is_the_last_one_that_no_trusted_proxy_is(
    peer: str, forwarded: str, client: str | None
) -> None:
    assert found(peer, forwarded) == client


def test_no_proxy_is_trusted_by_default() -> None:
    assert found("127.0.0.1", "198.51.100.1", ClientAddresses([])) == "127.0.0.1"


def test_only_the_end_of_a_long_header_is_read() -> None:
    # given what a client wrote itself, as long as headers may be, and what the proxy put behind it
    invented = ", ".join(["6.6.6.6"] * 1500)
    assert found("10.0.0.1", f"{invented}, 198.51.100.1") == "198.51.100.1"
    # more trusted hops than anyone has, all of them read as far as the bound
    assert found("10.0.0.1", ", ".join(["6.6.6.6"] + ["10.0.0.2"] * 40)) == "10.0.0.2"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.1", "198.51.100.2", False),
        ("198.51.100.1", "::ffff:198.51.100.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ],
)
def test_writes_are_counted_by_address_and_in_ipv6_by_subscriber(one: str, other: str, same: bool) -> None:
    assert (PROXIES.of(one, "")[1] == PROXIES.of(other, "")[1]) is same


def test_a_proxy_that_was_not_named_is_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    def said() -> int:
        """Wherever another test has sent the log."""
        return "".join(capfd.readouterr()).count("X-Forwarded-For is ignored")

    unnamed = ClientAddresses([])
    unnamed.of("8.8.8.8", "198.51.100.1")  # a stranger may send what they like
    assert said() == 0
    for number in range(3):
        unnamed.of("172.17.0.2", f"198.51.100.{number}")
    assert said() == 1
