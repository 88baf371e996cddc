"""Commands that a caller can submit. A command is a value: it can be stored, compared, and posted alone or in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Command:
    """Base class of all commands.

    ``type`` is the command's name in the API. ``route`` is the method and the path template of its own endpoint,
    relative to the organization. A command without a route is posted to ``commands/``.
    """

    type: ClassVar[str]
    route: ClassVar[tuple[str, str] | None] = None

    def payload(self) -> dict[str, Any]:
        """Return the command's JSON fields in camel case, omitting optional fields that are not set."""
        return _payload(self)

    def bulk_item(self) -> dict[str, Any]:
        """Return the command as an item of a bulk request: its payload and its ``type``."""
        return {"type": self.type, **self.payload()}


@dataclass(frozen=True)
class RawCommand(Command):
    """A command that has no class of its own: ``RawCommand("trigger.delete", {"alertRule": "3", "id": "5"})``."""

    type: str  # type: ignore[misc] # an instance attribute here, a class attribute in other commands
    json: Mapping[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """Return the JSON fields that were passed to the constructor."""
        return dict(self.json)


@dataclass(frozen=True)
class OpenIncident(Command):
    """Open an incident on ``projects``, given by their slugs.

    If an incident with the same ``dedup_key`` is already open, it is returned instead. Only services may set one.
    """

    type: ClassVar[str] = "incident.open"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/")

    title: str
    projects: Sequence[str]
    status: int | None = None
    dedup_key: str | None = None
    alert_rule: int | str | None = None
    date_started: datetime | None = None


@dataclass(frozen=True)
class _IncidentCommand(Command):
    incident: int | str
    """The incident's number, or ``"dedup:KEY"`` for the open incident with that key."""


@dataclass(frozen=True)
class SetStatus(_IncidentCommand):
    """Change an incident's status: 1 (open), 2 (closed), 10 (warning) or 20 (critical)."""

    type: ClassVar[str] = "incident.set_status"

    status: int
    comment: str | None = None


@dataclass(frozen=True)
class MarkSeen(_IncidentCommand):
    """Mark an incident as seen by the caller."""

    type: ClassVar[str] = "incident.mark_seen"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/seen/")


@dataclass(frozen=True)
class Subscribe(_IncidentCommand):
    """Subscribe the caller to an incident."""

    type: ClassVar[str] = "incident.subscribe"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/subscriptions/")


@dataclass(frozen=True)
class Unsubscribe(_IncidentCommand):
    """Unsubscribe the caller from an incident."""

    type: ClassVar[str] = "incident.unsubscribe"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "incidents/{incident}/subscriptions/")


@dataclass(frozen=True)
class MuteIncident(_IncidentCommand):
    """Mute an incident for the caller, until a time or, if ``until`` is not set, without end."""

    type: ClassVar[str] = "incident.mute"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/mute/")

    until: datetime | None = None


@dataclass(frozen=True)
class UnmuteIncident(_IncidentCommand):
    """Unmute an incident for the caller."""

    type: ClassVar[str] = "incident.unmute"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "incidents/{incident}/mute/")


@dataclass(frozen=True)
class PostComment(_IncidentCommand):
    """Comment on an incident and notify everyone mentioned.

    Each of the ``mentions`` is ``"user:12"``, ``"team:1"`` or a username.
    """

    type: ClassVar[str] = "comment.post"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/comments/")

    comment: str
    mentions: Sequence[str | int] = ()


@dataclass(frozen=True)
class EditComment(_IncidentCommand):
    """Edit one of the caller's own comments and notify people who are mentioned for the first time.

    If ``mentions`` is not set, the comment keeps its mentions.
    """

    type: ClassVar[str] = "comment.edit"
    route: ClassVar[tuple[str, str] | None] = ("PUT", "incidents/{incident}/comments/{id}/")

    id: int | str
    comment: str
    mentions: Sequence[str | int] | None = None


@dataclass(frozen=True)
class DeleteComment(_IncidentCommand):
    """Delete one of the caller's own comments."""

    type: ClassVar[str] = "comment.delete"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "incidents/{incident}/comments/{id}/")

    id: int | str


@dataclass(frozen=True)
class ReadNotifications(Command):
    """Mark inbox items as read: those in ``ids``, up to and including the id ``up_to``, about ``incident``, or ``all``.

    Give exactly one of the four.
    """

    type: ClassVar[str] = "notification.read"
    route: ClassVar[tuple[str, str] | None] = ("POST", "notifications/read/")

    ids: Sequence[int | str] | None = None
    up_to: int | str | None = None
    incident: int | str | None = None
    all: Literal[True] | None = None


def _payload(instance: Any) -> dict[str, Any]:
    """Return the JSON fields of a command or a nested value. ``None`` becomes null in required fields only."""
    values = ((each, getattr(instance, each.name)) for each in fields(instance))
    return {
        _camel_case(each.name): _json(value) for each, value in values if value is not None or each.default is MISSING
    }


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return _payload(value)
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    return value
