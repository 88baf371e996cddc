"""The ``Prefer`` header: how long a caller wants to wait, and whether unknown fields and parameters are errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_WAIT_SECONDS: Final = 30
DEFAULT_WAIT_SECONDS: Final = 10
STRICT: Final = "strict"
STRICT_APPLIED: Final = f"handling={STRICT}"
"""What ``Preference-Applied`` says about a strict request."""


@dataclass(frozen=True, slots=True)
class Preference:
    """The caller's preferences. ``wait_seconds`` is ``None`` if the caller did not say how long to wait for an outcome.

    ``is_strict`` means that body fields and query parameters that tocsin does not know are errors
    (``handling=strict``). Without it they are ignored.
    """

    respond_async: bool = False
    wait_seconds: int | None = None
    is_strict: bool = False

    def effective_wait_seconds(self, *, default: int) -> int:
        """Return how many seconds to wait. ``default`` applies if the caller stated no preference."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default

    @property
    def applied_to_wait(self) -> str | None:
        """The preferences about waiting, as in ``Preference-Applied``, or ``None`` if the caller stated none."""
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
    return Preference(
        respond_async=preferences.get("respond-async") == "",
        wait_seconds=seconds,
        is_strict=preferences.get("handling", "").lower() == STRICT,
    )
