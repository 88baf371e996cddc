"""Functions that format timestamps for JSON: ISO 8601, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EARLIEST_OBSERVATION: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The earliest timestamp that an observation may have. An incident that it opens begins even earlier."""


def iso(moment: datetime) -> str:
    """Format a timestamp like ``2026-11-23T10:00:00Z``, with microseconds unless they are zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def iso_or_none(moment: datetime | None) -> str | None:
    """Format an optional timestamp as :func:`iso` does."""
    return None if moment is None else iso(moment)
