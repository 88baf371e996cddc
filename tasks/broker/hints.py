"""Hints: the only messages on the Celery queues, each naming subjects that have work.

A hint carries no command and no secret. It may arrive twice, late, forged or never: only latency depends on it. The
message only grows: fields are added with a default, never renamed or reused.
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

# Printable ASCII: subjects are made of ids, and no log or encoder has trouble with them.
_SUBJECT = re.compile(rf"[!-~]{{1,{MAX_SUBJECT_CHARACTERS}}}")


def is_subject(name: object) -> bool:
    """Whether this is a valid subject of a hint."""
    return isinstance(name, str) and _SUBJECT.fullmatch(name) is not None


class InvalidHint(ValueError):
    """Task arguments that are not a hint; the text says why."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Subjects such as ``incident:12:7``, ``org:12`` or ``user:5`` that have work; without any it only wakes a worker.

    :raises InvalidHint: too many subjects, or one that is empty, too long or not printable ASCII.
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
        """Yield as many hints as the subjects need, each subject once, in order."""
        names = iter(dict.fromkeys(subjects))
        while chunk := tuple(islice(names, MAX_SUBJECTS)):
            yield cls(chunk)

    def to_args(self) -> list[dict[str, Any]]:
        """Return the hint as the arguments of a Celery task, in JSON types."""
        return [{"version": self.version, "subjects": list(self.subjects)}]

    @classmethod
    def parse(cls, args: object) -> Self:
        """Parse the arguments of a task as a hint of this version or a later one.

        :raises InvalidHint: they are anything else.
        """
        match args:
            case [{"version": int(version), "subjects": list(subjects)}] if version >= 1:
                return cls(tuple(subjects), version)
        raise InvalidHint("the arguments are not one hint")

    @classmethod
    def parse_or_empty(cls, args: Sequence[Any]) -> Self:
        """Parse the arguments of a task; malformed ones become a hint without subjects, which only wakes a worker."""
        try:
            # Celery passes the JSON array as a tuple; `parse` is as strict as the wire format.
            return cls.parse(list(args))
        except InvalidHint:
            return cls()
