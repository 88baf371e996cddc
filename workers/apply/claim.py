"""The claimer, which decides the commands that a worker applies next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging.claims import (
    ClaimedCommand,
    find_any_hold,
    lock_subjects,
    read_commands,
    scan_for_subjects,
    scan_on,
)
from tasks.commands.catalog import KNOWN_TYPES
from workers.apply.limits import SUBJECTS_PER_BATCH, batch_limits
from workers.apply.subject_queue import SubjectQueue

OFFERED_PER_BATCH: Final = 4 * SUBJECTS_PER_BATCH
"""How many subjects are offered to a batch: more than it locks, because some cannot proceed or are locked elsewhere."""

NEWEST_PER_BATCH: Final = SUBJECTS_PER_BATCH // 4
"""How many of the newest commands of each lane are offered first."""

SCANS_PER_BATCH: Final = 10
"""How often a batch continues the scan of a lane at most, as long as it finds nothing."""


class Claim(NamedTuple):
    """The commands to apply in one batch, and the subjects whose commands are to be applied one by one.

    Each of these subjects is mapped to the last ``seq`` to apply.
    """

    batch: list[ClaimedCommand]
    suspects: dict[str, int]


@dataclass(slots=True)
class Claimer:
    """Claims batches for a worker that consumes ``lanes``. Each batch is claimed in the caller's transaction.

    Subjects wait in ``queue`` until they are offered to a batch: first those of hints, then those that scans of the
    ledger find. A subject that was served is offered again until it has no more commands to apply.
    """

    lanes: Sequence[Lane]
    is_caught_up: bool = field(default=False, init=False)
    """Whether the last scan reached the end of every lane, and everything that it found was offered to a batch."""
    queue: SubjectQueue = field(init=False)
    _scanned_to: dict[Lane, int] = field(init=False)

    def __post_init__(self) -> None:
        self.queue = SubjectQueue(self.lanes)
        self._scanned_to = dict.fromkeys(self.lanes, 0)

    def claim(self, connection: Connection, *, except_for: Collection[str] = (), scan: bool = True) -> Claim:
        """Lock subjects and read their first commands round-robin. Leave out the subjects in ``except_for``.

        Without ``scan``, only subjects in the queue are offered.
        """
        any_holds = find_any_hold(connection)
        if scan:
            self.is_caught_up = self._scan(connection, any_holds=any_holds)
        offered = self.queue.take(OFFERED_PER_BATCH)
        try:
            names = [subject for _, subject in offered if subject not in except_for]
            locked, examined = lock_subjects(
                connection, names, known_types=KNOWN_TYPES, most=SUBJECTS_PER_BATCH, any_holds=any_holds
            )
            limits, most = batch_limits(locked)
            ready = (
                read_commands(connection, limits, known_types=KNOWN_TYPES, most=most, any_holds=any_holds)
                if locked
                else []
            )
        except BaseException:
            self._put_back(offered)
            raise
        unexamined, served = set(names[examined:]), set(locked)
        self._put_back([each for each in offered if each[1] in unexamined])
        self.is_caught_up = self.is_caught_up and not self.queue
        for lane, subject in offered:
            if subject in served:
                # Because of our lock, another worker may have skipped a command that was accepted after our read.
                self.queue.add(lane, [subject])
        suspects = last_by_subject(command for command in ready if command.is_suspect)
        return Claim([command for command in ready if command.subject not in suspects], suspects)

    def drop_idle(self, autocommit: Connection, *, except_for: Collection[str] = ()) -> None:
        """Drop the next subjects of the queue that have no command to apply now, at the cost of one statement.

        The connection must commit each statement, so that no lock is kept.
        """
        offered = self.queue.take(OFFERED_PER_BATCH)
        try:
            names = [subject for _, subject in offered if subject not in except_for]
            locked, examined = lock_subjects(autocommit, names, known_types=KNOWN_TYPES, most=SUBJECTS_PER_BATCH)
        except BaseException:
            self._put_back(offered)
            raise
        kept = {*locked, *names[examined:]}
        self._put_back([each for each in offered if each[1] in kept])

    def claim_next(self, connection: Connection, subject: str) -> ClaimedCommand | None:
        """Return a subject's first command if no other worker holds the subject and the command may be applied now."""
        locked, _ = lock_subjects(connection, [subject], known_types=KNOWN_TYPES, most=1)
        if not locked:
            return None
        ready = read_commands(connection, {subject: 1}, known_types=KNOWN_TYPES, most=1)
        return ready[0] if ready else None

    def _scan(self, connection: Connection, *, any_holds: bool) -> bool:
        """Scan the lanes, and return whether the end of each was reached.

        Their newest commands are offered first, so that they never wait for a whole backlog.
        """
        enough = [lane for lane in self.lanes if self.queue.count(lane) >= SUBJECTS_PER_BATCH]
        scans = scan_for_subjects(
            connection, self._scanned_to, newest=NEWEST_PER_BATCH, only_newest=enough, any_holds=any_holds
        )
        scanned = {lane: scan for lane, scan in scans.items() if lane not in enough}
        for lane, scan in scan_on(connection, scanned, most=SCANS_PER_BATCH, any_holds=any_holds).items():
            self._scanned_to[lane] = scan.after
            self.queue.add(lane, scan.subjects)
        for lane, scan in scans.items():
            self.queue.put_first(lane, scan.newest)
        return not enough and not any(self._scanned_to.values())

    def _put_back(self, offered: Sequence[tuple[Lane, str]]) -> None:
        for lane in self.lanes:
            self.queue.put_first(lane, [subject for each, subject in offered if each is lane])


def last_by_subject(commands: Iterable[ClaimedCommand]) -> dict[str, int]:
    """Return the last ``seq`` of each subject among these commands, which must be sorted by ``seq``."""
    return {command.subject: command.seq for command in commands}
