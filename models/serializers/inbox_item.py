"""The declaration of an inbox item's JSON, apart from its serializer because events contain it, too."""

from __future__ import annotations

from typing import TypedDict

from models.enums import NotificationReason
from models.json_fields import DateTime, Id, Uuid


class EventReferenceJson(TypedDict):
    """The event that caused a notification."""

    id: Uuid
    type: str


class IncidentReferenceJson(TypedDict):
    """The incident that a notification refers to."""

    identifier: Id
    title: str


class ActivityReferenceJson(TypedDict):
    """The activity that a notification refers to."""

    id: Id


class AuthorJson(TypedDict):
    """The person who caused a notification."""

    id: Id
    name: str


class NotificationJson(TypedDict):
    """A notification in a person's inbox.

    ``author`` is null if tocsin itself caused it, and after a retraction. ``link`` is the URL of the incident's page.
    """

    id: Id
    reason: NotificationReason
    event: EventReferenceJson
    incident: IncidentReferenceJson
    activity: ActivityReferenceJson
    author: AuthorJson | None
    link: str
    text: str
    dateCreated: DateTime
    dateRead: DateTime | None
    retracted: bool
