"""The command that a notification of Prometheus Alertmanager becomes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.commands.base import Command
from tasks.commands.fields import AlertStateField, OptionalText, OptionalTimestamp, TextField


class ReceiveAlerts(Command):
    """Make the incident of a group of alerts follow the group's state: open it, change its severity, or close it."""

    name: ClassVar[str] = "alertmanager.receive"

    dedup_key: TextField = Field(alias="dedupKey")
    state: AlertStateField
    title: TextField
    project: OptionalText = None
    severity: OptionalText = None
    starts_at: OptionalTimestamp = Field(default=None, alias="startsAt")
