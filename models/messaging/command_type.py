"""The text for a type of commands and a version of its payload, by which a worker knows what it can apply."""

from __future__ import annotations


def versioned_type(type_: str, payload_version: int) -> str:
    """Return the text for a type and a payload version.

    >>> versioned_type("comment.post", 1)
    'comment.post/1'
    """
    return f"{type_}/{payload_version}"


def versioned_type_sql(row: str) -> str:
    """Return the SQL expression for the same text, of a command in this row."""
    return f"({row}.type || '/' || {row}.payload_version)"
