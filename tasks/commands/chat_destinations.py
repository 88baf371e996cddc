"""Commands to register, change, delete and test chat destinations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Self

from pydantic import BeforeValidator, Field, WithJsonSchema

from models.enums import CallerKind, DestinationStatus
from models.notifications.chat_url import (
    MALFORMED,
    MAX_URL_CHARACTERS,
    SERVICES,
    TOO_LONG,
    InvalidChatUrl,
    parse_chat_url,
)
from models.refusals import InvalidFields
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import RowId, array, field_error, optional, row_id, text, up_to
from tasks.commands.webhooks import EVENT_PATTERN, MAX_PATTERNS, event_patterns

MAX_NAME_CHARACTERS: Final = 100
NO_EVENTS_FOR_PEOPLE: Final = "A person's own destination gets only this person's notifications."

_SEALED_PREFIX: Final = "sealed:"
"""What an encrypted URL begins with in the ledger. No accepted URL begins with it."""

_STATUSES: Final = [status.value for status in DestinationStatus]


def _url(value: JSON) -> str:
    if isinstance(value, str) and len(value) > MAX_URL_CHARACTERS:
        raise field_error(TOO_LONG)
    url = text(value)
    if url.startswith(_SEALED_PREFIX):
        return url
    try:
        return parse_chat_url(url).url
    except InvalidChatUrl as error:
        raise field_error(str(error)) from None


def _patterns(value: JSON) -> tuple[str, ...]:
    return event_patterns(array(value))


def _status(value: JSON) -> DestinationStatus:
    status = text(value)
    if status not in _STATUSES:
        raise field_error(f'"{status[:100]}" is not a valid choice.')
    return DestinationStatus(status)


_NAME_SCHEMA: Final = json_schema.text_up_to(MAX_NAME_CHARACTERS)
_URL_SCHEMA: Final = {
    "description": "An Apprise URL, which begins with one of: "
    + ", ".join(f"{schema}://" for schema in SERVICES)
    + ". The URL that the service hands out is accepted, too, if Apprise knows it. It is never shown again.",
    "type": "string",
    "maxLength": MAX_URL_CHARACTERS,
    "writeOnly": True,
}
_EVENTS_SCHEMA: Final = {"description": "Event types, families such as incident.*, or *."} | json_schema.list_of(
    json_schema.trimmed(EVENT_PATTERN.pattern), most=MAX_PATTERNS
)


class ChatUrlCommand(Command):
    """Base class of the commands with a chat destination's URL.

    The gateway encrypts the URL before the command enters the ledger, and adds what may be shown of it.
    """

    path_fields: ClassVar[frozenset[str]] = frozenset({"shown"})

    url: str | None = None
    shown: str = ""

    @property
    def target_url(self) -> str | None:
        """The address of the chat server, if the URL chooses it."""
        return None if self.url is None else parse_chat_url(self.url).target_url

    @property
    def sealed(self) -> bytes | None:
        """The encrypted URL, if the command has one."""
        return None if self.url is None else self.url.removeprefix(_SEALED_PREFIX).encode("ascii")

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:  # noqa: ARG002
        """Check that the URL is in plain: only the gateway encrypts it.

        :raises InvalidFields: if it is not.
        """
        if self.url is not None and self.url.startswith(_SEALED_PREFIX):
            raise InvalidFields({"url": [MALFORMED]})

    def with_sealed_url(self, sealed: bytes) -> Self:
        """Return the command with the encrypted URL instead of the one in plain."""
        shown = "" if self.url is None else parse_chat_url(self.url).shown
        return self.model_copy(update={"url": _SEALED_PREFIX + sealed.decode("ascii"), "shown": shown})


class CreateChatDestination(ChatUrlCommand):
    """Register a chat destination.

    Events that match one of the patterns are posted there, and whatever the actions of alert rules that name it say.
    With ``user``, it is this member's own destination, to which their notifications are sent.
    """

    name: ClassVar[str] = "chat_destination.create"

    label: Annotated[
        str,
        Field(alias="name"),
        BeforeValidator(up_to(MAX_NAME_CHARACTERS)),
        WithJsonSchema(_NAME_SCHEMA),
    ]
    url: Annotated[str, Field(repr=False), BeforeValidator(_url), WithJsonSchema(_URL_SCHEMA)]
    events: Annotated[tuple[str, ...], BeforeValidator(_patterns), WithJsonSchema(_EVENTS_SCHEMA)] = ()
    user: Annotated[int | None, optional(row_id), WithJsonSchema(json_schema.or_null(json_schema.ID))] = None

    def require_consistency(self) -> None:
        """Check that a person's own destination asks for no events.

        :raises InvalidFields: if it does.
        """
        if self.user is not None and self.events:
            raise InvalidFields({"events": [NO_EVENTS_FOR_PEOPLE]})


class UpdateChatDestination(ChatUrlCommand):
    """Change a chat destination. Omitted fields keep their values. The status ``active`` enables it again."""

    name: ClassVar[str] = "chat_destination.update"
    is_partial: ClassVar[bool] = True

    id: RowId
    label: Annotated[
        str | None,
        Field(alias="name"),
        optional(up_to(MAX_NAME_CHARACTERS)),
        WithJsonSchema(json_schema.or_null(_NAME_SCHEMA)),
    ] = None
    url: Annotated[
        str | None,
        Field(repr=False),
        optional(_url),
        WithJsonSchema(json_schema.or_null(_URL_SCHEMA)),
    ] = None
    events: Annotated[
        tuple[str, ...] | None, optional(_patterns), WithJsonSchema(json_schema.or_null(_EVENTS_SCHEMA))
    ] = None
    status: Annotated[
        DestinationStatus | None,
        optional(_status),
        WithJsonSchema(json_schema.or_null({"type": "string", "enum": _STATUSES})),
    ] = None


class DeleteChatDestination(Command):
    """Delete a chat destination. What has not been sent yet is not sent."""

    name: ClassVar[str] = "chat_destination.delete"

    id: RowId


class SendTestMessage(Command):
    """Send a test message to a chat destination, even if it is disabled."""

    name: ClassVar[str] = "chat_destination.test"

    id: RowId
