"""Every command: the menu of what may be asked.

A command is data: frozen, checked for shape, free of who asks and of when. Its field aliases are the names on
the wire. A message only grows: fields are added with a default, never renamed or reused.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.enums import IncidentStatus
from tasks.fields import (
    WHOLE,
    AlertStateField,
    IncidentAddress,
    Mentions,
    MentionsIfAny,
    OptionalIds,
    OptionalInteger,
    OptionalMoment,
    OptionalText,
    RowId,
    Slugs,
    TextField,
    status_of,
    wrong,
)


class Command(BaseModel):
    """What someone asks for. ``name`` is its name on the wire, ``whole`` how errors of the whole body are called."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    whole: ClassVar[str] = WHOLE
    of_address: ClassVar[frozenset[str]] = frozenset()
    """Fields on the wire that only an address can give, and no body nor item."""
    is_partial: ClassVar[bool] = False
    """Whether what is left out stays as it is; then a field's default is none that a caller could count on."""

    @classmethod
    def fields_on_wire(cls) -> frozenset[str]:
        """Every spelling of every field that a caller may send."""
        fields = cls.model_fields
        return frozenset(fields.keys() | {field.alias for field in fields.values() if field.alias}) - cls.of_address

    def stored(self) -> str:
        """As the ledger keeps it."""
        return self.model_dump_json(exclude_none=True)


class OpenIncident(Command):
    """Open an incident; an open one with the same ``dedup_key`` is answered instead of a second one."""

    name: ClassVar[str] = "incident.open"

    title: TextField
    projects: Slugs
    alert_rule: OptionalInteger = Field(default=None, alias="alertRule")
    date_started: OptionalMoment = Field(default=None, alias="dateStarted")
    status: Annotated[int, *status_of((1, 10, 20))] = 1
    dedup_key: OptionalText = Field(default=None, alias="dedupKey")


class ReceiveAlerts(Command):
    """Bring the incident of a group of alerts to what is said of the group: opened, as bad as it is, or closed."""

    name: ClassVar[str] = "alertmanager.receive"

    dedup_key: TextField = Field(alias="dedupKey")
    state: AlertStateField
    title: TextField
    project: OptionalText = None
    severity: OptionalText = None
    starts_at: OptionalMoment = Field(default=None, alias="startsAt")


class PostComment(Command):
    """Say something on an incident; ``mentions`` are told. ``external_id`` is checked and not kept."""

    name: ClassVar[str] = "comment.post"

    incident: IncidentAddress
    comment: TextField
    mentions: Mentions = ()
    external_id: OptionalText = None


class EditComment(Command):
    """Say something else instead; who is mentioned for the first time is told. Without ``mentions`` nobody is."""

    name: ClassVar[str] = "comment.edit"

    incident: IncidentAddress
    id: RowId
    comment: TextField
    mentions: MentionsIfAny = None


class DeleteComment(Command):
    """Take a comment back."""

    name: ClassVar[str] = "comment.delete"

    incident: IncidentAddress
    id: RowId


class SetStatus(Command):
    """Change how bad an incident is; 2 closes it. Anything but closing needs a write scope."""

    name: ClassVar[str] = "incident.set_status"

    incident: IncidentAddress
    status: Annotated[int, *status_of(tuple(IncidentStatus))]
    comment: OptionalText = None


class MarkSeen(Command):
    """Say that one has seen an incident."""

    name: ClassVar[str] = "incident.mark_seen"

    incident: IncidentAddress


class Subscribe(Command):
    """Hear of an incident from now on."""

    name: ClassVar[str] = "incident.subscribe"

    incident: IncidentAddress


class Unsubscribe(Command):
    """Hear no more of an incident."""

    name: ClassVar[str] = "incident.unsubscribe"

    incident: IncidentAddress


class ReadNotifications(Command):
    """Mark inbox items as read: those of ``ids``, or all up to ``up_to`` inclusive."""

    name: ClassVar[str] = "notification.read"
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["ids"], "properties": {"ids": {"type": "array"}, "upTo": {"type": "null"}}},
                {"required": ["upTo"], "properties": {"upTo": {"not": {"type": "null"}}, "ids": {"type": "null"}}},
            ]
        }
    )

    ids: OptionalIds = None
    up_to: OptionalInteger = Field(default=None, alias="upTo")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.ids is None) == (self.up_to is None):
            raise wrong("Send exactly one of ids and upTo.")
        return self
