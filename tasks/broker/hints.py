"""Hints, the only messages on the Celery queues. Each hint names subjects that have work.

A hint carries no command and no secret. It may be late, duplicated, forged or lost, which affects only latency.
New fields may be added, with a default, but no field is ever removed, renamed or reused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

VERSION = 1
MAX_SUBJECTS = 500
MAX_SUBJECT_CHARACTERS = 200

# Printable ASCII is enough, because subjects consist of ids, and no log or encoder has trouble with it.
_SUBJECT = re.compile(rf"[!-~]{{1,{MAX_SUBJECT_CHARACTERS}}}")


def is_subject(name: object) -> bool:
    """Return whether ``name`` is a valid subject for a hint."""
    return isinstance(name, str) and _SUBJECT.fullmatch(name) is not None


class InvalidHint(ValueError):
    """Raised when a task's arguments are not a hint. The error's text gives the reason."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint that subjects such as ``incident:12:7``, ``org:12`` or ``user:5`` have work.

    A hint without subjects only wakes a worker.

    :raises InvalidHint: there are too many subjects, or one of them is empty, too long or not printable ASCII.
    """

    subjects: tuple[str, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        if len(self.subjects) > MAX_SUBJECTS:
            raise InvalidHint(f"a hint names at most {MAX_SUBJECTS} subjects, not {len(self.subjects)}")
        for subject in self.subjects:
            if not is_subject(subject):
                raise InvalidHint(f"a subject is 1 to {MAX_SUBJECT_CHARACTERS} printable ASCII characters")

    @classmethod
    def for_subjects(cls, subjects: Iterable[str]) -> Iterator[Self]:
        """Yield hints that together name every subject once, in order."""
        names = iter(dict.fromkeys(subjects))
        while chunk := tuple(islice(names, MAX_SUBJECTS)):
            yield cls(chunk)

    def to_args(self) -> list[dict[str, Any]]:
        """Return the hint as arguments for a Celery task, in JSON types."""
        return [{"version": self.version, "subjects": list(self.subjects)}]

    @classmethod
    def parse(cls, args: object) -> Self:
        """Parse a task's arguments as a hint that this or a later version of tocsin published.

        :raises InvalidHint: the arguments are not a hint.
        """
        match args:
            case [{"version": int(version), "subjects": list(subjects)}] if version >= 1:
                return cls(tuple(subjects), version)
        raise InvalidHint("the arguments are not one hint")

    @classmethod
    def parse_or_empty(cls, args: Sequence[Any]) -> Self:
        """Parse a task's arguments. Malformed ones yield a hint without subjects, which only wakes a worker."""
        try:
            # Celery passes the JSON array as a tuple; `parse` is as strict as the wire format.
            return cls.parse(list(args))
        except InvalidHint:
            return cls()
