"""A webhook reaches public addresses only, however its URL is spelled and whatever its name resolves to."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from models.notifications.network_guard import (
    FORBIDDEN_NETWORKS,
    NOT_PUBLIC,
    ForbiddenTarget,
    NetworkGuard,
    is_public,
    parse_networks,
    parse_target,
)
from tests.delivery.webhook_receiver import OK, Receiver, receiving, resolving_to, send
from workers.deliver.channel import Verdict

SPELLINGS = (
    # IPv4 in all the forms that resolvers read.
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.000.000.001", "0177.0.0.1", "0177.0.0.01", "0x7f.0.0.1",
    "0x7f.1", "0x7f000001", "0X7F000001", "2130706433", "017700000001", "0x7f.0x0.0x0.0x1", "127.0.0.0x1", "127.0x1",
    "00000177.0.0.1", "127.255.255.254", "127.0.0.2", "0", "0.0.0.0", "0x0", "00", "0.0", "localhost", "LOCALHOST",
    "localhost.", "LocalHost",
    # Characters that become digits, dots or letters.
    "１２７.０.０.１", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "①②⑦.⓪.⓪.①", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ｌｏｃａｌｈｏｓｔ",
    "loc\u00adalhost", "%31%32%37.0.0.1", "127.0.0.1%20", "127%2e0%2e0%2e1",
    # IPv6, and IPv4 within it.
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]", "[0::1]", "[::0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::FFFF:7F00:0001]", "[::127.0.0.1]",
    "[::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2002:7f00:0001::1]", "[2001:0:7f00:1::]", "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fec0::1]", "[fc00::1]",
    "[fd00::1]", "[ff02::1]", "[::1%25lo]", "[fe80::1%25lo]", "[::1%lo]",
    # Tricks with the parts of a URL.
    "user@127.0.0.1", "example.com@127.0.0.1", "example.com:80@127.0.0.1", "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com", "example.com\\@127.0.0.1", "127.0.0.1?@example.com", "/127.0.0.1", "//127.0.0.1",
)  # fmt: skip
"""Spellings of this host, and of others that are not public, as the part of a URL between the scheme and the port."""


@pytest.fixture
def trap() -> Iterator[Receiver]:
    """A receiver on all addresses of this host, which must not see a connection."""
    with receiving(OK, hosts=("0.0.0.0", "::1")) as receiver:
        yield receiver


def test_at_least_sixty_spellings_are_tried() -> None:
    assert len(set(SPELLINGS)) >= 60


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_private_address_is_connected_to(trap: Receiver, scheme: str) -> None:
    # An allowed network lets http pass, so that only the address decides.
    results = {
        spelling: send(f"{scheme}://{spelling}:{trap.port}/hook", allow="192.0.2.0/24") for spelling in SPELLINGS
    }

    assert {spelling for spelling, result in results.items() if result.verdict is Verdict.DELIVERED} == set()
    assert {spelling for spelling, result in results.items() if not result.error} == set()
    assert trap.connections == 0


def test_the_trap_sees_a_connection_that_is_allowed(trap: Receiver) -> None:
    send(f"http://2130706433:{trap.port}/hook", allow="127.0.0.0/8")

    assert trap.connections == 1


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("93.184.215.14", "127.0.0.1"), ("127.0.0.1", "93.184.215.14"), ("::1",), ("2606:4700::1", "::1")],
)
def test_a_name_with_any_address_that_is_not_public_is_refused(trap: Receiver, addresses: tuple[str, ...]) -> None:
    result = send(f"https://rebinding.example:{trap.port}/hook", allow="", resolve=resolving_to(*addresses))

    assert (result.verdict, result.error) == (Verdict.PASSING, NOT_PUBLIC)
    assert trap.connections == 0


def test_a_name_is_resolved_once_so_that_it_cannot_change_between_check_and_connection(trap: Receiver) -> None:
    answers = iter([["192.0.2.1"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    send(f"http://rebinding.example:{trap.port}/hook", allow="192.0.2.0/24", resolve=rebinding, total_seconds=0.3)

    assert asked == ["rebinding.example"]
    assert trap.connections == 0


def test_a_redirect_to_another_address_is_not_followed(trap: Receiver) -> None:
    for status in (301, 302, 303, 307, 308):
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{trap.port}/\r\nContent-Length: 0\r\n\r\n"
        with receiving(answer.encode()) as redirecting:
            result = send(redirecting.url)

        assert (result.verdict, result.status) == (Verdict.PASSING, status)
    assert trap.connections == 0


@pytest.mark.parametrize("network", FORBIDDEN_NETWORKS, ids=str)
def test_neither_end_of_a_forbidden_network_is_public(network: object) -> None:
    first, last = network[0], network[-1]  # type: ignore[index]

    assert (is_public(first), is_public(last)) == (False, False)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2001:4860:4860::8888"])
def test_an_ordinary_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


def test_http_is_for_allowed_networks_only() -> None:
    guard = NetworkGuard(parse_networks("10.1.0.0/16, fd00::/8"))

    guard.check_addresses("http", ["10.1.2.3", "fd00::1"])
    guard.check_addresses("https", ["8.8.8.8"])

    for addresses in (["8.8.8.8"], ["10.2.0.1"], ["10.1.2.3", "8.8.8.8"], ["::ffff:10.1.2.3"]):
        with pytest.raises(ForbiddenTarget):
            guard.check_addresses("http", addresses)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", ("https", "example.com", 443)),
        ("http://example.com/a?b=c", ("http", "example.com", 80)),
        ("https://example.com:1/", ("https", "example.com", 1)),
        ("https://example.com:65535/", ("https", "example.com", 65535)),
        ("https://[2606:4700::1]:8443/x", ("https", "2606:4700::1", 8443)),
        ("HTTPS://EXAMPLE.com/", ("https", "example.com", 443)),
    ],
)
def test_a_url_has_a_target(url: str, target: tuple[str, str, int]) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com:0/", "https://example.com:65536/", "https://example.com:-1/", "https://example.com:x/",
        "https://example.com:/", "https://example.com:0x1bb/", "https://example.com:99999999999/", "https://",
        "https:///hook", "ftp://example.com/", "file:///etc/passwd", "example.com", "//example.com/",
        "https://a:b@example.com/", "https://@example.com/", "https://example.com\\@evil.example/",
        "https://exam ple.com/", "https://example.com/\n", "https://example.com/a\tb", "https://[::1", "https://[x]/",
        "https://example.com/" + "a" * 2000,
    ],
)  # fmt: skip
def test_a_malformed_or_ambiguous_url_has_none(url: str) -> None:
    with pytest.raises(ForbiddenTarget):
        parse_target(url)
