"""JSON Schemas of the commands' field types, for the OpenAPI document. Pure functions and constants.

A number may be sent as text, and text may be sent as a number. Surrounding white space is ignored. Such a schema has
two forms: the recommended one, which is what clients see and code generators understand, and, under the keyword
:data:`ACCEPTED`, the one that allows exactly what is accepted. :func:`recommended_form` and :func:`accepted_form`
choose between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]

_SPACE: Final = r"\t-\r\u001c- \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The white space that ``str.strip`` removes, for use inside a character class."""

NON_BLANK: Final = rf"[^\u0000]*[^\u0000{_SPACE}][^\u0000]*$"
"""The pattern for non-blank text, without the anchor at the start."""

PLAIN_NON_BLANK: Final = r"[^\u0000]*[^\u0000\s\u001c\u001d\u001e\u001f\u0085][^\u0000]*$"
"""A pattern for non-blank text, without the anchor at the start, from which openapi-generator can make an example.

Whatever a dialect of regular expressions means by white space, this matches no text that :data:`NON_BLANK` does not.
"""

ACCEPTED: Final = "x-accepted"
"""The keyword for the schema that allows exactly what is accepted, beside the recommended form. It is never published.
"""

COMPONENT: Final = "x-component"
"""The keyword for the name under which an object becomes a component of the OpenAPI document."""

OWN_DEFAULT: Final = "x-own-default"
"""The keyword for a field whose default is not the value that its class declares."""

_ANNOTATIONS: Final = ("description", "writeOnly")


def recommending(recommended: Mapping[str, Any], accepted: Mapping[str, Any]) -> Schema:
    """Return a schema with these two forms. Whatever the recommended form allows must be accepted, too."""
    return {**recommended, ACCEPTED: dict(accepted)}


def recommended_form(schema: Any) -> Any:
    """Return the schema in the form that clients should use."""
    if isinstance(schema, list):
        return [recommended_form(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {keyword: recommended_form(each) for keyword, each in schema.items() if keyword != ACCEPTED}


def accepted_form(schema: Any) -> Any:
    """Return the schema in the form that allows exactly what is accepted."""
    if isinstance(schema, list):
        return [accepted_form(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if ACCEPTED in schema:
        return {word: schema[word] for word in _ANNOTATIONS if word in schema} | accepted_form(schema[ACCEPTED])
    return {keyword: accepted_form(each) for keyword, each in schema.items() if keyword != COMPONENT}


TEXT: Final = recommending(
    {"type": "string", "pattern": f"^{PLAIN_NON_BLANK}"}, {"type": ["string", "number"], "pattern": f"^{NON_BLANK}"}
)
STORABLE: Final[Schema] = {"type": "string", "pattern": r"^[^\u0000]*$"}
TIMESTAMP: Final[Schema] = {"type": "string", "format": "date-time"}
ID: Final = recommending({"type": "string", "pattern": "^[0-9]+$"}, {"type": ["integer", "string"]})


def trimmed(pattern: str) -> Schema:
    """Return the schema for text that matches the pattern after trimming."""
    return recommending(
        {"type": "string", "pattern": f"^({pattern})$"},
        {"type": "string", "pattern": f"^[{_SPACE}]*({pattern})[{_SPACE}]*$"},
    )


def _integer(digits: str) -> Schema:
    return trimmed(rf"({digits})(\.0*)?")


_ANY_INTEGER: Final[Schema] = {"anyOf": [{"type": "integer"}, _integer("[+-]?[0-9]{1,30}")]}
INTEGER: Final = recommending({"type": "integer"}, _ANY_INTEGER)
NUMERIC_ID: Final = recommending({"type": "string", "pattern": "^[0-9]{1,18}$"}, _ANY_INTEGER)
"""An id, which responses contain as text, but which is accepted in every form of an integer."""
NUMBER: Final = recommending(
    {"type": "number"},
    {
        "anyOf": [
            {"type": "number"},
            # More digits are accepted, too, as long as the number is a finite double.
            trimmed(r"[+-]?([0-9]{1,99}\.?[0-9]{0,99}|\.[0-9]{1,99})([eE][+-]?[0-9]{1,2})?"),
        ]
    },
)
BOOLEAN: Final = recommending(
    {"type": "boolean"},
    {
        "anyOf": [
            {"type": "boolean"},
            {"enum": [0, 1]},
            {
                "type": "string",
                "pattern": "^([tT]([rR][uU][eE])?|[yY]([eE][sS])?|[oO][nN]|1"
                "|[fF]([aA][lL][sS][eE])?|[nN][oO]?|[oO][fF][fF]|0)$",
            },
        ]
    },
)


def or_null(schema: Mapping[str, Any]) -> Schema:
    """Return the schema, whose recommended form has a single type, extended to allow null."""
    if schema["type"] == "object":
        return {"anyOf": [dict(schema), {"type": "null"}]}
    plain = {word: each for word, each in schema.items() if word != ACCEPTED}
    values = {"enum": [*plain["enum"], None]} if "enum" in plain else {}
    return recommending(plain | {"type": [plain["type"], "null"]} | values, {"anyOf": [dict(schema), {"type": "null"}]})


def or_null_as_nothing(schema: Mapping[str, Any]) -> Schema:
    """Return the schema for a field for which null is accepted, with the meaning of not sending the field."""
    return recommending({word: each for word, each in schema.items() if word != ACCEPTED}, or_null(schema)[ACCEPTED])


def text_up_to(most: int) -> Schema:
    """Return the schema for text that has 1 to ``most`` characters after trimming."""
    trimmed = rf"[^\u0000{_SPACE}]([^\u0000]{{0,{most - 2}}}[^\u0000{_SPACE}])?"
    return recommending(
        {"type": "string", "maxLength": most, "pattern": f"^{PLAIN_NON_BLANK}"},
        {"type": ["string", "number"], "pattern": f"^[{_SPACE}]*{trimmed}[{_SPACE}]*$"},
    )


def text_or_blank_up_to(most: int) -> Schema:
    """Return the schema for text that has 0 to ``most`` characters after trimming."""
    blank = {"type": "string", "pattern": f"^[{_SPACE}]*$"}
    return recommending(STORABLE | {"maxLength": most}, {"anyOf": [text_up_to(most), blank]})


def choice_of(choices: Sequence[int]) -> Schema:
    """Return the schema for one of these integers, none of which may be negative."""
    digits = "|".join(str(int(each)) for each in choices if each)
    zero = "|[+-]?0{1,30}" if 0 in choices else ""
    values = [int(each) for each in choices]
    return recommending(
        {"type": "integer", "enum": values},
        {"anyOf": [{"enum": values}, _integer(rf"\+?0{{0,28}}({digits}){zero}")]},
    )


def integer_up_to(most: int) -> Schema:
    """Return the schema for an integer from 1 to ``most``."""
    digits = _integer(rf"\+?0{{0,24}}({_digits_up_to(most)})")
    integer = {"type": "integer", "minimum": 1, "maximum": most}
    return recommending(integer, {"anyOf": [integer, digits]})


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


def component(name: str, schema: Mapping[str, Any]) -> Schema:
    """Return the schema of an object that becomes a component of this name in the OpenAPI document."""
    return {COMPONENT: name, **schema}


def with_own_default(schema: Mapping[str, Any], description: str) -> Schema:
    """Return the schema of a field whose default depends on other fields, as the description says."""
    return {**schema, "description": description, OWN_DEFAULT: True}
