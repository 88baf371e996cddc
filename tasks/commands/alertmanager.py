"""The command for notifications from Prometheus Alertmanager."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.commands.base import Command
from tasks.commands.fields import AlertStateField, OptionalText, OptionalTimestamp, TextField


class ReceiveAlerts(Command):
    """Open an alert group's incident, change its severity, or close it, so that it follows the group's state."""

    name: ClassVar[str] = "alertmanager.receive"

    dedup_key: TextField = Field(alias="dedupKey")
    state: AlertStateField
    title: TextField
    project: OptionalText = None
    severity: OptionalText = None
    starts_at: OptionalTimestamp = Field(default=None, alias="startsAt")
