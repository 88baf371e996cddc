"""Limits on the depth and on the number of values of a JSON text, checked before any object is built from it.

Parsing holds the interpreter, so all other requests would have to wait for a text with millions of values. The check
itself reads the text in pieces and stops at the first limit, so that other threads may run in between.
"""

from __future__ import annotations

from typing import Final

from models.refusals import MalformedRequest

MAX_NESTING: Final = 20
MAX_VALUES: Final = 200_000
"""How many commas, arrays and objects a text may have. It has at most one value more than that."""

PIECE_BYTES: Final = 64 * 1024

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
    if len(text) <= PIECE_BYTES and text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        # Those inside strings are counted, too. The text is within the limits even with them.
        return
    brackets = _brackets(text)
    if brackets.count(b"[") > MAX_NESTING and _is_deep(brackets):
        raise MalformedRequest(TOO_DEEP)


def _brackets(text: bytes) -> bytes:
    """Return the brackets outside of strings, with brackets in place of braces.

    :raises MalformedRequest: if the text has too many values.
    """
    found: list[bytes] = []
    start = values = quotes = 0
    while start < len(text):
        end = start + PIECE_BYTES
        while text[end - 1 : end] == b"\\":
            # What a backslash escapes belongs to the same piece.
            end += 1
        parts = text[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        # After an odd number of quotation marks, the piece begins inside a string.
        structure = b"".join(parts[quotes % 2 :: 2]).translate(_BRACES_TO_BRACKETS, _ALL_BUT_BRACKETS_AND_COMMAS)
        values += structure.count(b",") + structure.count(b"[")
        quotes += len(parts) - 1
        # Each value may have a name, and each string has two quotation marks.
        if values > MAX_VALUES or quotes > 4 * (MAX_VALUES + 1):
            raise MalformedRequest(TOO_MANY)
        found.append(structure.replace(b",", b""))
        start = end
    return b"".join(found)


def _is_deep(brackets: bytes) -> bool:
    for _ in range(MAX_NESTING):
        # This removes the innermost level everywhere.
        brackets = brackets.replace(b"[]", b"")
    # What is left contains a whole part that was too deep, or begins too many parts that have no end.
    return b"[]" in brackets or brackets.count(b"[") > MAX_NESTING
