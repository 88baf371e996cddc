"""The limits of a batch, which keep its transaction short and leave work for other workers."""

from __future__ import annotations

from typing import Final

from models.messaging.subject import SubjectKind, is_of_kind

SUBJECTS_PER_BATCH: Final = 64
"""The maximum number of subjects that a batch locks, so that no worker claims everything and leaves others idle."""

COMMANDS_PER_BATCH: Final = 200
COMMANDS_PER_SUBJECT: Final = 50

OBSERVATIONS_PER_RULE: Final = 200
"""The maximum number of commands that a batch takes from one rule's subject.

A batch with such a subject may hold this many more commands in total, because observations are many but cheap to apply.
"""


def commands_per_subject(subject: str) -> int:
    """Return the maximum number of commands that a batch takes from this subject."""
    return OBSERVATIONS_PER_RULE if is_of_kind(subject, SubjectKind.RULE) else COMMANDS_PER_SUBJECT
