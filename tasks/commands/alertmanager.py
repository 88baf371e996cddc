"""The command that a group of Alertmanager's alerts becomes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.commands.base import Command
from tasks.commands.fields import (
    AlertStateField,
    OptionalText,
    OptionalTimestamp,
    TextField,
)


class ReceiveAlerts(Command):
    """Bring the incident of a group of alerts to what is said of the group: opened, as bad as it is, or closed."""

    name: ClassVar[str] = "alertmanager.receive"

    dedup_key: TextField = Field(alias="dedupKey")
    state: AlertStateField
    title: TextField
    project: OptionalText = None
    severity: OptionalText = None
    starts_at: OptionalTimestamp = Field(default=None, alias="startsAt")
