"""Subjects, which determine the order of commands.

Commands with the same subject are applied in the order in which they were accepted. A command has exactly one subject,
which is fixed when it is accepted. An incident has exactly one subject, too, which is fixed when it is opened: all
commands that may change the incident carry it. A subject's text is stored with its commands, sent in hints, and hashed
for the advisory lock. Only this module defines the format of that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import md5
from typing import Final, Self
from uuid import UUID


class SubjectKind(StrEnum):
    """The kind of a subject. Its value is the prefix of the subject's text."""

    INCIDENT = "incident"
    KEY = "key"
    RULE = "rule"
    USER = "user"
    ORGANIZATION = "org"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Subject:
    """The key within which commands are ordered. Two subjects with the same text are equal.

    ``number`` is the incident's identifier if the subject names an incident by it, and ``None`` otherwise.

    >>> str(Subject.incident(12, 7))
    'incident:12:7'
    """

    kind: SubjectKind
    name: str
    number: int | None = None

    @classmethod
    def incident(cls, organization_id: int, identifier: int) -> Self:
        """Return the subject for an incident that has neither an alert rule nor a deduplication key."""
        return cls(SubjectKind.INCIDENT, f"{organization_id}:{identifier}", identifier)

    @classmethod
    def dedup_key(cls, organization_id: int, key: str) -> Self:
        """Return the subject for all incidents of an organization, open or closed, that have this key."""
        digest = md5(key.encode(), usedforsecurity=False).hexdigest()
        return cls(SubjectKind.KEY, f"{organization_id}:{digest}")

    @classmethod
    def rule(cls, rule_id: int) -> Self:
        """Return the subject for an alert rule and all incidents that were opened for it."""
        return cls(SubjectKind.RULE, str(rule_id))

    @classmethod
    def user(cls, user_id: int) -> Self:
        """Return the subject for a user, which orders the commands about the user's inbox."""
        return cls(SubjectKind.USER, str(user_id))

    @classmethod
    def organization(cls, organization_id: int) -> Self:
        """Return the subject for an organization, which orders the commands that create alert rules in it."""
        return cls(SubjectKind.ORGANIZATION, str(organization_id))

    @classmethod
    def command(cls, command_id: UUID) -> Self:
        """Return the subject for a single command that need not be ordered with any other."""
        return cls(SubjectKind.COMMAND, str(command_id))

    @classmethod
    def of_incident(
        cls, organization_id: int, identifier: int, *, alert_rule_id: int | None, dedup_key: str | None
    ) -> Self:
        """Return an incident's subject. :data:`INCIDENT_SUBJECT` is the same in SQL."""
        if alert_rule_id is not None:
            return cls.rule(alert_rule_id)
        if dedup_key is not None:
            return cls.dedup_key(organization_id, dedup_key)
        return cls.incident(organization_id, identifier)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


INCIDENT_SUBJECT: Final = f"""
CASE WHEN i.alert_rule_id IS NOT NULL THEN '{SubjectKind.RULE}:' || i.alert_rule_id
     WHEN i.dedup_key IS NOT NULL THEN '{SubjectKind.KEY}:' || i.organization_id || ':' || md5(i.dedup_key)
     ELSE '{SubjectKind.INCIDENT}:' || i.organization_id || ':' || i.identifier END
"""
"""The SQL expression for the text of the subject of the incident in row ``i``."""

# CASE evaluates the cast only for subjects of rules.
FOREIGN_RULE: Final = f"""
CASE WHEN u.subject LIKE '{SubjectKind.RULE}:%%' THEN NOT EXISTS (
    SELECT FROM alert_rules r
    WHERE r.id = substr(u.subject, {len(SubjectKind.RULE) + 2})::bigint AND r.organization_id = u.organization_id
) ELSE false END
"""
"""The SQL condition under which the row ``u`` has the subject of a rule that its organization does not have."""


def is_of_kind(subject: str, kind: SubjectKind) -> bool:
    """Return whether a subject's text denotes a subject of this kind."""
    return subject.startswith(f"{kind}:")
