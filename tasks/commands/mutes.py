"""Commands to mute an incident and to end that."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from models.enums import CallerKind
from models.refusals import InvalidFields
from tasks.commands.base import Command
from tasks.commands.fields import IN_THE_PAST, IncidentReference, OptionalTimestamp


class MuteIncident(Command):
    """Mute an incident for the author, until a given time or until it is unmuted."""

    name: ClassVar[str] = "incident.mute"

    incident: IncidentReference
    until: OptionalTimestamp = None

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:  # noqa: ARG002
        """Check that the mute ends in the future.

        :raises InvalidFields: if it would be over already.
        """
        if self.until is not None and self.until <= at:
            raise InvalidFields({"until": [IN_THE_PAST]})


class UnmuteIncident(Command):
    """Unmute an incident for the author."""

    name: ClassVar[str] = "incident.unmute"

    incident: IncidentReference
