"""The field types for commands, and their error texts.

The rules and texts are those of Sentry's incident API, which tocsin re-implements (docs/messages.md): text is trimmed,
numbers are accepted as text, and integers also as integral floats or digits. A check returns the value to store, or
raises an error whose text is meant for the caller. :func:`errors_by_field` turns pydantic's errors into JSON for a
response.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from models.enums import AlertState
from models.refusals import FIELD_NOT_NULL, FIELD_REQUIRED
from models.types import JSON, MAX_ID
from tasks.commands import json_schema

BLANK: Final = "This field may not be blank."
NOT_A_STRING: Final = "Not a valid string."
NOT_AN_INTEGER: Final = "A valid integer is required."
NOT_A_NUMBER: Final = "A valid number is required."
IN_THE_FUTURE: Final = "This time is more than 10 minutes in the future."
IN_THE_PAST: Final = "This time is in the past."
UNKNOWN_FIELD: Final = "Unknown field."
OBJECT_ERRORS_KEY: Final = "non_field_errors"
"""The key for errors about an object as a whole, unless a command defines its own."""

DEDUP_PREFIX: Final = "dedup:"
"""The prefix of an incident reference that names a deduplication key."""

UNPARSABLE: Final = ""
"""The text that is stored instead of a mention that cannot name anybody."""

CLOCK_TOLERANCE: Final = timedelta(minutes=10)
"""How far a caller's clock may be ahead of ours."""

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]+")
_BOOLEANS: Final = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "off", "0"), False
)
_INTEGRAL = re.compile(r"\s*([+-]?[0-9]{1,30})(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def field_error(message: str) -> PydanticCustomError:
    """Return a field error with exactly this text, for a check to raise."""
    return PydanticCustomError("wire", "{message}", {"message": message})


def text(value: JSON) -> str:
    """Validate a string or a number, and return it as trimmed text, which may not be blank."""
    if not (trimmed := text_or_blank(value)):
        raise field_error(BLANK)
    return trimmed


def text_or_blank(value: JSON) -> str:
    """Validate a string or a number, and return it as trimmed text, which may be blank."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise field_error(NOT_A_STRING)
    return storable(str(value).strip())


def storable(value: str) -> str:
    """Validate text that PostgreSQL can store: it may not contain null characters or lone surrogates."""
    if "\0" in value:
        raise field_error("Null characters are not allowed.")
    if lone := _SURROGATE.search(value):
        raise field_error(f"Surrogate characters are not allowed: U+{ord(lone[0]):X}.")
    return value


def int_if_integral(value: JSON) -> JSON:
    """Return the value, converting an integral float to an integer: JSON does not distinguish 1.0 from 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integer(value: JSON) -> int:
    """Validate an integer, an integral float, or text that represents one. A boolean is not an integer."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if isinstance(value, bool):
        raise field_error(NOT_AN_INTEGER)
    value = int_if_integral(value)
    if isinstance(value, str) and (digits := _INTEGRAL.fullmatch(value)):
        return int(digits[1])
    if not isinstance(value, int):
        raise field_error(NOT_AN_INTEGER)
    return value


def number(value: JSON) -> float:
    """Validate a finite number, or text that represents one. A boolean is not a number."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    is_number = isinstance(value, (int, float)) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    try:
        # float() rejects some white space that the pattern and str.strip accept.
        plain = value.strip() if isinstance(value, str) else value
        parsed = float(plain) if is_number and not isinstance(value, bool) else math.nan
    except OverflowError:
        parsed = math.inf
    if not math.isfinite(parsed):
        raise field_error(NOT_A_NUMBER)
    return parsed


def boolean(value: JSON) -> bool:
    """Validate a boolean, or one of the words and numbers that forms send instead."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    value = int_if_integral(value)
    read = _BOOLEANS.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if read is None:
        raise field_error("Must be a valid boolean.")
    return read


def not_an_object(value: JSON) -> str:
    """Return the error text for a value that is not an object."""
    return f"Invalid data. Expected a dictionary, but got {type(value).__name__}."


def array(value: JSON) -> list[Any]:
    """Validate an array."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if not isinstance(value, list):
        raise field_error(f'Expected a list of items but got type "{type(value).__name__}".')
    return value


def timestamp(value: JSON) -> datetime:
    """Validate an ISO 8601 timestamp, and return it in UTC. A timestamp without an offset is taken as UTC."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    try:
        parsed = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 64 else None
        if parsed is not None:
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise field_error(
        "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
    )


def future_errors(name: str, moment: datetime, *, at: datetime) -> dict[str, JSON]:
    """Return the errors by field if ``moment``, the value of the field ``name``, lies in the future at the time ``at``.

    Clocks differ, so :data:`CLOCK_TOLERANCE` is allowed.
    """
    return {name: [IN_THE_FUTURE]} if moment > at + CLOCK_TOLERANCE else {}


def mention(value: JSON) -> str | None:
    """Return a mention as text that PostgreSQL can store; null stays null. The worker determines whom it names."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or "\0" in value or _SURROGATE.search(value) or len(value) > 1000:
        return UNPARSABLE
    return value


def identifier(value: JSON) -> int | None:
    """Return a non-negative integer, given as a number or as ASCII digits. For any other value, return ``None``.

    An integer beyond :data:`MAX_ID` also yields ``None``: no row can have that id.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= MAX_ID else None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        digits = value.lstrip("0") or "0"
        return int(digits) if len(digits) < len(str(MAX_ID)) else None
    return None


def incident_reference(value: JSON) -> str:
    """Return an incident's identifier without leading zeros, or ``dedup:KEY``. Return ``""`` for any other value."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if isinstance(value, str) and value.startswith(DEDUP_PREFIX):
        return dedup_reference(text(value.removeprefix(DEDUP_PREFIX)))
    found = identifier(_plain(value))
    return "" if found is None else str(found)


def dedup_reference(key: str) -> str:
    """Return the incident reference for a deduplication key."""
    return DEDUP_PREFIX + key


def dedup_key_of(reference: str) -> str | None:
    """Return the deduplication key in an incident reference, or ``None`` if the reference has another form."""
    return reference.removeprefix(DEDUP_PREFIX) if reference.startswith(DEDUP_PREFIX) else None


def optional(check: Callable[[JSON], Any]) -> BeforeValidator:
    """Return a validator that accepts null and whatever the check accepts."""
    return BeforeValidator(lambda value: None if value is None else check(value))


def integer_between(least: int, most: int) -> Callable[[JSON], int]:
    """Return a check for an integer from ``least`` to ``most``."""

    def check(value: JSON) -> int:
        read = integer(value)
        if read > most:
            raise field_error(f"Ensure this value is less than or equal to {most}.")
        if read < least:
            raise field_error(f"Ensure this value is greater than or equal to {least}.")
        return read

    return check


def positive_integer(most: int, *, is_optional: bool = False) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the annotations for an integer field from 1 to ``most``. If ``is_optional``, null is also allowed."""
    check, schema = integer_between(1, most), json_schema.integer_up_to(most)
    if is_optional:
        return optional(check), WithJsonSchema(json_schema.or_null(schema))
    return BeforeValidator(check), WithJsonSchema(schema)


def up_to(most: int, check: Callable[[JSON], str] = text) -> Callable[[JSON], str]:
    """Return a check that applies ``check`` and limits the resulting text to ``most`` characters."""

    def check_length(value: JSON) -> str:
        read = check(value)
        if len(read) > most:
            raise field_error(f"Ensure this field has no more than {most} characters.")
        return read

    return check_length


def bounded_text(most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the annotations for a text field of 1 to ``most`` characters."""
    return BeforeValidator(up_to(most)), WithJsonSchema(json_schema.text_up_to(most))


def row_id(value: JSON) -> int:
    """Validate a row id, given as an integer or a string of digits.

    Any text that cannot be an id becomes 0, which matches no row.
    """
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    return identifier(_plain(value)) or 0


def _plain(value: JSON) -> JSON:
    plain = int_if_integral(value)
    if isinstance(plain, (bool, float, list, dict)):
        raise field_error(NOT_A_STRING)
    return plain


INCIDENT_REFERENCE_SCHEMA: Final = json_schema.recommending(
    {
        "description": "Number of the incident, or dedup:KEY."
        " One that names none is rejected when the command is applied.",
        "type": "string",
        "pattern": f"^([0-9]+$|dedup:{json_schema.PLAIN_NON_BLANK})",
    },
    {
        "anyOf": [
            {"type": "integer"},
            {"type": "string", "pattern": f"^dedup:{json_schema.NON_BLANK}"},
            {"type": "string", "not": {"pattern": "^dedup:"}},
        ]
    },
)
_MENTION: Final = json_schema.recommending(
    {
        "description": "A username, an e-mail address, a team's slug, user:ID or team:ID."
        " One that names nobody is rejected when the command is applied.",
        "type": "string",
    },
    {},
)

TextField = Annotated[str, BeforeValidator(text), WithJsonSchema(json_schema.TEXT)]
OptionalText = Annotated[str | None, optional(text), WithJsonSchema(json_schema.or_null(json_schema.TEXT))]
OptionalInteger = Annotated[int | None, optional(integer), WithJsonSchema(json_schema.or_null(json_schema.INTEGER))]
OptionalId = Annotated[int | None, optional(integer), WithJsonSchema(json_schema.or_null(json_schema.NUMERIC_ID))]
OptionalTimestamp = Annotated[
    datetime | None, optional(timestamp), WithJsonSchema(json_schema.or_null(json_schema.TIMESTAMP))
]
IncidentReference = Annotated[str, BeforeValidator(incident_reference), WithJsonSchema(INCIDENT_REFERENCE_SCHEMA)]
OptionalIncidentReference = Annotated[
    str | None, optional(incident_reference), WithJsonSchema(json_schema.or_null(INCIDENT_REFERENCE_SCHEMA))
]
RowId = Annotated[int, BeforeValidator(row_id), WithJsonSchema(json_schema.ID)]
_MENTIONS: Final = (
    BeforeValidator(lambda value: tuple(mention(each) for each in array(value))),
    WithJsonSchema(json_schema.list_of(_MENTION, most=100)),
)
Mentions = Annotated[tuple[str | None, ...], *_MENTIONS]
OptionalMentions = Annotated[tuple[str | None, ...] | None, *_MENTIONS]
"""Mentions that may be omitted but, like :data:`Mentions`, not null."""
Slugs = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: _check_array(value, text)),
    WithJsonSchema(json_schema.list_of(json_schema.TEXT, least=1)),
]
OptionalSlugs = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: _check_array(value, text) if value != [] else ()),
    WithJsonSchema(json_schema.list_of(json_schema.TEXT)),
]
"""An array of slugs that may be empty."""
Number = Annotated[float, BeforeValidator(number), WithJsonSchema(json_schema.NUMBER)]
OptionalNumber = Annotated[float | None, optional(number), WithJsonSchema(json_schema.or_null(json_schema.NUMBER))]
Boolean = Annotated[bool, BeforeValidator(boolean), WithJsonSchema(json_schema.BOOLEAN)]
OptionalIds = Annotated[
    tuple[int, ...] | None,
    optional(lambda value: _check_array(value, integer)),
    WithJsonSchema(json_schema.or_null(json_schema.list_of(json_schema.NUMERIC_ID, least=1))),
]


