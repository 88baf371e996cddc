"""The absolute URL under which callers reach the gateway, for the URLs in its responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from starlette.types import Scope

from gateway.http.parsing import Headers

Network = IPv4Network | IPv6Network

_HOST: Final = re.compile(r"(?:[A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?")


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """Knows the start of the gateway's absolute URLs: scheme, host and, if it is served under a path, that path.

    ``configured`` is ``TOCSIN_PUBLIC_URL``, without a slash at its end. If it is not set, the request decides.
    ``trusted_proxies`` are the networks from which ``X-Forwarded-Proto``, ``-Host`` and ``-Prefix`` count.
    """

    configured: str | None = None
    trusted_proxies: Sequence[Network] = ()

    def of_request(self, scope: Scope, headers: Headers) -> str:
        """Return the URL under which the caller of this request reaches the gateway, without a slash at its end.

        A header that is not a valid scheme, host or path is ignored. If several proxies have added to a header, only
        the last value counts, which is the one that the trusted proxy itself has seen.
        """
        if self.configured:
            return self.configured
        proto = host = prefix = None
        if self._is_trusted(scope):
            proto = _last(headers, b"x-forwarded-proto")
            host = _last(headers, b"x-forwarded-host")
            prefix = _last(headers, b"x-forwarded-prefix")
        scheme = proto.lower() if proto and proto.lower() in ("http", "https") else scope["scheme"]
        own = host if host and _HOST.fullmatch(host) else _host_of(scope, headers)
        path = prefix.rstrip("/") if prefix and _PREFIX.fullmatch(prefix) else ""
        return f"{scheme}://{own}{path}"

    def address_of(self, scope: Scope, headers: Headers) -> str:
        """Return the address of the caller: the last one that a trusted proxy names, or else that of the peer."""
        peer = str((scope.get("client") or ("unknown",))[0])
        if not self._is_trusted(scope):
            return peer
        for each in reversed((headers.joined(b"x-forwarded-for") or "").split(",")):
            try:
                address = ip_address(each.strip())
            except ValueError:
                break
            if not any(address in network for network in self.trusted_proxies):
                return str(address)
        return peer

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope.get("client")
        if not client or not any(name.startswith(b"x-forwarded-") for name, _ in scope["headers"]):
            return False
        try:
            peer = ip_address(client[0])
        except ValueError:
            return False
        # A server that listens on an IPv6 socket sees IPv4 peers as ::ffff:a.b.c.d.
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self.trusted_proxies)


def origin_of(url: str) -> str:
    """Return the origin of an absolute URL: its scheme and host in lower case."""
    return "/".join(url.split("/")[:3]).lower()


def _host_of(scope: Scope, headers: Headers) -> str:
    host = headers.get(b"host")
    if host and _HOST.fullmatch(host):
        return host
    name, port = scope.get("server") or ("localhost", None)
    return f"{name}:{port}" if port else str(name)


def _last(headers: Headers, name: bytes) -> str | None:
    values = headers.joined(name)
    return values.rpartition(",")[2].strip(" \t") if values else None
