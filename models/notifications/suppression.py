"""Who of an audience is told: rules with names, asked in the order they stand here. No input, no output.

The notifier decides by them; the gateway previews a comment by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from models.enums import DecisionOutcome, NotificationReason
from models.policy import Actor, OrganizationFacts, ProjectFacts, may_read


def strongest_reasons(audience: Mapping[NotificationReason, Iterable[int]]) -> dict[int, NotificationReason]:
    """Everyone in an audience, each with their strongest reason; access is not looked at."""
    reasons: dict[int, NotificationReason] = {}
    for reason in sorted(audience, key=lambda reason: reason.strength):
        # The stronger ones come last, and stay.
        reasons.update(dict.fromkeys(audience[reason], reason))
    return reasons


@dataclass(frozen=True, slots=True)
class Recipient:
    """One person of an audience, as things stand now. An account that is switched off has no role."""

    person: Actor
    reason: NotificationReason
    is_author: bool
    organization: OrganizationFacts
    projects: tuple[ProjectFacts, ...]


class NotificationDecision(NamedTuple):
    """What was decided, and by which rule: the name of what suppressed it, or the reason it was delivered for."""

    outcome: DecisionOutcome
    rule: str


def no_access(case: Recipient) -> bool:
    """Not a member any more, an account switched off, or none of the incident's projects in reach."""
    return not may_read(case.person, case.organization, case.projects)


def author(case: Recipient) -> bool:
    """Nobody is told of their own act."""
    return case.is_author


SUPPRESSIONS: Final[tuple[Callable[[Recipient], bool], ...]] = (no_access, author)
"""What keeps a person from being told; the first that holds is the rule written down."""


def decide_notification(case: Recipient) -> NotificationDecision:
    """Whether this person is told, and by which rule."""
    for rule in SUPPRESSIONS:
        if rule(case):
            return NotificationDecision(DecisionOutcome.SUPPRESSED, rule.__name__)
    return NotificationDecision(DecisionOutcome.DELIVERED, case.reason)


NO_ACCESS: Final = no_access.__name__
"""The rule whose people are also unsubscribed."""
