"""Commands to create, update and delete webhooks, to rotate their secrets, and to send tests and redeliveries."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Self
from uuid import UUID

from pydantic import BeforeValidator, WithJsonSchema

from models.enums import WebhookStatus
from models.notifications.network_guard import MAX_URL_CHARACTERS, ForbiddenTarget, parse_target
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import (
    RowId,
    check_each,
    field_error,
    non_empty_array,
    optional,
    text,
    text_or_blank,
    up_to,
)

MAX_PATTERNS: Final = 50
MAX_DESCRIPTION_CHARACTERS: Final = 200
NO_DELIVERY: Final = UUID(int=0)
"""What stands for the id of a delivery that cannot be one. No delivery has this id."""

_STATUSES: Final = [status.value for status in WebhookStatus]
EVENT_PATTERN: Final = re.compile(r"\*|[a-z_]{1,40}\.(\*|[a-z_]{1,40})")


def _url(value: JSON) -> str:
    url = text(value)
    try:
        parse_target(url)
    except ForbiddenTarget as error:
        raise field_error(str(error)) from None
    return url


def _event_pattern(value: JSON) -> str:
    pattern = text(value)
    if not EVENT_PATTERN.fullmatch(pattern):
        raise field_error("Enter an event type, a family such as incident.*, or *.")
    return pattern


def event_patterns(items: list[JSON]) -> tuple[str, ...]:
    """Return the patterns of event types in a list, each once.

    :raises PydanticCustomError: if there are too many, or if one of them is malformed.
    """
    if len(items) > MAX_PATTERNS:
        raise field_error(f"Ensure this field has no more than {MAX_PATTERNS} elements.")
    checked = check_each({str(index): each for index, each in enumerate(items)}, _event_pattern)
    return tuple(dict.fromkeys(checked.values()))


def _patterns(value: JSON) -> tuple[str, ...]:
    return event_patterns(non_empty_array(value))


_description: Final = up_to(MAX_DESCRIPTION_CHARACTERS, text_or_blank)


def _status(value: JSON) -> WebhookStatus:
    status = text(value)
    if status not in _STATUSES:
        raise field_error(f'"{status[:100]}" is not a valid choice.')
    return WebhookStatus(status)


def _uuid(value: JSON) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(text(value))
    except ValueError:
        return NO_DELIVERY


_URL: Final = json_schema.text_up_to(MAX_URL_CHARACTERS) | {
    "description": "Where to send events: an https URL of a public server, without a user name."
}
_PATTERNS: Final = json_schema.list_of(json_schema.trimmed(EVENT_PATTERN.pattern), least=1, most=MAX_PATTERNS) | {
    "description": "Event types, families such as incident.*, or *."
}
_DESCRIPTION: Final = json_schema.text_or_blank_up_to(MAX_DESCRIPTION_CHARACTERS)


class SecretCommand(Command):
    """Base class of the commands that give a webhook a new secret.

    The gateway generates the secret and adds it encrypted, so that the ledger never holds it in plain.
    """

    path_fields: ClassVar[frozenset[str]] = frozenset({"sealed"})

    sealed: str = ""

    def with_secret(self, sealed: bytes) -> Self:
        """Return the command with the encrypted secret."""
        return self.model_copy(update={"sealed": sealed.decode("ascii")})


class CreateWebhook(SecretCommand):
    """Create a webhook, to which events that match one of the patterns are sent.

    Only the response of its own route contains the secret.
    """

    name: ClassVar[str] = "webhook.create"

    url: Annotated[str, BeforeValidator(_url), WithJsonSchema(_URL)]
    events: Annotated[tuple[str, ...], BeforeValidator(_patterns), WithJsonSchema(_PATTERNS)]
    description: Annotated[str, BeforeValidator(_description), WithJsonSchema(_DESCRIPTION)] = ""

    @property
    def target_url(self) -> str | None:
        """The webhook's URL."""
        return self.url


class UpdateWebhook(Command):
    """Change a webhook. Omitted fields keep their values. The status ``active`` enables a disabled webhook again."""

    name: ClassVar[str] = "webhook.update"
    is_partial: ClassVar[bool] = True

    id: RowId
    url: Annotated[str | None, optional(_url), WithJsonSchema(json_schema.or_null(_URL))] = None
    events: Annotated[tuple[str, ...] | None, optional(_patterns), WithJsonSchema(json_schema.or_null(_PATTERNS))] = (
        None
    )
    description: Annotated[str | None, optional(_description), WithJsonSchema(json_schema.or_null(_DESCRIPTION))] = None
    status: Annotated[
        WebhookStatus | None,
        optional(_status),
        WithJsonSchema(json_schema.or_null({"type": "string", "enum": _STATUSES})),
    ] = None

    @property
    def target_url(self) -> str | None:
        """The webhook's new URL, if it changes."""
        return self.url


class DeleteWebhook(Command):
    """Delete a webhook. What has not been delivered yet is not sent."""

    name: ClassVar[str] = "webhook.delete"

    id: RowId


class RotateSecret(SecretCommand):
    """Give a webhook a new secret. For 24 hours, both secrets sign. Only the response of its own route contains it."""

    name: ClassVar[str] = "webhook.rotate"

    id: RowId


class SendTestEvent(Command):
    """Send an event of the type ``webhook.test`` to a webhook."""

    name: ClassVar[str] = "webhook.test"

    id: RowId


class Redeliver(Command):
    """Send a delivery to its webhook again: the same bytes and the same id, with a new timestamp."""

    name: ClassVar[str] = "webhook.redeliver"

    id: RowId
    delivery: Annotated[UUID, BeforeValidator(_uuid), WithJsonSchema({"type": "string"})]
