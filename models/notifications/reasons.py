"""Which reason wins when a person is notified for several; the ranking is :attr:`NotificationReason.strength`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from models.enums import NotificationReason

BY_STRENGTH: Final = tuple(sorted(NotificationReason, key=lambda reason: reason.strength))
"""All reasons, weakest first."""


def strongest_reasons(audience: Mapping[NotificationReason, Iterable[int]]) -> dict[int, NotificationReason]:
    """Return the strongest reason to notify each person in an audience, by user id. Access is not checked."""
    reasons: dict[int, NotificationReason] = {}
    for reason in sorted(audience, key=lambda reason: reason.strength):
        # Stronger reasons come later and overwrite weaker ones.
        for user in audience[reason]:
            reasons[user] = reason
    return reasons
