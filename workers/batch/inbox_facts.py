"""The facts about a person's inbox: how many unread items the commands of a batch select, without listing them all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Inbox = tuple[int, int]
"""A user id and an organization id."""


@dataclass(slots=True)
class UnreadRange:
    """The unread items up to the id ``up_to`` and above the ``up_to`` of the previous range.

    ``count`` is the number of these items, and ``last_id`` the highest of their ids, or 0 if there are none.
    """

    up_to: int
    count: int
    last_id: int


class Selection(NamedTuple):
    """The result of marking items up to an id: the number of items that were unread, and the highest of their ids."""

    size: int
    last_id: int


class UnreadItems:
    """A person's unread items in an organization, as far as the batch's commands select them.

    Handlers keep it current, so that an item counts only for the first command that marks it.
    """

    def __init__(
        self,
        named: Iterable[int] = (),
        ranges: Iterable[UnreadRange] = (),
        by_incident: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        """Set up the facts.

        ``named`` holds the ids of unread items that the commands name, ``ranges`` holds one range per ``up_to``, and
        ``by_incident`` maps the id of each incident in the commands to the ids of the unread items about it.
        """
        self._by_incident = by_incident or {}
        self._named = set(named).union(*self._by_incident.values())
        self._ranges = sorted(ranges, key=lambda each: each.up_to)

    def mark_named(self, ids: Collection[int]) -> set[int]:
        """Mark the items with these ids, and return those that were unread."""
        read = self._named & set(ids)
        self._named -= read
        for id_ in read:
            if (found := next((each for each in self._ranges if id_ <= each.up_to), None)) is not None:
                found.count -= 1
        return read

    def mark_incident(self, incident_id: int) -> set[int]:
        """Mark the items about this incident, which must be named in the batch, and return those that were unread."""
        return self.mark_named(self._by_incident.get(incident_id, ()))

    def mark_up_to(self, up_to: int) -> Selection:
        """Mark all items up to this id, which must be an ``up_to`` of the batch, and return their selection."""
        ranges = [each for each in self._ranges if each.up_to <= up_to]
        selection = Selection(sum(each.count for each in ranges), max((each.last_id for each in ranges), default=0))
        for each in ranges:
            each.count = 0
        self._named = {id_ for id_ in self._named if id_ > up_to}
        return selection
