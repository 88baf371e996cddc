"""The ``Prefer`` header: how long a caller wants to wait for an outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_WAIT_SECONDS: Final = 30
DEFAULT_WAIT_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Preference:
    """How long the caller wants to wait for an outcome. ``wait_seconds`` is ``None`` if no preference was stated."""

    respond_async: bool = False
    wait_seconds: int | None = None

    def effective_wait_seconds(self, *, default: int) -> int:
        """Return how many seconds to wait. ``default`` applies if the caller stated no preference."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default

    @property
    def applied_header(self) -> str | None:
        """The value of ``Preference-Applied``, or ``None`` if no preference was applied."""
        applied = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None:
            applied.append(f"wait={self.wait_seconds}")
        return ", ".join(applied) or None


@lru_cache(maxsize=256)
def parse_prefer(header: str | None) -> Preference:
    """Parse the ``Prefer`` header (RFC 7240).

    Unknown and malformed preferences are ignored. If a preference is repeated, its first value counts.
    """
    preferences: dict[str, str] = {}
    for each in (header or "").split(","):
        name, _, value = each.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = preferences.get("wait", "")
    seconds = min(int(wait[:9]), MAX_WAIT_SECONDS) if re.fullmatch(r"[0-9]+", wait) else None
    return Preference(respond_async=preferences.get("respond-async") == "", wait_seconds=seconds)
