"""Times on the wire: ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EARLIEST_OBSERVATION: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""No observed value is older: an incident begins a while before the value that found it."""


def iso(moment: datetime) -> str:
    """A time on the wire: ``2026-11-23T10:00:00Z``, with microseconds where they are not zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def iso_or_none(moment: datetime | None) -> str | None:
    """The same, where there may be none."""
    return None if moment is None else iso(moment)
