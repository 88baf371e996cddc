"""Digests of JSON values. Two JSON texts have the same digest if they mean the same value.

The order of keys, escapes and white space do not matter, and numbers count by their exact value: ``2`` equals ``2.0``
and ``0.2e1``, and ``-0.0`` equals ``0``. A large number costs no more than its text: ``1e999999999`` is not expanded.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Final

from models.types import JSON

_LONGEST_INTEGER: Final = 20
"""The largest number of digits of an integer that is represented as an ``int``. Ids have at most 19."""

_LONGEST_EXPONENT: Final = 18
"""The largest number of digits in an exponent. No body is long enough for leading or trailing zeros to outweigh it."""

_MOST_FLOAT_DIGITS: Final = 17
_LARGEST_FLOAT_EXPONENT: Final = 400

_MARKER: Final = float("nan")
"""The first element of a list that stands for a number. A body cannot contain it, so no array looks like a number."""


def parse_exact_json(body: bytes) -> JSON:
    """Parse a body that :func:`gateway.http.parsing.parse_json` accepts, for :func:`json_digest`.

    Equal numbers have the same representation, which is an ``int`` or a ``float`` only where that is exact.
    """
    return json.loads(body.decode(), parse_int=_integer, parse_float=_number) if body else {}


def json_digest(*values: JSON) -> str:
    """Return a digest of values from :func:`parse_exact_json`. Equal values have equal digests."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _integer(text: str) -> JSON:
    return int(text) if len(text) <= _LONGEST_INTEGER else _number(text)


def _number(text: str) -> JSON:
    mantissa, _, exponent_text = text.lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0
    if len(exponent_text.lstrip("+-0")) > _LONGEST_EXPONENT:
        return [_MARKER, text]
    exponent = int(exponent_text or "0") - len(fraction) + len(digits) - len(significant)
    if exponent >= 0 and len(significant) + exponent <= _LONGEST_INTEGER:
        return int(sign + significant + "0" * exponent)
    scientific = f"{sign}{significant}e{exponent}"
    if len(significant) <= _MOST_FLOAT_DIGITS and abs(exponent) <= _LARGEST_FLOAT_EXPONENT:
        number = float(scientific)
        if Decimal(repr(number)) == Decimal(scientific):
            # Digests of earlier releases, which are kept for two days, contain the shortest text of the float.
            return number
    return [_MARKER, scientific]
