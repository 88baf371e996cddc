"""Validation of text fields: the same rules apply to every text in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from models.types import JSON
from tasks.commands.comments import EditComment, PostComment
from tasks.commands.fields import errors_by_field
from tasks.commands.incidents import SetStatus

TEXTS: dict[str, Callable[[JSON], Any]] = {
    "comment of a comment": lambda value: PostComment.model_validate({"incident": "1", "comment": value}).comment,
    "comment of an edit": lambda value: (
        EditComment.model_validate({"incident": "1", "id": 1, "comment": value}).comment
    ),
    "comment of a closing": lambda value: (
        SetStatus.model_validate({"incident": "1", "status": 2, "comment": value}).comment
    ),
    "external_id": lambda value: (
        PostComment.model_validate({"incident": "1", "comment": "x", "external_id": value}).external_id
    ),
}
MAY_BE_NULL = {"comment of a closing", "external_id"}
INVALID, BLANK = "Not a valid string.", "This field may not be blank."


def errors_of(read: Callable[[JSON], Any], value: JSON) -> list[Any]:
    with pytest.raises(ValidationError) as raised:
        read(value)
    return list(errors_by_field(raised.value).values())


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (" \t Look \u00a0\n", "Look"),
        ("a  b\nc", "a  b\nc"),
        (42, "42"),
        (1.5, "1.5"),
        ("\U0001f525", "\U0001f525"),
        ("x" * 60_000, "x" * 60_000),
    ],
    ids=["surrounding space", "inner space", "integer", "float", "beyond the basic plane", "60,000 characters"],
)
def test_text_is_trimmed_and_numbers_become_text(field: str, value: JSON, kept: str) -> None:
    assert TEXTS[field](value) == kept


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", BLANK),
        (" \u2003\n", BLANK),
        (True, INVALID),
        (False, INVALID),
        ([], INVALID),
        (["x"], INVALID),
        ({}, INVALID),
        ("a\0b", "Null characters are not allowed."),
        ("a\ud800b", "Surrogate characters are not allowed: U+D800."),
        ("\udfff", "Surrogate characters are not allowed: U+DFFF."),
    ],
)
def test_each_invalid_text_value_gets_one_error(field: str, value: JSON, text: str) -> None:
    assert errors_of(TEXTS[field], value) == [[text]]


@pytest.mark.parametrize("field", TEXTS)
def test_null_is_rejected_unless_the_text_is_optional(field: str) -> None:
    if field in MAY_BE_NULL:
        assert TEXTS[field](None) is None
    else:
        assert errors_of(TEXTS[field], None) == [["This field may not be null."]]
