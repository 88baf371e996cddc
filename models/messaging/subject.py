"""Subjects, which determine the order of commands.

Commands with the same subject are applied in the order in which they were accepted. A subject's text is stored with its
commands, sent in hints, and hashed for the advisory lock. Only this module defines the format of that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class SubjectKind(StrEnum):
    """The kind of a subject. Its value is the prefix of the subject's text."""

    INCIDENT = "incident"
    RULE = "rule"
    USER = "user"
    ORGANIZATION = "org"


@dataclass(frozen=True, slots=True)
class Subject:
    """The key within which commands are ordered. Two subjects with the same text are equal.

    >>> str(Subject.incident(12, 7))
    'incident:12:7'
    >>> Subject.parse("rule:5")
    Subject(kind=<SubjectKind.RULE: 'rule'>, ids=(5,))
    """

    kind: SubjectKind
    ids: tuple[int, ...]

    @classmethod
    def incident(cls, organization_id: int, identifier: int) -> Subject:
        """Return the subject for the incident with this number in the organization. The incident need not exist."""
        return cls(SubjectKind.INCIDENT, (organization_id, identifier))

    @classmethod
    def rule(cls, rule_id: int) -> Subject:
        """Return the subject for an alert rule."""
        return cls(SubjectKind.RULE, (rule_id,))

    @classmethod
    def user(cls, user_id: int) -> Subject:
        """Return the subject for a user, which orders the commands about the user's inbox."""
        return cls(SubjectKind.USER, (user_id,))

    @classmethod
    def organization(cls, organization_id: int) -> Subject:
        """Return the subject for an organization, which orders the commands that create objects in the organization."""
        return cls(SubjectKind.ORGANIZATION, (organization_id,))

    @classmethod
    def parse(cls, text: str) -> Subject | None:
        """Parse a subject's text. Return ``None`` if the text does not denote a subject."""
        prefix, *ids = text.split(":")
        if len(ids) != _ID_COUNTS.get(prefix) or not all(id_.isdecimal() for id_ in ids):
            return None
        return cls(SubjectKind(prefix), tuple(map(int, ids)))

    def __str__(self) -> str:
        return ":".join((self.kind, *map(str, self.ids)))


_ID_COUNTS: Final[dict[str, int]] = {
    SubjectKind.INCIDENT: 2,
    SubjectKind.RULE: 1,
    SubjectKind.USER: 1,
    SubjectKind.ORGANIZATION: 1,
}


def subject_sql(kind: SubjectKind, *columns: str) -> str:
    """Return the SQL expression for the text of a subject whose ids are in these columns.

    >>> subject_sql(SubjectKind.RULE, "i.alert_rule_id")
    "'rule:' || i.alert_rule_id"
    """
    return f"'{kind}:' || " + " || ':' || ".join(columns)
