"""Keyset pages of the operators' lists, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

JsonT = TypeVar("JsonT")

Key = tuple[Any, ...]
"""The sort key of a row. In JSON cursors it consists of an integer or a text."""


class Window(NamedTuple):
    """Which rows of a list to read: up to ``limit`` after ``key``, or from the start if it is ``None``.

    The list is read from the newest row to the oldest, or the other way round if ``backwards``. With ``includes``, the
    row with the key itself is read, too. These are the fields of a cursor in :mod:`gateway.http.pagination`, and
    ``limit`` is one more than a page shows if the caller must know whether there is another page.
    """

    limit: int = 100
    key: Key | None = None
    backwards: bool = False
    includes: bool = False

    @property
    def operator(self) -> str:
        """The SQL operator that compares a row's key with this window's."""
        return (">" if self.backwards else "<") + ("=" if self.includes else "")

    @property
    def direction(self) -> str:
        """The SQL sort direction."""
        return "ASC" if self.backwards else "DESC"

    def of(self, rows: Sequence[Entry[JsonT]]) -> list[Entry[JsonT]]:
        """Return the window's part of a complete list, which is sorted from the newest row to the oldest.

        >>> [row.json for row in Window(limit=2, key=(3,)).of([Entry((key,), key) for key in (4, 3, 2, 1)])]
        [2, 1]
        """
        ordered = list(reversed(rows)) if self.backwards else list(rows)
        if self.key is not None:
            at = self.key
            ordered = [
                row
                for row in ordered
                if (row.key > at if self.backwards else row.key < at) or (self.includes and row.key == at)
            ]
        return ordered[: self.limit]


@dataclass(frozen=True, slots=True)
class Entry(Generic[JsonT]):
    """A row of a list: its key, and the entity as JSON."""

    key: Key
    json: JsonT


@dataclass(frozen=True, slots=True)
class Listing(Generic[JsonT]):
    """The rows of a window, in reading order.

    A search that would take too long stops early: then ``stopped_at`` is the key after which it continues, although
    fewer than ``limit`` rows have been found.
    """

    rows: Sequence[Entry[JsonT]] = field(default_factory=list)
    stopped_at: Key | None = None

    @property
    def entities(self) -> list[JsonT]:
        """The entities, without their keys."""
        return [row.json for row in self.rows]
