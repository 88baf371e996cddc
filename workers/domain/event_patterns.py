"""The patterns of event types by which a webhook or a chat destination asks for events."""

from __future__ import annotations

from typing import Final

from models.notifications.webhook import family_pattern
from models.refusals import InvalidFields
from tasks.events import EVENTS, UNPUBLISHED

_TYPES: Final = EVENTS.keys() - UNPUBLISHED
PATTERNS: Final = frozenset({"*", *_TYPES, *map(family_pattern, _TYPES)})
"""Every pattern that matches an event."""


def check_patterns(patterns: tuple[str, ...]) -> None:
    """Check that each pattern matches an event.

    :raises InvalidFields: if one of them matches none.
    """
    errors = {
        str(index): [f'No event matches "{pattern}".']
        for index, pattern in enumerate(patterns)
        if pattern not in PATTERNS
    }
    if errors:
        raise InvalidFields({"events": errors})
