"""The limits of a batch, which keep its transaction short and leave work for other workers."""

from __future__ import annotations

from typing import Final

SUBJECTS_PER_BATCH: Final = 64
"""The maximum number of subjects that a batch locks, so that no worker claims everything and leaves others idle."""

COMMANDS_PER_BATCH: Final = 200
COMMANDS_PER_SUBJECT: Final = 50

OBSERVATIONS_PER_RULE: Final = 200
"""The maximum number of commands that a batch takes from one rule's subject.

A batch with such a subject may hold this many more commands in total, because observations are many but cheap to apply.
"""
