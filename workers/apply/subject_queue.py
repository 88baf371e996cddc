"""The queue of subjects that a worker has yet to serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from models.enums import Lane


@dataclass(slots=True)
class SubjectQueue:
    """The subjects that a worker has yet to serve, in order, for each of its lanes.

    Subjects are taken from the lanes in turn. At least half of them therefore come from ``commands`` while that lane
    has any, however many wait on ``bulk``.

    >>> queue = SubjectQueue([Lane.COMMANDS, Lane.BULK])
    >>> queue.add(Lane.BULK, ["a", "b"])
    >>> queue.add(Lane.COMMANDS, ["c"])
    >>> queue.take(2)
    [(<Lane.COMMANDS: 'commands'>, 'c'), (<Lane.BULK: 'bulk'>, 'a')]
    >>> queue.remaining()
    {<Lane.BULK: 'bulk'>: ['b']}
    """

    lanes: Sequence[Lane]
    _waiting: dict[Lane, dict[str, None]] = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = {lane: {} for lane in self.lanes}

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def count(self, lane: Lane) -> int:
        """Return how many of the lane's subjects are waiting."""
        return len(self._waiting[lane])

    def add(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Add subjects behind those of the lane that are waiting. A subject that is waiting keeps its place."""
        self._waiting[lane].update(dict.fromkeys(subjects))

    def put_first(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Put subjects in front of those of the lane that are waiting."""
        self._waiting[lane] = dict.fromkeys(subjects) | self._waiting[lane]

    def take(self, most: int) -> list[tuple[Lane, str]]:
        """Remove and return up to ``most`` subjects, taken from the lanes in turn."""
        taken: dict[str, Lane] = {}
        lanes = cycle(self._waiting.items())
        while self and len(taken) < most:
            lane, waiting = next(lanes)
            if waiting:
                subject = next(iter(waiting))
                del waiting[subject]
                taken.setdefault(subject, lane)
        return [(lane, subject) for subject, lane in taken.items()]

    def remaining(self) -> Mapping[Lane, list[str]]:
        """Return the subjects that are waiting, for each lane that has any."""
        return {lane: list(waiting) for lane, waiting in self._waiting.items() if waiting}

    def clear(self) -> None:
        """Forget all subjects."""
        for waiting in self._waiting.values():
            waiting.clear()
