"""Whom an event concerns: one line per event type, read down the table. No input, no output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from models.enums import NotificationReason
from models.messaging.trace import NO_TRACE, Trace
from models.notifications.suppression import strongest_reasons
from tasks.events import CommentDeleted, CommentEdited, CommentPosted, Mentioned, StatusChanged


@dataclass(frozen=True, slots=True)
class NotifiableEvent:
    """One event as far as people are concerned: who did it, on what, and whom it names."""

    event_id: UUID
    type: str
    organization_id: int
    incident_id: int
    activity_id: int
    actor_id: int
    mentioned_users: tuple[int, ...] = ()
    mentioned_teams: tuple[int, ...] = ()
    trace: Trace = NO_TRACE


@dataclass(frozen=True, slots=True)
class Audiences:
    """Who is behind an incident and behind a team.

    ``subscribers`` goes by incident. ``on_team`` goes by organization and team: active people with an active place.
    """

    subscribers: Mapping[int, Iterable[int]]
    team_members: Mapping[tuple[int, int], Iterable[int]]


Source = Callable[[NotifiableEvent, Audiences], Iterable[int]]


def mentioned(telling: NotifiableEvent, _circles: Audiences) -> Iterable[int]:
    """People mentioned one by one."""
    return telling.mentioned_users


def on_mentioned_teams(telling: NotifiableEvent, circles: Audiences) -> Iterator[int]:
    """Active people with an active place on a mentioned team of this organization."""
    for team in telling.mentioned_teams:
        yield from circles.team_members.get((telling.organization_id, team), ())


def subscribers(telling: NotifiableEvent, circles: Audiences) -> Iterable[int]:
    """Who wants to hear of this incident."""
    return circles.subscribers.get(telling.incident_id, ())


AUDIENCES: Final[dict[str, dict[NotificationReason, Source]]] = {
    CommentPosted.type: {NotificationReason.SUBSCRIBED: subscribers},
    StatusChanged.type: {NotificationReason.SUBSCRIBED: subscribers},
    # Whoever an edit mentions for the first time is told by the event that follows it; a deletion tells nobody new.
    CommentEdited.type: {},
    CommentDeleted.type: {},
    Mentioned.type: {
        NotificationReason.MENTION: mentioned,
        NotificationReason.TEAM_MENTION: on_mentioned_teams,
    },
}
"""Whom each event tells, and why. An event without a line tells nobody."""


def find_recipients(telling: NotifiableEvent, circles: Audiences) -> dict[int, NotificationReason]:
    """Everyone the event concerns, each with their strongest reason; access is not looked at."""
    sources = AUDIENCES.get(telling.type, {})
    return strongest_reasons({reason: source(telling, circles) for reason, source in sources.items()})
