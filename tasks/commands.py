"""Every command: the menu of what may be asked.

A command is data: frozen, checked for shape, free of who asks and of when. Its field aliases are the names on
the wire. A message only grows: fields are added with a default, never renamed or reused.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.fields import (
    IncidentAddress,
    Mentions,
    OptionalIds,
    OptionalInteger,
    OptionalMoment,
    OptionalText,
    Slugs,
    TextField,
    status_of,
    wrong,
)


class Command(BaseModel):
    """What someone asks for. ``name`` is its name on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]


class OpenIncident(Command):
    """Open an incident; an open one with the same ``dedup_key`` is answered instead of a second one."""

    name: ClassVar[str] = "incident.open"

    title: TextField
    projects: Slugs
    alert_rule: OptionalInteger = Field(default=None, alias="alertRule")
    date_started: OptionalMoment = Field(default=None, alias="dateStarted")
    status: Annotated[int, status_of((1, 10, 20))] = 1
    dedup_key: OptionalText = Field(default=None, alias="dedupKey")


class PostComment(Command):
    """Say something on an incident; ``mentions`` are told. ``external_id`` is checked and not kept."""

    name: ClassVar[str] = "comment.post"

    incident: IncidentAddress
    comment: TextField
    mentions: Mentions = ()
    external_id: OptionalText = None


class Unsubscribe(Command):
    """Hear no more of an incident."""

    name: ClassVar[str] = "incident.unsubscribe"

    incident: IncidentAddress


class ReadNotifications(Command):
    """Mark inbox items as read: those of ``ids``, or all up to ``up_to`` inclusive."""

    name: ClassVar[str] = "notification.read"

    ids: OptionalIds = None
    up_to: OptionalInteger = Field(default=None, alias="upTo")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.ids is None) == (self.up_to is None):
            raise wrong("Send exactly one of ids and upTo.")
        return self
