"""The only message on a queue: "these subjects have work".

A hint names rows, it carries no orders and no secrets. It may come twice, late, forged, or never; nothing depends on
it but speed. The message only grows: fields are added with a default, never renamed or reused.
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

# Printable ASCII: a subject is made of ids, and what cannot be printed cannot surprise a log or an encoder either.
_SUBJECT = re.compile(rf"[!-~]{{1,{MAX_SUBJECT_CHARACTERS}}}")


def is_subject(name: object) -> bool:
    """Whether this can stand in a hint."""
    return isinstance(name, str) and _SUBJECT.fullmatch(name) is not None


class InvalidHint(ValueError):
    """Task arguments that hold no hint; the text says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Subjects such as ``incident:12:7``, ``org:12`` or ``user:5`` that have work; with none it only wakes.

    :raises ValueError: too many subjects, or one that is empty, too long or not printable ASCII.
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
        """The hints it takes to name these subjects, each once, in their order."""
        names = iter(dict.fromkeys(subjects))
        while chunk := tuple(islice(names, MAX_SUBJECTS)):
            yield cls(chunk)

    def to_args(self) -> list[dict[str, Any]]:
        """The hint as Celery arguments, made of JSON."""
        return [{"version": self.version, "subjects": list(self.subjects)}]

    @classmethod
    def parse(cls, args: object) -> Self:
        """The hint in a task's arguments, of this version or of a later one.

        :raises NotAHint: anything else.
        """
        match args:
            case [{"version": int(version), "subjects": list(subjects)}] if version >= 1:
                return cls(tuple(subjects), version)
        raise InvalidHint("the arguments are not one hint")

    @classmethod
    def parse_or_empty(cls, args: Sequence[Any]) -> Self:
        """The hint in a task's arguments; what cannot be read only wakes."""
        try:
            # A JSON array may reach us as a tuple; `parse` is as strict as the wire.
            return cls.parse(list(args))
        except InvalidHint:
            return cls()
