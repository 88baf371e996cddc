"""Find migration statements that break or block the previous release while it is still running."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Final, NamedTuple

from sqlalchemy import event
from sqlalchemy.engine import Engine

from models.database.migrate import known_revisions, upgrade_to

TRIGGERS: Final = {
    name[:4]: import_module(f"models.migrations.versions.{name}").TRIGGERS
    for name in ("0005_the_incident_list", "0007_titles_by_their_letters")
}


class Breach(NamedTuple):
    """A statement that breaks or blocks the previous release."""

    revision: str
    statement: str
    why: str


ALLOWED: Final[dict[tuple[str, str], str]] = (
    {
        (
            "0003",
            "CREATE UNIQUE INDEX CONCURRENTLY users_username_lower_key ON users (lower(username))",
        ): "the previous release keeps usernames unique itself, with the lock that every import takes",
        ("0005", "DROP TABLE IF EXISTS incident_listing"): "it was created by this revision in an interrupted run",
        ("0007", "DROP TABLE IF EXISTS incident_titles"): "it was created by this revision in an interrupted run",
        (
            "0009",
            "ALTER TABLE incidents ADD CONSTRAINT incidents_one_subject_check CHECK (alert_rule_id IS NULL OR dedup_key IS NULL)",  # noqa: E501
        ): "the previous release is stopped before this revision is applied",
    }
    | {
        ("0011", f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON deliveries {definition}"): (
            "the previous release writes no rows that the index covers"
        )
        for name, definition in import_module(
            "models.migrations.versions.0011_deliveries_are_sent"
        ).UNIQUE_INDEXES.items()
    }
    | {
        (revision, " ".join(trigger.split())): "it keeps rows that the previous release never reads"
        for revision, triggers in TRIGGERS.items()
        for trigger in triggers
    }
)
"""Reasons why a breach is harmless, by revision and statement. A column that no release reads any more, for
instance, may be dropped one release after the last one that read it."""

_RULES: Final = {
    r"\bDROP\s+(TABLE|COLUMN|TYPE|VIEW)\b": "the previous release still uses it: drop it one release later",
    r"\bRENAME\b": "the previous release knows the old name: add the new one beside it",
    r"\bALTER\s+(COLUMN\s+)?\S+\s+(SET\s+DATA\s+)?TYPE\b": "the previous release writes the old: add a column",
    r"\bSET\s+NOT\s+NULL\b": "the previous release may leave it empty: give it a default and wait a release",
    r"\bDROP\s+DEFAULT\b": "the previous release may rely on it",
    r"\bADD\s+COLUMN\b(?=.*\bNOT\s+NULL\b)(?!.*\bDEFAULT\b)": "the previous release does not fill it",
    r"\bADD\s+(CONSTRAINT\b.*)?(CHECK|FOREIGN\s+KEY)\b(?!.*\bNOT\s+VALID\b)": "it checks every row under a lock",
    r"\bADD\s+(CONSTRAINT\b.*)?(UNIQUE|PRIMARY\s+KEY|EXCLUDE)\b": "the previous release does not keep it",
    r"\bCREATE\s+UNIQUE\s+INDEX\b": "the previous release does not keep it",
    r"\bCREATE\s+INDEX\s+(?!CONCURRENTLY)": "it blocks writers while it is built",
    r"\bTRUNCATE\b|\bLOCK\s+TABLE\b": "it blocks everyone",
    r"\bCREATE\s+(OR\s+REPLACE\s+)?(CONSTRAINT\s+)?TRIGGER\b": "the previous release does not expect it",
}

_CREATED = re.compile(r"\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)", re.IGNORECASE)
_TARGET = re.compile(
    r"\b(?:ALTER TABLE(?: IF EXISTS)?(?: ONLY)?|INDEX .*? ON|TRIGGER .*? ON|TRUNCATE(?: TABLE)?)\s+(\w+)",
    re.IGNORECASE | re.DOTALL,
)


def statements_by_revision(engine: Engine) -> dict[str, list[str]]:
    """Migrate an empty database to head, one revision at a time; return each revision's statements."""
    ran: dict[str, list[str]] = {}
    for revision in reversed(known_revisions()):
        statements = ran.setdefault(revision, [])

        def record(
            _c: object, _cursor: object, statement: str, *_rest: object, statements: list[str] = statements
        ) -> None:
            statements.append(" ".join(statement.split()))

        event.listen(engine, "before_cursor_execute", record)
        with engine.connect() as connection:
            upgrade_to(connection, revision)
            connection.commit()
        event.remove(engine, "before_cursor_execute", record)
    return ran


def breaches(revision: str, statements: list[str]) -> list[Breach]:
    """Return the statements in a revision that change older tables in a way that affects the previous release."""
    new = {found[1] for statement in statements if (found := _CREATED.match(statement))}
    return [
        Breach(revision, statement, why)
        for statement in statements
        if not ((target := _TARGET.search(statement)) and target[1] in new)
        for rule, why in _RULES.items()
        if re.search(rule, statement, re.IGNORECASE) and (revision, statement) not in ALLOWED
    ]
