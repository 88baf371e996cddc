"""The audience of an event: whom to notify and for what reason, by event type. All functions are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from models.enums import NotificationReason
from models.messaging.trace import NO_TRACE, Trace
from models.notifications.reasons import strongest_reasons
from tasks.events import CommentDeleted, CommentEdited, CommentPosted, Mentioned, StatusChanged


@dataclass(frozen=True, slots=True)
class NotifiableEvent:
    """An event in the form needed for planning, with its actor, its activity, and the users and teams it mentions.

    ``at`` is when it happened.
    """

    event_id: UUID
    type: str
    organization_id: int
    incident_id: int
    activity_id: int
    actor_id: int
    at: datetime
    mentioned_users: tuple[int, ...] = ()
    mentioned_teams: tuple[int, ...] = ()
    trace: Trace = NO_TRACE


@dataclass(frozen=True, slots=True)
class Audiences:
    """The user ids from which the sources select, for one batch.

    ``subscribers`` maps an incident id to the incident's subscribers. ``team_members`` maps an organization id and a
    team id to the team's active members whose accounts are active.
    """

    subscribers: Mapping[int, Iterable[int]]
    team_members: Mapping[tuple[int, int], Iterable[int]]


Source = Callable[[NotifiableEvent, Audiences], Iterable[int]]


def mentioned_users(event: NotifiableEvent, _audiences: Audiences) -> Iterable[int]:
    """Return the users whom the event mentions individually."""
    return event.mentioned_users


def members_of_mentioned_teams(event: NotifiableEvent, audiences: Audiences) -> Iterator[int]:
    """Yield the members of those mentioned teams that belong to the event's organization."""
    for team in event.mentioned_teams:
        yield from audiences.team_members.get((event.organization_id, team), ())


def subscribers(event: NotifiableEvent, audiences: Audiences) -> Iterable[int]:
    """Return the subscribers of the event's incident."""
    return audiences.subscribers.get(event.incident_id, ())


AUDIENCES: Final[dict[str, dict[NotificationReason, Source]]] = {
    CommentPosted.type: {NotificationReason.SUBSCRIBED: subscribers},
    StatusChanged.type: {NotificationReason.SUBSCRIBED: subscribers},
    # After an edit, a Mentioned event follows for those mentioned for the first time. A deletion notifies nobody.
    CommentEdited.type: {},
    CommentDeleted.type: {},
    Mentioned.type: {
        NotificationReason.MENTION: mentioned_users,
        NotificationReason.TEAM_MENTION: members_of_mentioned_teams,
    },
}
"""The sources for each event type, by the reason to notify. An event type without an entry notifies nobody."""


def find_recipients(event: NotifiableEvent, audiences: Audiences) -> dict[int, NotificationReason]:
    """Return the users in the event's audience, each with the strongest reason. Access is not checked here."""
    return strongest_reasons(find_users(event, audiences))


def find_users(event: NotifiableEvent, audiences: Audiences) -> dict[NotificationReason, Iterable[int]]:
    """Return the users in the event's audience, by each reason to notify them. A user may be there several times."""
    return {reason: source(event, audiences) for reason, source in AUDIENCES.get(event.type, {}).items()}


def largest_audience(event: NotifiableEvent, audiences: Audiences) -> int:
    """Return how many users are in the event's audience at most: some may be there for several reasons."""
    return sum(len(tuple(users)) for users in find_users(event, audiences).values())
