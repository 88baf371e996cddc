"""Digests of JSON values: equal values have equal digests, however they are written."""

from __future__ import annotations

import itertools

import pytest

from gateway.http.json_digest import json_digest, parse_exact_json

EQUAL = [
    ["2", "2.0", "0.2e1", "20e-1", "2E+0", "2e0000000000000000000000"],
    ["0", "-0", "0.0", "-0.0", "0e5", "-0e99999999999999999999"],
    ["-1.5", "-15e-1", "-1.50"],
    ["1e400", "10e399", "0.1E+401", "1" + "0" * 400],
    ["1e999999999", "100e999999997"],
    ["9007199254740993", "9007199254740993.0", "9007199254740.993e3"],
    ["123456789012345678901", "123456789012345678901.0"],
    ["0.1000000000000000055511151231257827", "1.000000000000000055511151231257827e-1"],
    ['{"a": 1, "b": [2]}', '{"b":[2.0],"\\u0061":1e0}'],
]
"""Groups of JSON texts. The texts of a group mean the same value, and the groups mean different ones."""

DIFFERENT = [
    *(group[0] for group in EQUAL),
    *("1", "-2", '"2"', '"2e0"', "[2]", "true", "false", "null", "{}", "[]", '""'),
    *("9007199254740992.0", "9007199254740994", "123456789012345678900", "0.1", "0.10000000000000001"),
    *("1e401", "-1e400", "1e-400", "1e-999999999", "1e99999999999999999999", '[null, "1e400"]', '["NaN", "1e400"]'),
]
"""JSON texts that mean different values."""


def digest(text: str) -> str:
    return json_digest(parse_exact_json(text.encode()))


@pytest.mark.parametrize("texts", EQUAL, ids=lambda texts: texts[0][:30])
def test_equal_values_have_equal_digests(texts: list[str]) -> None:
    assert {digest(text) for text in texts} == {digest(texts[0])}
    assert {digest(f'[{{"x": {text}}}]') for text in texts} == {digest(f'[{{"x": {texts[0]}}}]')}


def test_different_values_have_different_digests() -> None:
    digests = {text: digest(text) for text in DIFFERENT}

    for one, other in itertools.combinations(DIFFERENT, 2):
        assert digests[one] != digests[other], (one, other)


def test_an_exponent_may_have_any_number_of_leading_zeros() -> None:
    zeros = "0" * 5000

    assert digest(f"1e{zeros}1") == digest("10")
    assert digest(f"1e-{zeros}1") == digest("0.1")
    assert digest(f"1e+{zeros}") == digest("1")


@pytest.mark.parametrize("text", ["1e999999999", "-1e-999999999", "1e" + "9" * 60_000, "1" + "0" * 4000 + "e4000"])
def test_a_large_number_is_not_expanded(text: str) -> None:
    assert len(repr(parse_exact_json(text.encode()))) <= len(text) + 10


def test_an_empty_body_equals_an_empty_object() -> None:
    assert json_digest(parse_exact_json(b"")) == digest("{}")


def test_digests_of_earlier_releases_remain_valid() -> None:
    """A key is kept for two days, so a repeated request may meet the digest that an earlier release stored."""
    body = (
        b'{"name":"CPU \\u00e9","alertThreshold":95.5,"thresholdType":0,"mentions":["user:12"],"n":-1,'
        b'"big":9223372036854775807,"t":null}'
    )

    digest = json_digest("POST", "/x/", None, '"1"', parse_exact_json(body))

    assert digest == "788929e48d4fef4a3c8a2208cf03a74a"
