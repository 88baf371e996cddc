"""Commands about subscriptions to incidents."""

from __future__ import annotations

from typing import ClassVar

from tasks.commands.base import Command
from tasks.commands.fields import (
    IncidentReference,
)


class Subscribe(Command):
    """Hear of an incident from now on."""

    name: ClassVar[str] = "incident.subscribe"

    incident: IncidentReference


class Unsubscribe(Command):
    """Hear no more of an incident."""

    name: ClassVar[str] = "incident.unsubscribe"

    incident: IncidentReference
