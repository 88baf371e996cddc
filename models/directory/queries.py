"""Columns and statements for reading people and teams, and functions that build entities from the rows."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from models.directory.policy_facts import IS_ACTIVE
from models.directory.tables import Person, users
from models.policy import TeamFacts

PERSON_COLUMNS: Final = tuple(users.c[field.name] for field in fields(Person))
"""The columns for every field of a :class:`~models.directory.tables.Person`."""

TEAMS: Final = f"""
SELECT id, slug, organization_id, name, {IS_ACTIVE} AS active FROM teams WHERE id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own condition
"""The query for the teams with these ids and the facts about them that the policy needs.

It is plain SQL, because workers execute it for every batch with rules.
"""


def person_from_row(row: Any, *, id_column: str = "id") -> Person:
    """Build a person from a row with :data:`PERSON_COLUMNS`.

    ``id_column`` names the column that holds the person's id, for rows in which ``id`` is the id of something else.
    """
    return Person(
        id=getattr(row, id_column),
        username=row.username,
        name=row.name,
        email=row.email,
        is_active=row.is_active,
        is_superuser=row.is_superuser,
        date_joined=row.date_joined,
    )


def team_facts_from_row(row: Any) -> TeamFacts:
    """Build the policy's facts about a team from a row of :data:`TEAMS`."""
    return TeamFacts(row.id, row.organization_id, row.name, row.active)
