"""What the gateway does for chat destinations before a command is accepted: it encrypts their URLs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.refusals import MalformedRequest
from models.secrets import SecretBox

NOT_CONFIGURED: Final = "Chat is not available on this server: its operators must set TOCSIN_SECRET for all processes."


@dataclass(frozen=True, slots=True)
class UrlKeeper:
    """Encrypts the URLs of chat destinations. ``box`` is ``None`` without ``TOCSIN_SECRET``."""

    box: SecretBox | None

    def seal(self, url: str) -> bytes:
        """Return the URL, encrypted.

        :raises MalformedRequest: without ``TOCSIN_SECRET``.
        """
        if self.box is None:
            raise MalformedRequest(NOT_CONFIGURED)
        return self.box.encrypt(url)
