"""Shared type aliases and limits."""

from __future__ import annotations

from typing import Any, Final

JSON = Any
"""A parsed JSON value that has not been validated."""

MAX_ID: Final = 2**63 - 1
"""The largest value that a ``bigint`` id column can hold. No row has a larger id."""
