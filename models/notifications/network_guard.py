"""The guard against server-side request forgery: which addresses tocsin may connect to on behalf of a tenant.

A tenant chooses the URL of a webhook, so that it could name a server in the operator's own network. The URL's text does
not tell: one address has dozens of spellings, and a name may resolve to any address, and to another one a second later.
Therefore only resolved addresses are judged, every one of them, and the connection is made to an address that was
judged (:mod:`workers.deliver.http_sender`).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS: Final = 2000
RESOLUTION_THREADS: Final = 64
"""How many names are resolved at the same time. A tenant's name server that does not answer occupies a thread for as
long as the system's resolver waits, so there are more threads than one tenant is likely to occupy."""


NO_URL: Final = "Enter a valid URL."
TOO_LONG: Final = f"Ensure this field has no more than {MAX_URL_CHARACTERS} characters."
WRONG_SCHEME: Final = "The URL must start with https://."
WITH_USER: Final = "The URL may not contain a user name or a password."
WRONG_PORT: Final = "The port must be between 1 and 65535."
NOT_PUBLIC: Final = "This address may not be reached: it is not public."
NOT_ENCRYPTED: Final = "This address may only be reached by https."

URL_ERRORS: Final = frozenset({NO_URL, WRONG_SCHEME, WITH_USER, WRONG_PORT, NOT_PUBLIC, NOT_ENCRYPTED})
"""Every sentence of a :class:`ForbiddenTarget`, except the one about the length."""

FORBIDDEN_NETWORKS: Final[tuple[Network, ...]] = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of some clouds
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and the metadata service of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocols
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "::/96",  # unspecified, loopback, IPv4-compatible
            "::ffff:0:0/96",  # IPv4-mapped
            "::ffff:0:0:0/96",  # IPv4-translated
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",  # NAT64 within a network
            "100::/64",  # discarded
            "2001::/23",  # IETF protocols, among them Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fc00::/7",  # private
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local
            "ff00::/8",  # multicast
        ),
    )
)
"""The networks to which no connection is made. Python's ``is_global`` alone is not enough: depending on its version, it
lets pass multicast, and IPv6 addresses which contain an IPv4 address that a gateway in the network may translate."""

# ASCII control characters and white space: parsers disagree on whether to remove them.
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\\]")


class ForbiddenTarget(ValueError):
    """Raised when tocsin must not connect to a URL. The message is a sentence for the tenant, without addresses."""


class Target(NamedTuple):
    """The parts of a URL that say where to connect. ``port`` is never 0."""

    scheme: str
    host: str
    port: int


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A function that resolves a host and a port to addresses.

It raises ``OSError`` if the name does not exist or cannot be resolved now.
"""


@dataclass(frozen=True, slots=True)
class NetworkGuard:
    """The judgement on URLs and addresses. ``allowed`` holds the networks that may be reached although not public."""

    allowed: tuple[Network, ...] = ()

    def check_url(self, url: str) -> Target:
        """Return the target of a URL, after checks that need no resolution.

        :raises ForbiddenTarget: if the URL is malformed or ambiguous, or if its scheme is never allowed.
        """
        target = parse_target(url)
        if target.scheme == "http" and not self.allowed:
            raise ForbiddenTarget(WRONG_SCHEME)
        return target

    def check_addresses(self, scheme: str, addresses: Iterable[str]) -> None:
        """Check every address to which a target's host resolves.

        :raises ForbiddenTarget: if any of them may not be reached, or not with this scheme.
        """
        for each in addresses:
            address = _parse_address(each)
            is_allowed = any(address in network for network in self.allowed)
            if not is_allowed and not is_public(address):
                raise ForbiddenTarget(NOT_PUBLIC)
            if not is_allowed and scheme != "https":
                raise ForbiddenTarget(NOT_ENCRYPTED)


def parse_target(url: str) -> Target:
    """Return the target of a URL.

    :raises ForbiddenTarget: if the URL is malformed or ambiguous: parsers would find different hosts in it.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise ForbiddenTarget(TOO_LONG)
    if _UNSAFE.search(url):
        raise ForbiddenTarget(NO_URL)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ForbiddenTarget(NO_URL) from None
    if parts.scheme not in ("http", "https"):
        raise ForbiddenTarget(WRONG_SCHEME)
    if "@" in parts.netloc:
        raise ForbiddenTarget(WITH_USER)
    if not host:
        raise ForbiddenTarget(NO_URL)
    return Target(parts.scheme, host, _port(parts.netloc, parts.scheme))


def _port(netloc: str, scheme: str) -> int:
    _, separator, digits = netloc.rpartition("]")[2].rpartition(":")
    if not separator:
        return 443 if scheme == "https" else 80
    if not re.fullmatch("[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        raise ForbiddenTarget(WRONG_PORT)
    return int(digits)


def is_public(address: Address) -> bool:
    """Return whether an address belongs to a server on the public internet."""
    return address.is_global and not any(address in network for network in FORBIDDEN_NETWORKS)


def _parse_address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise ForbiddenTarget(NOT_PUBLIC) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        # An interface of this host.
        raise ForbiddenTarget(NOT_PUBLIC)
    return address


def parse_networks(setting: str) -> tuple[Network, ...]:
    """Return the networks in a comma-separated list of CIDRs.

    :raises ValueError: if one of them is invalid.
    """
    return tuple(ip_network(part) for each in setting.split(",") if (part := each.strip()))


# --- resolution ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostResolver:
    """Resolves host names with the system's resolver, in threads of its own.

    A name server that does not answer occupies these threads, and not those that the process needs elsewhere.
    """

    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(RESOLUTION_THREADS, thread_name_prefix="resolver")
    )

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, without duplicates, in the order in which to try them.

        :raises OSError: if the name does not exist or cannot be resolved now.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _resolve, host, port)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # A label of the name is empty or too long.
        raise OSError(f"{host!r} is no host name") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
