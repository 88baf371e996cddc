"""Field types of the commands, with the wire's own words for what does not fit.

The rules and texts are those of the incident API that tocsin gives back (docs/messages.md): text is trimmed,
numbers become text, integers may come as integral floats or digit strings. Pydantic does the walking,
:func:`errors_by_field` turns what it found into the wire's shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from models.enums import JSON, MAX_ID, AlertState
from models.refusals import FIELD_NOT_NULL, FIELD_REQUIRED
from tasks.commands import json_schema

BLANK: Final = "This field may not be blank."
NOT_A_STRING: Final = "Not a valid string."
NOT_AN_INTEGER: Final = "A valid integer is required."
NOT_A_NUMBER: Final = "A valid number is required."
OBJECT_ERRORS_KEY: Final = "non_field_errors"
"""How errors of a whole object are called, where nothing else is said."""

DEDUP_PREFIX: Final = "dedup:"
"""Begins an incident reference that names a deduplication key."""

UNPARSABLE: Final = ""
"""Stands for a mention that can name nobody."""

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]+")
_TRUTHS: Final = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "off", "0"), False
)
_INTEGRAL = re.compile(r"\s*([+-]?[0-9]{1,30})(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def field_error(message: str) -> PydanticCustomError:
    """A field error with exactly this text."""
    return PydanticCustomError("wire", "{message}", {"message": message})


def text(value: JSON) -> str:
    """Text as the wire takes it: a string or a number, trimmed, not blank, storable."""
    if not (trimmed := text_or_blank(value)):
        raise field_error(BLANK)
    return trimmed


def text_or_blank(value: JSON) -> str:
    """The same where it may be blank."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise field_error(NOT_A_STRING)
    return storable(str(value).strip())


def storable(value: str) -> str:
    """Text that the database can hold."""
    if "\0" in value:
        raise field_error("Null characters are not allowed.")
    if lone := _SURROGATE.search(value):
        raise field_error(f"Surrogate characters are not allowed: U+{ord(lone[0]):X}.")
    return value


def int_if_integral(value: JSON) -> JSON:
    """The value, where an integral float is the integer that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integer(value: JSON) -> int:
    """An integer, an integral float or a string of either; never a truth value."""
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
    """A number or its digits; never a truth value, nor what no number can be (infinity, "not a number")."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    is_one = isinstance(value, (int, float)) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    try:
        # float() leaves some of the space that the pattern and str.strip know.
        plain = value.strip() if isinstance(value, str) else value
        parsed = float(plain) if is_one and not isinstance(value, bool) else math.nan
    except OverflowError:
        parsed = math.inf
    if not math.isfinite(parsed):
        raise field_error(NOT_A_NUMBER)
    return parsed


def boolean(value: JSON) -> bool:
    """A truth value, or the words and numbers that forms send for one."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    value = int_if_integral(value)
    read = _TRUTHS.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if read is None:
        raise field_error("Must be a valid boolean.")
    return read


def not_an_object(value: JSON) -> str:
    """What is said of a value that should be an object."""
    return f"Invalid data. Expected a dictionary, but got {type(value).__name__}."


def array(value: JSON) -> list[Any]:
    """A JSON array."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if not isinstance(value, list):
        raise field_error(f'Expected a list of items but got type "{type(value).__name__}".')
    return value


def timestamp(value: JSON) -> datetime:
    """A point in time as ISO 8601; without an offset it is UTC."""
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


def mention(value: JSON) -> str | None:
    """One mention, made storable: who it names is for the worker to say. Null stays null."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or "\0" in value or _SURROGATE.search(value) or len(value) > 1000:
        return UNPARSABLE
    return value


def identifier(value: JSON) -> int | None:
    """The number of an incident in its organization, or ``None`` for what can name none (ASCII digits only)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= MAX_ID else None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        digits = value.lstrip("0") or "0"
        return int(digits) if len(digits) < len(str(MAX_ID)) else None
    return None


def incident_reference(value: JSON) -> str:
    """Return an incident's identifier in its shortest spelling, ``dedup:KEY``, or ``""`` if the value names neither."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if isinstance(value, str) and value.startswith(DEDUP_PREFIX):
        return dedup_reference(text(value.removeprefix(DEDUP_PREFIX)))
    number = identifier(_named(value))
    return "" if number is None else str(number)


def dedup_reference(key: str) -> str:
    """Return the incident reference of a deduplication key."""
    return DEDUP_PREFIX + key


def dedup_key_of(reference: str) -> str | None:
    """Return the deduplication key in an incident reference, ``None`` if the reference is of another form."""
    return reference.removeprefix(DEDUP_PREFIX) if reference.startswith(DEDUP_PREFIX) else None


def optional(check: Callable[[JSON], Any]) -> BeforeValidator:
    """The same check, with null allowed."""
    return BeforeValidator(lambda value: None if value is None else check(value))


def integer_between(least: int, most: int) -> Callable[[JSON], int]:
    """A check for an integer in a range."""

    def check(value: JSON) -> int:
        read = integer(value)
        if read > most:
            raise field_error(f"Ensure this value is less than or equal to {most}.")
        if read < least:
            raise field_error(f"Ensure this value is greater than or equal to {least}.")
        return read

    return check


def positive_integer(most: int, *, is_optional: bool = False) -> tuple[BeforeValidator, WithJsonSchema]:
    """An integer from 1 on, as the parts of a field's type; with ``is_optional`` null is allowed."""
    check, schema = integer_between(1, most), json_schema.integer_up_to(most)
    if is_optional:
        return optional(check), WithJsonSchema(json_schema.or_null(schema))
    return BeforeValidator(check), WithJsonSchema(schema)


