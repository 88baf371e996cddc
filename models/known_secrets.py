"""Secrets that everyone knows: the defaults that are published with tocsin, for trying it out."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

KNOWN_SECRETS: Final = frozenset({"for-trying-out-only"})
"""Values of ``TOCSIN_SECRET`` in files of this repository."""

KNOWN_PASSWORDS: Final = frozenset({"tocsin", "gateway", "worker", "relay", "notifier", "guest", "postgres"})
"""Passwords in files of this repository, and those with which servers are installed."""

_URLS: Final = ("DATABASE_URL", "BROKER_URL", "REDIS_URL")


def settings_with_known_secrets(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the settings whose secret is known to everyone, given all settings by variable name.

    A server on a loopback address or a Unix socket may have any password, because only this host can reach it.
    """
    secrets = {each.strip() for each in environment.get("TOCSIN_SECRET", "").split(",")}
    names = ["TOCSIN_SECRET"] if secrets & KNOWN_SECRETS else []
    return names + [name for name in _URLS if _has_known_password(environment.get(name, ""))]


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on this host can be reached from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _has_known_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_remote = parts.hostname is not None and not is_loopback(parts.hostname)
    return is_remote and unquote(parts.password or "") in KNOWN_PASSWORDS
