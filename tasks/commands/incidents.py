"""Commands to open an incident, change its status and mark it as seen."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from models.enums import CallerKind, IncidentStatus
from models.refusals import InvalidFields
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import (
    IncidentReference,
    OptionalId,
    OptionalText,
    OptionalTimestamp,
    Slugs,
    TextField,
    future_errors,
    status_in,
)

RULE_AND_KEY: Final = "An incident with an alertRule cannot have a dedupKey."
ONLY_FOR_SERVICES: Final = "Only services may set a key."


class OpenIncident(Command):
    """Open an incident. If an open incident has the same ``dedup_key``, it is returned instead.

    ``alert_rule`` and ``dedup_key`` exclude each other. Only services may set a ``dedup_key``.
    """

    model_config = ConfigDict(
        json_schema_extra={json_schema.ACCEPTED: {"not": json_schema.all_given("alertRule", "dedupKey")}}
    )

    name: ClassVar[str] = "incident.open"

    title: TextField
    projects: Slugs
    alert_rule: OptionalId = Field(default=None, alias="alertRule")
    date_started: OptionalTimestamp = Field(default=None, alias="dateStarted")
    status: Annotated[int, *status_in((1, 10, 20))] = 1
    dedup_key: OptionalText = Field(default=None, alias="dedupKey")

    def require_consistency(self) -> None:
        """Check that at most one of the fields that determine the incident's subject is given.

        :raises InvalidFields: if both are.
        """
        if self.alert_rule is not None and self.dedup_key is not None:
            raise InvalidFields({"dedupKey": [RULE_AND_KEY]})

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:
        """Check that only services set a ``dedup_key``, and that the incident has not started in the future.

        A person could otherwise take over the key of a program.

        :raises InvalidFields: if one of the fields breaks its rule.
        """
        errors = {} if self.date_started is None else future_errors("dateStarted", self.date_started, at=at)
        if self.dedup_key is not None and by is not CallerKind.SERVICE:
            errors["dedupKey"] = [ONLY_FOR_SERVICES]
        if errors:
            raise InvalidFields(errors)


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
