"""What the gateway does for webhooks before a command is accepted: it checks URLs, and generates secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from models.notifications.network_guard import ForbiddenTarget, NetworkGuard, Resolve
from models.notifications.webhook import new_secret
from models.refusals import MalformedRequest, Unavailable
from models.secrets import SecretBox, UnreadableSecret

RESOLUTION_SECONDS: Final = 0.5
"""How long the resolution of the names in a request may take, because the caller waits for it."""

NOT_CONFIGURED: Final = (
    "Webhooks are not available on this server: its operators must set TOCSIN_SECRET for all processes."
)


@dataclass(frozen=True, slots=True)
class TargetChecker:
    """Checks whether tocsin may connect to URLs that callers choose.

    A name that cannot be resolved in time is accepted, because it may exist later. The deliverer checks every address
    again before it connects.
    """

    guard: NetworkGuard
    resolve: Resolve
    seconds: float = RESOLUTION_SECONDS

    async def find_forbidden(self, urls: Iterable[str]) -> dict[str, str]:
        """Return the URLs to which tocsin may not connect, each with a sentence that says why."""
        distinct = list(dict.fromkeys(urls))
        deadline = asyncio.get_running_loop().time() + self.seconds
        reasons = await asyncio.gather(*(self._reason(url, deadline) for url in distinct))
        return {url: reason for url, reason in zip(distinct, reasons, strict=True) if reason is not None}

    async def _reason(self, url: str, deadline: float) -> str | None:
        try:
            target = self.guard.check_url(url)
            async with asyncio.timeout_at(deadline):
                addresses = await self.resolve(target.host, target.port)
            self.guard.check_addresses(target.scheme, addresses)
        except ForbiddenTarget as error:
            return str(error)
        except (OSError, TimeoutError):
            return None
        return None


@dataclass(frozen=True, slots=True)
class SecretKeeper:
    """Generates webhooks' secrets, and encrypts and decrypts them. ``box`` is ``None`` without ``TOCSIN_SECRET``."""

    box: SecretBox | None

    def seal_new(self) -> bytes:
        """Return a new secret, encrypted.

        :raises MalformedRequest: without ``TOCSIN_SECRET``.
        """
        if self.box is None:
            raise MalformedRequest(NOT_CONFIGURED)
        return self.box.encrypt(new_secret())

    def unseal(self, sealed: bytes) -> str:
        """Return a secret in plain.

        :raises Unavailable: if it was encrypted with a secret that ``TOCSIN_SECRET`` does not contain any more.
        """
        try:
            if self.box is not None:
                return self.box.decrypt(sealed)
        except UnreadableSecret as error:
            raise Unavailable(f"The secret cannot be read: {error}.") from None
        raise MalformedRequest(NOT_CONFIGURED)
