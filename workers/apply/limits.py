"""The limits of a batch, which keep its transaction short and leave work for other workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.messaging.subject import SubjectKind, is_of_kind

SUBJECTS_PER_BATCH: Final = 64
"""The maximum number of subjects that a batch locks, so that no worker claims everything and leaves others idle.

It is less than :data:`COMMANDS_PER_BATCH`, so that every locked subject gets a turn.
"""

COMMANDS_PER_BATCH: Final = 200
COMMANDS_PER_SUBJECT: Final = 50

OBSERVATIONS_PER_RULE: Final = 200
"""The maximum number of commands that a batch takes from one rule's subject.

A batch with such a subject may hold this many more commands in total, because observations are many but cheap to apply.
"""


def batch_limits(subjects: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the maximum number of commands to take from each of a batch's subjects, and in total.

    The more subjects there are, the fewer commands are read of each, because a round-robin over many subjects takes
    only the first few commands of each.
    """
    rules = {subject for subject in subjects if is_of_kind(subject, SubjectKind.RULE)}
    most = COMMANDS_PER_BATCH + (OBSERVATIONS_PER_RULE if rules else 0)
    depth = max(2, 2 * most // max(1, len(subjects)))
    limits = {
        subject: min(depth, OBSERVATIONS_PER_RULE if subject in rules else COMMANDS_PER_SUBJECT) for subject in subjects
    }
    return limits, most
