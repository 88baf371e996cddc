"""Limits on the depth and on the number of values of a body, which are checked before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.http.json_limits import MAX_NESTING, MAX_VALUES, PIECE_BYTES, TOO_DEEP, TOO_MANY, require_bounded
from gateway.http.parsing import parse_json
from models.refusals import MalformedRequest


def nested(levels: int) -> Any:
    value: Any = []
    for level in range(levels - 1):
        value = {"]}": value} if level % 2 else [[], value, "[[[["]
    return value


def refusal_of(text: bytes) -> str | None:
    try:
        require_bounded(text)
    except MalformedRequest as refusal:
        return str(refusal.body["detail"])
    return None


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_NESTING),
        [nested(MAX_NESTING - 1)] * 3,
        ["[" * 100, '"[' * 100, "\\[" * 100, '\\"' * 100, "\\"],
        {"[": "{" * 100, '"': "[" * 30, "\\": ["{" * 30, '\\"{']},
        [[]] * 1000,
        ["," * 2 * MAX_VALUES],
        ["\\" * PIECE_BYTES + '"', ["[" * 2 * PIECE_BYTES], '\\"{' * PIECE_BYTES],
        [0] * MAX_VALUES,
    ],
    ids=["deepest", "deepest parts", "strings", "names", "wide", "commas in a string", "long strings", "most values"],
)
def test_a_text_within_the_limits_is_parsed(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (json.dumps(nested(MAX_NESTING + 1)).encode(), TOO_DEEP),
        (json.dumps([1, {"a": [nested(MAX_NESTING)]}, 2]).encode(), TOO_DEEP),
        (b"[" * 5000 + b"]" * 5000, TOO_DEEP),
        (b'{"a":' * (MAX_NESTING + 1), TOO_DEEP),
        (b"[" + b"0," * MAX_VALUES + b"0]", TOO_MANY),
        (b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]", TOO_MANY),
        (b'[{"\\"":0}' + b',{"\\\\":0}' * (MAX_VALUES // 2) + b"]", TOO_MANY),
        (b"[" + b'"",' * 2 * MAX_VALUES + b'""]', TOO_MANY),
    ],
    ids=["nested", "one deep part", "5,000 levels", "without an end", "numbers", "arrays", "objects", "strings"],
)
def test_a_text_above_a_limit_is_refused_before_it_is_parsed(text: bytes, refusal: str) -> None:
    assert refusal_of(text) == refusal


@pytest.mark.parametrize("text", [b"[" * MAX_NESTING, b"]" * 100, b'["\\', b"[}" * 30, b'"' * 99 + b"{" * 30])
def test_a_text_that_is_not_json_is_left_to_the_parser_or_refused(text: bytes) -> None:
    with pytest.raises(MalformedRequest, match="JSON parse error"):
        parse_json(text)
