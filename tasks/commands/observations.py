"""The command that feeds observed values to alert rules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from models.enums import CallerKind
from models.refusals import InvalidFields
from models.timestamps import EARLIEST_OBSERVATION
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import OptionalNumber, RowId, TextField, field_error, future_errors, timestamp

_SINCE_EARLIEST = json_schema.recommending(
    json_schema.TIMESTAMP | {"description": f"Not before {EARLIEST_OBSERVATION:%Y-%m-%d}, nor in the future."},
    json_schema.TIMESTAMP | {"pattern": "^(19[7-9][0-9]|[2-9][0-9]{3})-"},
)


def _observed_at(value: JSON) -> datetime:
    observed_at = timestamp(value)
    if observed_at < EARLIEST_OBSERVATION:
        raise field_error(f"Ensure this value is greater than or equal to {EARLIEST_OBSERVATION:%Y-%m-%dT%H:%M:%SZ}.")
    return observed_at


class ObserveMetric(Command):
    """Record an observed value of an alert rule's metric for one of its projects. A null ``value`` means no value."""

    name: ClassVar[str] = "metric.observe"

    alert_rule: RowId = Field(alias="alertRule")
    project: TextField
    value: OptionalNumber
    timestamp: Annotated[datetime, BeforeValidator(_observed_at), WithJsonSchema(_SINCE_EARLIEST)]
    comparison_value: OptionalNumber = Field(default=None, alias="comparisonValue")

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:  # noqa: ARG002
        """Check that the value was not observed in the future: later values would then be ignored as out of order.

        :raises InvalidFields: if it was.
        """
        if errors := future_errors("timestamp", self.timestamp, at=at):
            raise InvalidFields(errors)

    def to_payload(self) -> str:
        """Return the command as JSON for the ledger, including the fields that were sent as null."""
        return self.model_dump_json(exclude_unset=True)
