"""The command for notifications from Prometheus Alertmanager."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import AlertStateField, OptionalText, TextField, timestamp


def _alert_start(value: JSON) -> datetime | None:
    start = None if value is None else timestamp(value)
    return None if start is None or start.year == 1 else start


AlertStart = Annotated[
    datetime | None, BeforeValidator(_alert_start), WithJsonSchema(json_schema.or_null(json_schema.TIMESTAMP))
]
"""When an alert started. Go programs send the beginning of the year 1 for a time that they do not know."""


MIN_STALE_SECONDS: Final = 60
MAX_STALE_SECONDS: Final = 30 * 24 * 60 * 60


class ReceiveAlerts(Command):
    """Open an alert group's incident, change its severity, or close it, so that it follows the group's state.

    ``default_project`` is the slug of the project that is used if ``project`` is missing or unknown. ``starts_at`` and
    ``last_starts_at`` say when the first and the last of the firing alerts started. If ``stale_seconds`` is set, the
    incident is closed once no such command has come for its group for so long.
    """

    name: ClassVar[str] = "alertmanager.receive"

    dedup_key: TextField = Field(alias="dedupKey")
    state: AlertStateField
    title: TextField
    project: OptionalText = None
    default_project: OptionalText = Field(default=None, alias="defaultProject")
    severity: OptionalText = None
    starts_at: AlertStart = Field(default=None, alias="startsAt")
    last_starts_at: AlertStart = Field(default=None, alias="lastStartsAt")
    stale_seconds: Annotated[int | None, Field(ge=MIN_STALE_SECONDS, le=MAX_STALE_SECONDS)] = Field(
        default=None, alias="staleSeconds"
    )
