"""The command that replaces a person's preferences for messages, and the checks of its document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from models.enums import Channel, NotificationReason
from models.notifications.preferences import (
    ALERT_MODES,
    MESSAGE_REASONS,
    PERSONAL_CHANNELS,
    DigestInterval,
    Mode,
)
from models.notifications.suppression import ALERT_ACTION
from models.refusals import FIELD_NOT_NULL, FIELD_REQUIRED
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import NOT_A_STRING, array, field_error, identifier, not_an_object

MAX_MUTED_INCIDENTS: Final = 1000

EMPTY_QUIET_HOURS: Final = "Quiet hours may not end when they start; send null for none."

_CLOCK_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_INBOX: Final = "The inbox cannot be switched off for mentions."

_Check = Callable[[JSON], Any]


def _object(checks: Mapping[str, _Check], value: JSON, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """Validate an object with these keys, and return its values.

    :raises PydanticCustomError: if a key is unknown or missing, or a value is invalid. The error has the texts by key.
    """
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if not isinstance(value, dict):
        raise field_error(not_an_object(value))
    errors: dict[str, JSON] = {name: [FIELD_REQUIRED] for name in required if name not in value}
    values = {}
    for name, each in value.items():
        try:
            values[name] = checks.get(name, partial(_refuse_key, checks))(each)
        except PydanticCustomError as error:
            errors[name] = (error.context or {})["items"] if error.type == "items" else [error.message()]
    if errors:
        raise PydanticCustomError("items", "{items}", {"items": errors})
    return values


def _refuse_key(checks: Mapping[str, _Check], _value: JSON) -> None:
    raise field_error(f"Unknown key. Valid keys: {', '.join(checks)}.")


def _choice(choices: Iterable[str]) -> _Check:
    valid = [str(each) for each in choices]

    def check(value: JSON) -> str:
        if value is None:
            raise field_error(FIELD_NOT_NULL)
        if not isinstance(value, str):
            raise field_error(NOT_A_STRING)
        if value not in valid:
            raise field_error(f'"{value[:100]}" is not a valid choice. Valid choices: {", ".join(valid)}.')
        return value

    return check


def _clock_time(value: JSON) -> str:
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if not isinstance(value, str):
        raise field_error(NOT_A_STRING)
    if not re.fullmatch(_CLOCK_TIME, value):
        raise field_error(f'"{value[:100]}" is not a time of day. Use HH:MM, from 00:00 to 23:59.')
    return value


def _refuse_inbox(_value: JSON) -> None:
    raise field_error(_INBOX)


def _modes(reason: str) -> Iterable[Mode]:
    return ALERT_MODES if reason == ALERT_ACTION else Mode


def _channels_check(reason: str) -> _Check:
    checks: dict[str, _Check] = {channel.value: _choice(_modes(reason)) for channel in PERSONAL_CHANNELS}

    def check(value: JSON) -> dict[str, str]:
        is_mention = reason in (NotificationReason.MENTION, NotificationReason.TEAM_MENTION)
        if is_mention and isinstance(value, dict) and Channel.INBOX in value:
            return _object({**checks, Channel.INBOX.value: _refuse_inbox}, value)
        return _object(checks, value)

    return check


_REASONS: Final[Mapping[str, _Check]] = {reason: _channels_check(reason) for reason in MESSAGE_REASONS}


def _channels(value: JSON) -> dict[str, dict[str, str]]:
    return _object(_REASONS, value)


def _digest(value: JSON) -> dict[str, str]:
    return _object({"every": _choice(DigestInterval), "at": _clock_time}, value, required=("every",))


def _quiet_hours(value: JSON) -> dict[str, str] | None:
    if value is None:
        return None
    hours = _object({"start": _clock_time, "end": _clock_time}, value, required=("start", "end"))
    if hours["start"] == hours["end"]:
        raise field_error(EMPTY_QUIET_HOURS)
    return hours


def _muted_incidents(value: JSON) -> tuple[int, ...]:
    listed = array(value)
    if len(listed) > MAX_MUTED_INCIDENTS:
        raise field_error(f"Ensure this field has no more than {MAX_MUTED_INCIDENTS} elements.")
    ids = [identifier(each) for each in listed]
    if errors := {str(index): ["A valid id is required."] for index, id_ in enumerate(ids) if not id_}:
        raise PydanticCustomError("items", "{items}", {"items": errors})
    return tuple(dict.fromkeys(id_ for id_ in ids if id_))


def _schema(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    named = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **named}


_TIME_SCHEMA: Final = {"type": "string", "pattern": f"^{_CLOCK_TIME}$"}
_CHANNELS_SCHEMA: Final = _schema(
    {
        reason: _schema(
            {
                each.value: {"type": "string", "enum": [str(mode) for mode in _modes(reason)]}
                for each in PERSONAL_CHANNELS
            }
        )
        for reason in MESSAGE_REASONS
    }
)
_DIGEST_SCHEMA: Final = _schema(
    {"every": {"type": "string", "enum": [str(each) for each in DigestInterval]}, "at": _TIME_SCHEMA}, "every"
)
_QUIET_HOURS_SCHEMA: Final = _schema({"start": _TIME_SCHEMA, "end": _TIME_SCHEMA}, "start", "end")
_ID_AS_TEXT: Final = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
_INCIDENT_ID_SCHEMA: Final = json_schema.recommending(
    _ID_AS_TEXT, {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 2**53 - 1}, _ID_AS_TEXT]}
)


class ReplacePreferences(Command):
    """Replace the author's preferences for messages.

    What is omitted has its default, except ``muted_incidents``: without it, the muted incidents stay as they are.
    """

    name: ClassVar[str] = "preferences.replace"

    channels: Annotated[dict[str, dict[str, str]], BeforeValidator(_channels), WithJsonSchema(_CHANNELS_SCHEMA)] = (
        Field(default_factory=dict)
    )
    digest: Annotated[dict[str, str] | None, BeforeValidator(_digest), WithJsonSchema(_DIGEST_SCHEMA)] = None
    quiet_hours: Annotated[
        dict[str, str] | None,
        BeforeValidator(_quiet_hours),
        WithJsonSchema(json_schema.or_null(_QUIET_HOURS_SCHEMA)),
    ] = Field(default=None, alias="quietHours")
    muted_incidents: Annotated[
        tuple[int, ...] | None,
        BeforeValidator(_muted_incidents),
        WithJsonSchema(json_schema.list_of(_INCIDENT_ID_SCHEMA, most=MAX_MUTED_INCIDENTS)),
    ] = Field(default=None, alias="mutedIncidents")

    def document(self) -> dict[str, JSON]:
        """Return the document to store: what the author has set, without the muted incidents."""
        given = {"channels": self.channels, "digest": self.digest, "quietHours": self.quiet_hours}
        return {name: value for name, value in given.items() if value}