def up_to(most: int, check: Callable[[JSON], str] = text) -> Callable[[JSON], str]:
    """The same check, with a limit of characters."""

    def limited(value: JSON) -> str:
        read = check(value)
        if len(read) > most:
            raise field_error(f"Ensure this field has no more than {most} characters.")
        return read

    return limited


def bounded_text(most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """Text with a limit of characters, as the parts of a field's type."""
    return BeforeValidator(up_to(most)), WithJsonSchema(json_schema.text_up_to(most))


def row_id(value: JSON) -> int:
    """The id of a row as a number or as digits; 0 is nobody's and stands for what can name none."""
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    return identifier(_named(value)) or 0


def _named(value: JSON) -> JSON:
    # 1.0 and 1 are one number in JSON.
    plain = int_if_integral(value)
    if isinstance(plain, (bool, float, list, dict)):
        raise field_error(NOT_A_STRING)
    return plain


_ADDRESS: Final = {
    "description": "Number of the incident, or dedup:KEY. What names none is refused when the command is applied.",
    "anyOf": [
        {"type": "integer"},
        {"type": "string", "pattern": f"^dedup:{json_schema.NON_BLANK}"},
        {"type": "string", "not": {"pattern": "^dedup:"}},
    ],
}
_WHO: Final = {"description": "Who is meant. What names nobody is refused when the command is applied."}

TextField = Annotated[str, BeforeValidator(text), WithJsonSchema(json_schema.TEXT)]
OptionalText = Annotated[str | None, optional(text), WithJsonSchema(json_schema.or_null(json_schema.TEXT))]
OptionalInteger = Annotated[int | None, optional(integer), WithJsonSchema(json_schema.or_null(json_schema.INTEGER))]
OptionalTimestamp = Annotated[
    datetime | None, optional(timestamp), WithJsonSchema(json_schema.or_null(json_schema.TIMESTAMP))
]
IncidentReference = Annotated[str, BeforeValidator(incident_reference), WithJsonSchema(_ADDRESS)]
RowId = Annotated[int, BeforeValidator(row_id), WithJsonSchema(json_schema.ID)]
_MENTIONS: Final = (
    BeforeValidator(lambda value: tuple(mention(each) for each in array(value))),
    WithJsonSchema(json_schema.list_of(_WHO)),
)
Mentions = Annotated[tuple[str | None, ...], *_MENTIONS]
OptionalMentions = Annotated[tuple[str | None, ...] | None, *_MENTIONS]
"""The same where the field may be missing; null is as wrong as above."""
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
"""The same where the list may be empty."""
Number = Annotated[float, BeforeValidator(number), WithJsonSchema(json_schema.NUMBER)]
OptionalNumber = Annotated[float | None, optional(number), WithJsonSchema(json_schema.or_null(json_schema.NUMBER))]
Boolean = Annotated[bool, BeforeValidator(boolean), WithJsonSchema(json_schema.BOOLEAN)]
OptionalIds = Annotated[
    tuple[int, ...] | None,
    optional(lambda value: _check_array(value, integer)),
    WithJsonSchema(json_schema.or_null(json_schema.list_of(json_schema.INTEGER, least=1))),
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
    """An integer out of a closed set, as the parts of a field's type."""

    def check(value: JSON) -> int:
        number = integer(value)
        if number not in choices:
            raise field_error(f"Invalid value for status. Valid values: {sorted(map(int, choices))}")
        return number

    return BeforeValidator(check), WithJsonSchema(json_schema.choice_of(choices))


def _check_array(value: JSON, check: Callable[[JSON], Any]) -> tuple[Any, ...]:
    listed = non_empty_array(value)
    return tuple(check_each({str(index): each for index, each in enumerate(listed)}, check).values())


def non_empty_array(value: JSON) -> list[Any]:
    """A JSON array with something in it."""
    listed = array(value)
    if not listed:
        raise field_error("This list may not be empty.")
    return listed


def check_each(items: Mapping[str, JSON], check: Callable[[JSON], T]) -> dict[str, T]:
    """Every item as the check makes it; those that it refuses are named by one error."""
    wrongs: dict[str, list[str]] = {}
    checked = {}
    for name, each in items.items():
        try:
            checked[name] = check(each)
        except PydanticCustomError as error:
            wrongs[name] = [error.message()]
    if wrongs:
        raise PydanticCustomError("items", "{items}", {"items": wrongs})
    return checked


def object_error(fields: Mapping[str, JSON]) -> PydanticCustomError:
    """An error of the whole object that names its fields itself."""
    return PydanticCustomError("fields", "{fields}", {"fields": dict(fields)})


def errors_by_field(error: ValidationError, *, object_errors_key: str = OBJECT_ERRORS_KEY) -> dict[str, JSON]:
    """What pydantic found, as the wire says it: field (in the caller's spelling) or index → texts, however deep.

    ``whole`` is how errors of the object itself are called.
    """
    fields: dict[str, JSON] = {}
    for each in error.errors():
        *path, name = map(str, each["loc"] or (object_errors_key,))
        place = reduce(lambda outer, inner: outer.setdefault(inner, {}), path, fields)
        if each["type"] == "items":
            place[name] = each["ctx"]["items"]
        elif each["type"] == "fields":
            fields |= each["ctx"]["fields"]
        else:
            place.setdefault(name, []).append(_error_text(each["type"], each["msg"]))
    return fields


def _error_text(kind: str, message: str) -> str:
    return {"missing": FIELD_REQUIRED, "extra_forbidden": "Unknown field."}.get(kind, message)
