"""Versioned command types: a command's type and the version of its payload, which tell a worker if it can apply it."""

from __future__ import annotations


def versioned_type(type_: str, payload_version: int) -> str:
    """Return the text that identifies a command type in one version of its payload.

    >>> versioned_type("comment.post", 1)
    'comment.post/1'
    """
    return f"{type_}/{payload_version}"


def versioned_type_sql(row: str) -> str:
    """Return the SQL expression for the versioned type of the command in ``row``."""
    return f"({row}.type || '/' || {row}.payload_version)"
