"""The OpenAPI document's JSON Schema for a lenient field allows exactly the values that the field accepts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import jsonschema_rs
import pytest
from pydantic import TypeAdapter, ValidationError

from models.types import JSON
from tasks.commands.fields import (
    Boolean,
    IncidentReference,
    Number,
    OptionalInteger,
    OptionalText,
    RowId,
    TextField,
    bounded_text,
    positive_integer,
    status_in,
)
from tasks.commands.json_schema import ACCEPTED, accepted_form, recommended_form
from tasks.commands.rule_fields import Owner, Query, ThresholdTypeField

SPACES = "\t\n\r\x1c\x1f \x85\xa0\u2003\u3000"
UNUSUAL: list[JSON] = [
    None,
    True,
    False,
    [],
    {},
    "",
    " ",
    SPACES,
    "\0",
    "a\0",
    "\ufeff1",
    "x",
    "0x1",
    "²",
    "1_0",
    "1.5",
    1.5,
]
NUMBERS: list[JSON] = [
    0,
    1,
    1.0,
    -1,
    2,
    10,
    "0",
    "1",
    "-1",
    "+1",
    "01",
    " 1 ",
    f"{SPACES}2{SPACES}",
    "1.0",
    "9" * 31,
    "-0",
    "+0.0",
    "1.",
    "+10.00 ",
]
EDGES: list[JSON] = [each for most in (20, 1440, 128_160) for each in range(most - 12, most + 12)]
TENS: list[JSON] = [10**power + more for power in range(7) for more in (-1, 0, 1)]
DIGITS: list[JSON] = [str(each) for each in [*EDGES, *TENS, *range(130)]]
WORDS: list[JSON] = ["a", "a b", " a ", "a" * 64, "a" * 65, f"{SPACES}{'a' * 64}{SPACES}", "é" * 64, "\U0001f6a8" * 65]
FLOATS: list[JSON] = [".5", "5.", "-.5e-3", "1e9", " +1E+9 ", ".", "e1", "1e", "nan", "inf", "- 1"]
BOOLEANS: list[JSON] = [
    "true",
    "True",
    "tRUE",
    "t",
    "yes",
    "y",
    "on",
    "1",
    "false",
    "f",
    "no",
    "n",
    "off",
    "0",
    "of",
    "tr",
    "10",
]
NAMES: list[JSON] = ["dedup:", "dedup: ", "dedup:x", " dedup:", "dedup:\0", "1", "x"]
OWNERS: list[JSON] = [
    "user:7",
    "team:7",
    "7",
    "07",
    "user:0",
    "00",
    "user:",
    "team:x",
    "user: 7",
    "ana",
    " ana ",
    "a" * 1001,
]


FIELDS: dict[str, tuple[Any, list[JSON]]] = {
    "text": (TextField, WORDS),
    "optional text": (OptionalText, WORDS),
    "text within 64": (Annotated[str, *bounded_text(64)], WORDS),
    "query": (Query, ["release:latest", "a release:latest\n", "release:latest2", "a:release:latest"]),
    "integer": (OptionalInteger, []),
    "number": (Number, FLOATS),
    "truth": (Boolean, BOOLEANS),
    "id": (RowId, []),
    "incident": (IncidentReference, NAMES),
    "owner": (Owner, OWNERS),
    "first status": (Annotated[int, *status_in((1, 10, 20))], DIGITS),
    "threshold type": (ThresholdTypeField, DIGITS),
    "up to 20": (Annotated[int, *positive_integer(20)], [*EDGES, *TENS, *DIGITS]),
    "up to 1440, or null": (Annotated[int | None, *positive_integer(1440, is_optional=True)], [*EDGES, *TENS, *DIGITS]),
    "up to 128160": (Annotated[int, *positive_integer(128_160)], [*EDGES, *TENS, *DIGITS]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_accepts_exactly_what_its_json_schema_allows(name: str) -> None:
    kind, values = FIELDS[name]
    field: TypeAdapter[Any] = TypeAdapter(kind)
    allows = jsonschema_rs.validator_for(accepted_form(field.json_schema())).is_valid

    for value in [*UNUSUAL, *NUMBERS, *values]:
        assert allows(value) == accepts(field, value), repr(value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_accepts_all_that_the_recommended_form_of_its_schema_allows(name: str) -> None:
    kind, values = FIELDS[name]
    field: TypeAdapter[Any] = TypeAdapter(kind)
    schema = recommended_form(field.json_schema())
    allows = jsonschema_rs.validator_for(schema).is_valid

    allowed = [each for each in [*UNUSUAL, *NUMBERS, *values, *EDGES] if allows(each)]

    assert allowed
    # Two rules are only in the description, because generators do not understand how a schema would express them.
    assert all(accepts(field, each) for each in allowed) or name in ("query", "owner")
    assert ACCEPTED not in json.dumps(schema)
    assert isinstance(schema["type"], str) or schema["type"][1:] == ["null"]


def accepts(field: TypeAdapter[Any], value: JSON) -> bool:
    try:
        field.validate_python(value)
    except ValidationError:
        return False
    return True
