"""JSON Schemas of the commands' field types, for the OpenAPI document. Pure functions and constants.

A number may be sent as text, and text may be sent as a number. Surrounding white space is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]

_SPACE: Final = r"\t-\r\u001c- \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The white space that ``str.strip`` removes, for use inside a character class."""

NON_BLANK: Final = rf"[^\u0000]*[^\u0000{_SPACE}][^\u0000]*$"
"""The pattern for non-blank text, without the anchor at the start."""

TEXT: Final[Schema] = {"type": ["string", "number"], "pattern": f"^{NON_BLANK}"}
STORABLE: Final[Schema] = {"type": "string", "pattern": r"^[^\u0000]*$"}
TIMESTAMP: Final[Schema] = {"type": "string", "format": "date-time"}
ID: Final[Schema] = {"type": ["integer", "string"]}


def trimmed(pattern: str) -> Schema:
    """Return the schema for text that matches the pattern after trimming."""
    return {"type": "string", "pattern": f"^[{_SPACE}]*({pattern})[{_SPACE}]*$"}


def _integer(digits: str) -> Schema:
    return trimmed(rf"({digits})(\.0*)?")


INTEGER: Final[Schema] = {"anyOf": [{"type": "integer"}, _integer("[+-]?[0-9]{1,30}")]}
NUMBER: Final[Schema] = {
    "anyOf": [
        {"type": "number"},
        # More digits are accepted, too, as long as the number is a finite double.
        trimmed(r"[+-]?([0-9]{1,99}\.?[0-9]{0,99}|\.[0-9]{1,99})([eE][+-]?[0-9]{1,2})?"),
    ]
}
BOOLEAN: Final[Schema] = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {
            "type": "string",
            "pattern": "^([tT]([rR][uU][eE])?|[yY]([eE][sS])?|[oO][nN]|1"
            "|[fF]([aA][lL][sS][eE])?|[nN][oO]?|[oO][fF][fF]|0)$",
        },
    ]
}


def or_null(schema: Mapping[str, Any]) -> Schema:
    """Return the schema, extended to allow null."""
    return {"anyOf": [schema, {"type": "null"}]}


def text_up_to(most: int) -> Schema:
    """Return the schema for text that has 1 to ``most`` characters after trimming."""
    trimmed = rf"[^\u0000{_SPACE}]([^\u0000]{{0,{most - 2}}}[^\u0000{_SPACE}])?"
    return {"type": ["string", "number"], "pattern": f"^[{_SPACE}]*{trimmed}[{_SPACE}]*$"}


def text_or_blank_up_to(most: int) -> Schema:
    """Return the schema for text that has 0 to ``most`` characters after trimming."""
    filled = text_up_to(most)
    return {"anyOf": [filled, {"type": "string", "pattern": f"^[{_SPACE}]*$"}]}


def choice_of(choices: Sequence[int]) -> Schema:
    """Return the schema for one of these integers, none of which may be negative."""
    digits = "|".join(str(int(each)) for each in choices if each)
    zero = "|[+-]?0{1,30}" if 0 in choices else ""
    return {"anyOf": [{"enum": [int(each) for each in choices]}, _integer(rf"\+?0{{0,28}}({digits}){zero}")]}


def integer_up_to(most: int) -> Schema:
    """Return the schema for an integer from 1 to ``most``."""
    digits = _integer(rf"\+?0{{0,24}}({_digits_up_to(most)})")
    return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": most}, digits]}


def _digits_up_to(most: int) -> str:
    # First the numbers with fewer digits; then, place by place, those that share the maximum's prefix and are lower.
    digits = str(most)
    alternatives = [f"[1-9][0-9]{{{count}}}" for count in range(len(digits) - 1)]
    for place, digit in enumerate(digits):
        least = 0 if place else 1
        if int(digit) > least:
            alternatives.append(f"{digits[:place]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}")
    return "|".join([*alternatives, digits])


def all_given(*names: str) -> Schema:
    """Return the schema for an object in which all of these properties have a value other than null."""
    return {"required": list(names), "properties": {name: {"not": {"type": "null"}} for name in names}}


def list_of(items: Mapping[str, Any], *, least: int = 0, most: int | None = None) -> Schema:
    """Return the schema for an array of ``least`` to ``most`` such items."""
    limits = ({"minItems": least} if least else {}) | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **limits}
