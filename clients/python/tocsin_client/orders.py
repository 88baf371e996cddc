"""What can be asked for. An order is a value: make it, keep it, post it, alone or among others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, ClassVar


@dataclass(frozen=True)
class Order:
    """Something to ask for. ``type`` is its name on the wire; ``route`` the method and address of its own."""

    type: ClassVar[str]
    route: ClassVar[tuple[str, str] | None] = None

    def fields(self) -> dict[str, Any]:
        """What it says, in JSON; fields that were not given stay out."""
        return _said(self)

    def item(self) -> dict[str, Any]:
        """This order among others."""
        return {"type": self.type, **self.fields()}


@dataclass(frozen=True)
class PlainOrder(Order):
    """Any other order by its name: ``PlainOrder("trigger.delete", {"alertRule": "3", "id": "5"})``."""

    type: str  # type: ignore[misc] # here it is a fact of the order, elsewhere of its class
    said: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What it says."""
        return dict(self.said)


@dataclass(frozen=True)
class OpenIncident(Order):
    """Open an incident on projects (slugs); an open one with the same ``dedup_key`` is answered instead."""

    type: ClassVar[str] = "incident.open"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/")

    title: str
    projects: Sequence[str]
    status: int | None = None
    dedup_key: str | None = None
    alert_rule: int | str | None = None
    date_started: datetime | None = None


@dataclass(frozen=True)
class _OnIncident(Order):
    incident: int | str
    """Its number, or ``"dedup:KEY"`` for the open one with that key."""


@dataclass(frozen=True)
class SetStatus(_OnIncident):
    """Change an incident's status: 2 closes it; 1, 10 and 20 are open, warning and critical."""

    type: ClassVar[str] = "incident.set_status"

    status: int
    comment: str | None = None


@dataclass(frozen=True)
class MarkSeen(_OnIncident):
    """Say that the caller has seen an incident."""

    type: ClassVar[str] = "incident.mark_seen"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/seen/")


@dataclass(frozen=True)
class Subscribe(_OnIncident):
    """Hear of an incident from now on."""

    type: ClassVar[str] = "incident.subscribe"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/subscriptions/")


@dataclass(frozen=True)
class Unsubscribe(_OnIncident):
    """Hear no more of an incident."""

    type: ClassVar[str] = "incident.unsubscribe"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "incidents/{incident}/subscriptions/")


@dataclass(frozen=True)
class PostComment(_OnIncident):
    """Say something on an incident; ``mentions`` (``"user:12"``, ``"team:1"``, a username) are told."""

    type: ClassVar[str] = "comment.post"
    route: ClassVar[tuple[str, str] | None] = ("POST", "incidents/{incident}/comments/")

    comment: str
    mentions: Sequence[str | int] = ()


@dataclass(frozen=True)
class EditComment(_OnIncident):
    """Rewrite one's own comment; without ``mentions`` these stay, and only the newly mentioned are told."""

    type: ClassVar[str] = "comment.edit"
    route: ClassVar[tuple[str, str] | None] = ("PUT", "incidents/{incident}/comments/{id}/")

    id: int | str
    comment: str
    mentions: Sequence[str | int] | None = None


@dataclass(frozen=True)
class DeleteComment(_OnIncident):
    """Take one's own comment back."""

    type: ClassVar[str] = "comment.delete"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "incidents/{incident}/comments/{id}/")

    id: int | str


@dataclass(frozen=True)
class ReadNotifications(Order):
    """Mark inbox items as read: those of ``ids``, or all up to ``up_to``; one of the two."""

    type: ClassVar[str] = "notification.read"
    route: ClassVar[tuple[str, str] | None] = ("POST", "notifications/read/")

    ids: Sequence[int | str] | None = None
    up_to: int | str | None = None


def _said(thing: Any) -> dict[str, Any]:
    """The fields of an order or of a part of it; null is said only where a value had to be given."""
    given = ((each, getattr(thing, each.name)) for each in fields(thing))
    return {
        _in_camel_case(each.name): _plain(value)
        for each, value in given
        if value is not None or each.default is MISSING
    }


def _in_camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return _said(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
