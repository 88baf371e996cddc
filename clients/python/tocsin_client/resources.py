"""Resources that the client reads: incidents, activities and inbox items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tocsin_client.results import time_or_none


@dataclass(frozen=True, slots=True)
class Person:
    """A user, as the author of an activity. ``email`` may be empty."""

    id: str
    name: str
    username: str
    email: str

    @classmethod
    def from_json(cls, user: Mapping[str, Any]) -> Person:
        """Parse the JSON of a user."""
        return cls(id=user["id"], name=user["name"], username=user["username"], email=user["email"])


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident. ``status`` is 1 (open), 2 (closed), 10 (warning) or 20 (critical); ``projects`` holds slugs."""

    id: str
    number: str
    """The number by which people and commands name the incident."""
    title: str
    status: int
    projects: tuple[str, ...]
    alert_rule: dict[str, Any] | None
    """The JSON of the rule that opened the incident, as it was then; ``None`` if there is none."""
    date_started: datetime
    date_detected: datetime
    date_created: datetime
    date_closed: datetime | None
    version: int
    has_seen: bool | None
    """Whether the caller has seen the incident; ``None`` in lists."""
    is_subscribed: bool | None
    """Whether the caller is subscribed to the incident; ``None`` in lists."""

    @classmethod
    def from_json(cls, incident: Mapping[str, Any]) -> Incident:
        """Parse the JSON of an incident, alone or in a list."""
        return cls(
            id=incident["id"],
            number=incident["identifier"],
            title=incident["title"],
            status=incident["status"],
            projects=tuple(incident["projects"]),
            alert_rule=incident["alertRule"],
            date_started=datetime.fromisoformat(incident["dateStarted"]),
            date_detected=datetime.fromisoformat(incident["dateDetected"]),
            date_created=datetime.fromisoformat(incident["dateCreated"]),
            date_closed=time_or_none(incident["dateClosed"]),
            version=incident["version"],
            has_seen=incident["hasSeen"],
            is_subscribed=incident.get("isSubscribed"),
        )


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity on an incident: a comment, a change of its status, or its start.

    ``type`` is 1 (created), 2 (status change), 3 (comment) or 4 (detected).
    """

    id: str
    incident: str
    """The incident's number."""
    type: int
    user: Person | None
    """The author; ``None`` if the activity was tocsin's own or a service's."""
    comment: str | None
    value: str | None
    """The new status, for a status change."""
    previous_value: str | None
    """The old status, for a status change."""
    date_created: datetime
    version: int

    @classmethod
    def from_json(cls, activity: Mapping[str, Any]) -> Activity:
        """Parse the JSON of an activity."""
        return cls(
            id=activity["id"],
            incident=activity["incidentIdentifier"],
            type=activity["type"],
            user=Person.from_json(activity["user"]) if activity["user"] else None,
            comment=activity["comment"],
            value=activity["value"],
            previous_value=activity["previousValue"],
            date_created=datetime.fromisoformat(activity["dateCreated"]),
            version=activity["version"],
        )


@dataclass(frozen=True, slots=True)
class Notification:
    """An item in a person's inbox. ``reason`` says why it is there, for example mention or subscribed."""

    id: str
    reason: str
    event_id: str
    event_type: str
    incident: str
    """The incident's number."""
    title: str
    """The incident's title."""
    activity_id: str
    author_id: str | None
    """The id of the person who caused it; ``None`` if tocsin itself did, and after a retraction."""
    author_name: str | None
    link: str
    """The URL of the incident's page."""
    text: str
    date_created: datetime
    date_read: datetime | None
    is_retracted: bool

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Notification:
        """Parse the JSON of a notification."""
        author = item["author"] or {"id": None, "name": None}
        return cls(
            id=item["id"],
            reason=item["reason"],
            event_id=item["event"]["id"],
            event_type=item["event"]["type"],
            incident=item["incident"]["identifier"],
            title=item["incident"]["title"],
            activity_id=item["activity"]["id"],
            author_id=author["id"],
            author_name=author["name"],
            link=item["link"],
            text=item["text"],
            date_created=datetime.fromisoformat(item["dateCreated"]),
            date_read=time_or_none(item["dateRead"]),
            is_retracted=item["retracted"],
        )
