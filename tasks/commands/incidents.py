"""Commands to open an incident, change its status and mark it as seen."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from models.enums import IncidentStatus
from tasks.commands.base import Command
from tasks.commands.fields import (
    IncidentReference,
    OptionalInteger,
    OptionalText,
    OptionalTimestamp,
    Slugs,
    TextField,
    status_in,
)


class OpenIncident(Command):
    """Open an incident. If an open incident has the same ``dedup_key``, it is returned instead."""

    name: ClassVar[str] = "incident.open"

    title: TextField
    projects: Slugs
    alert_rule: OptionalInteger = Field(default=None, alias="alertRule")
    date_started: OptionalTimestamp = Field(default=None, alias="dateStarted")
    status: Annotated[int, *status_in((1, 10, 20))] = 1
    dedup_key: OptionalText = Field(default=None, alias="dedupKey")


class SetStatus(Command):
    """Change an incident's status. Status 2 closes the incident; any other status requires a write scope."""

    name: ClassVar[str] = "incident.set_status"

    incident: IncidentReference
    status: Annotated[int, *status_in(tuple(IncidentStatus))]
    comment: OptionalText = None


class MarkSeen(Command):
    """Mark an incident as seen by the author."""

    name: ClassVar[str] = "incident.mark_seen"

    incident: IncidentReference
