"""Limits on the depth and on the number of values of a JSON text, checked before any object is built from it.

Parsing holds the interpreter, so all other requests would have to wait for a text with millions of values.
"""

from __future__ import annotations

from typing import Final

from models.refusals import MalformedRequest

MAX_NESTING: Final = 20
MAX_VALUES: Final = 200_000
"""How many commas, arrays and objects a text may have. It has at most one value more than that."""

TOO_DEEP: Final = f"JSON parse error - nested deeper than {MAX_NESTING} levels"
TOO_MANY: Final = f"JSON parse error - more than {MAX_VALUES} values"

_BRACES_TO_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS_AND_COMMAS: Final = bytes(sorted(set(range(256)) - set(b"[]{},")))


def require_bounded(text: bytes) -> None:
    """Require that a JSON text has at most ``MAX_NESTING`` levels and ``MAX_VALUES`` values.

    A text that is not JSON is judged by what precedes its first error, because no parser reads more of it. What follows
    may only make the judgement stricter.

    :raises MalformedRequest: if the text exceeds one of the limits.
    """
    openings = text.count(b"[") + text.count(b"{")
    if openings <= MAX_NESTING and text.count(b",") + openings <= MAX_VALUES:
        # Those inside strings are counted, too. The text is within the limits even with them.
        return
    structure = _structure(text)
    openings = structure.count(b"[")
    if structure.count(b",") + openings > MAX_VALUES:
        raise MalformedRequest(TOO_MANY)
    if openings > MAX_NESTING and _is_deep(structure.replace(b",", b"")):
        raise MalformedRequest(TOO_DEEP)


def _structure(text: bytes) -> bytes:
    """Return the commas and brackets outside of strings, with brackets in place of braces.

    :raises MalformedRequest: if there are more strings than a text within the limits can have.
    """
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each value may have a name, and each string has two quotation marks.
    if unescaped.count(b'"') > 4 * (MAX_VALUES + 1):
        raise MalformedRequest(TOO_MANY)
    outside = b"".join(unescaped.split(b'"')[::2])
    return outside.translate(_BRACES_TO_BRACKETS, _ALL_BUT_BRACKETS_AND_COMMAS)


def _is_deep(brackets: bytes) -> bool:
    for _ in range(MAX_NESTING):
        # This removes the innermost level everywhere.
        brackets = brackets.replace(b"[]", b"")
    # What is left contains a whole part that was too deep, or begins too many parts that have no end.
    return b"[]" in brackets or brackets.count(b"[") > MAX_NESTING
