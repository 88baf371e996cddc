"""Commands to subscribe to an incident and to unsubscribe from it."""

from __future__ import annotations

from typing import ClassVar

from tasks.commands.base import Command
from tasks.commands.fields import IncidentReference


class Subscribe(Command):
    """Subscribe the author to an incident."""

    name: ClassVar[str] = "incident.subscribe"

    incident: IncidentReference


class Unsubscribe(Command):
    """Unsubscribe the author from an incident."""

    name: ClassVar[str] = "incident.unsubscribe"

    incident: IncidentReference