_ALERT_STATES: Final = {str(state): state for state in AlertState}


def _alert_state(value: JSON) -> AlertState:
    state = _ALERT_STATES.get(text(value))
    if state is None:
        raise field_error(f"Valid values: {', '.join(_ALERT_STATES)}.")
    return state


AlertStateField = Annotated[
    AlertState, BeforeValidator(_alert_state), WithJsonSchema({"type": "string", "enum": list(_ALERT_STATES)})
]


def status_in(choices: tuple[int, ...]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the annotations for a status field that accepts only these integers."""

    def check(value: JSON) -> int:
        status = integer(value)
        if status not in choices:
            raise field_error(f"Invalid value for status. Valid values: {sorted(map(int, choices))}")
        return status

    return BeforeValidator(check), WithJsonSchema(json_schema.choice_of(choices))


def _check_array(value: JSON, check: Callable[[JSON], Any]) -> tuple[Any, ...]:
    items = non_empty_array(value)
    return tuple(check_each({str(index): each for index, each in enumerate(items)}, check).values())


def non_empty_array(value: JSON) -> list[Any]:
    """Validate an array that is not empty."""
    items = array(value)
    if not items:
        raise field_error("This list may not be empty.")
    return items


def check_each(items: Mapping[str, JSON], check: Callable[[JSON], T]) -> dict[str, T]:
    """Apply the check to every item, and return the results by name.

    :raises PydanticCustomError: if the check rejects any item. The error holds the text for each rejected item by name.
    """
    errors: dict[str, list[str]] = {}
    checked = {}
    for name, each in items.items():
        try:
            checked[name] = check(each)
        except PydanticCustomError as error:
            errors[name] = [error.message()]
    if errors:
        raise PydanticCustomError("items", "{items}", {"items": errors})
    return checked


def errors_of_unknown(names: Iterable[str]) -> dict[str, JSON]:
    """Return the error for each of these unknown fields, by name."""
    # A name may hold lone surrogates, which JSON in UTF-8 cannot.
    return {name.encode("utf-8", "replace").decode(): [UNKNOWN_FIELD] for name in names}


def object_error(fields: Mapping[str, JSON]) -> PydanticCustomError:
    """Return one error that holds the errors in an object's fields, for a validator to raise."""
    return PydanticCustomError("fields", "{fields}", {"fields": dict(fields)})


def errors_by_field(error: ValidationError, *, object_errors_key: str = OBJECT_ERRORS_KEY) -> dict[str, JSON]:
    """Return the errors as nested JSON: error texts by the field's name on the wire or, in an array, by index.

    ``object_errors_key`` is the key for errors about the object as a whole.
    """
    fields: dict[str, JSON] = {}
    for each in error.errors():
        *path, name = map(str, each["loc"] or (object_errors_key,))
        errors_at = reduce(lambda outer, inner: outer.setdefault(inner, {}), path, fields)
        if each["type"] == "items":
            errors_at[name] = each["ctx"]["items"]
        elif each["type"] == "fields":
            fields |= each["ctx"]["fields"]
        else:
            errors_at.setdefault(name, []).append(_error_text(each["type"], each["msg"]))
    return fields


def _error_text(kind: str, message: str) -> str:
    return {"missing": FIELD_REQUIRED, "extra_forbidden": UNKNOWN_FIELD}.get(kind, message)
