"""Read and write the directory's rows, one section at a time, in the form of the directory document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.engine import Connection

from models.directory import tables
from models.directory.document import DirectoryError
from models.types import MAX_ID

Row = dict[str, Any]
"""A row in the form of a complete object in the document, including the id.

It refers to other rows by slug or username.
"""

Ids = Mapping[str, Mapping[tuple[str, ...], int]]
"""The ids of the rows, by section and natural key."""

TABLES: Final[Mapping[str, Table]] = {
    "organizations": tables.organizations,
    "users": tables.users,
    "projects": tables.projects,
    "teams": tables.teams,
    "members": tables.members,
    "tokens": tables.tokens,
}

OPTIONS: Final = ("open_membership", "alerts_member_write", "events_member_admin")

# Each parameter is an array of values for one part of the natural key. NULL selects every row.
_STORED: Final = {
    "organizations": """
        SELECT o.id, o.slug, o.name, o.features,
               jsonb_build_object('open_membership', open_membership, 'alerts_member_write', alerts_member_write,
                                  'events_member_admin', events_member_admin) AS options
        FROM organizations o
        WHERE %(slug)s::text[] IS NULL OR o.slug = ANY(%(slug)s::text[])
        ORDER BY o.slug
        """,
    "users": """
        SELECT id, username, name, email, is_active, is_superuser, timezone
        FROM users
        WHERE %(username)s::text[] IS NULL OR lower(username) = ANY(%(username)s::text[])
        ORDER BY username
        """,
    "projects": """
        SELECT p.id, o.slug AS organization, p.slug, p.name, p.status
        FROM projects p JOIN organizations o ON o.id = p.organization_id
        WHERE %(slug)s::text[] IS NULL OR o.slug = ANY(%(organization)s::text[]) AND p.slug = ANY(%(slug)s::text[])
        ORDER BY o.slug, p.slug
        """,
    "teams": """
        SELECT t.id, o.slug AS organization, t.slug, t.name, t.status,
               ARRAY(SELECT p.slug FROM project_teams pt JOIN projects p ON p.id = pt.project_id
                     WHERE pt.team_id = t.id ORDER BY p.slug COLLATE "C") AS projects
        FROM teams t JOIN organizations o ON o.id = t.organization_id
        WHERE %(slug)s::text[] IS NULL OR o.slug = ANY(%(organization)s::text[]) AND t.slug = ANY(%(slug)s::text[])
        ORDER BY o.slug, t.slug
        """,
    "members": """
        SELECT m.id, o.slug AS organization, u.username AS user, m.role,
               ARRAY(SELECT t.slug FROM team_members tm JOIN teams t ON t.id = tm.team_id
                     WHERE tm.member_id = m.id AND tm.is_active ORDER BY t.slug COLLATE "C") AS teams
        FROM members m JOIN organizations o ON o.id = m.organization_id JOIN users u ON u.id = m.user_id
        WHERE %(user)s::text[] IS NULL
           OR o.slug = ANY(%(organization)s::text[]) AND lower(u.username) = ANY(%(user)s::text[])
        ORDER BY o.slug, u.username
        """,
    "tokens": """
        SELECT k.id, encode(k.hash, 'hex') AS token, k.kind, u.username AS user, o.slug AS organization, k.name,
               k.scopes, k.act_as, k.ops_role AS role
        FROM tokens k LEFT JOIN users u ON u.id = k.user_id LEFT JOIN organizations o ON o.id = k.organization_id
        WHERE encode(k.hash, 'hex') = ANY(%(token)s::text[])
        """,
}


def stored_rows(connection: Connection, section: str, parts: Mapping[str, Iterable[str]] | None = None) -> list[Row]:
    """Return the section's rows in which each given part of the natural key has one of the given values.

    Return all rows if ``parts`` is omitted. Each part is matched independently, so rows with other combinations of the
    values are also returned.
    """
    names = ("organization", "slug", "username", "user", "token")
    wanted = {name: None if parts is None or name not in parts else list(parts[name]) for name in names}
    return [dict(row) for row in connection.exec_driver_sql(_STORED[section], wanted).mappings()]


def taken_ids(connection: Connection, section: str, ids: Sequence[int]) -> set[int]:
    """Return the ids that already belong to a row of the section."""
    query = f"SELECT id FROM {TABLES[section].name} WHERE id = ANY(%(ids)s::bigint[])"  # noqa: S608 - our own names
    return set(connection.exec_driver_sql(query, {"ids": list(ids)}).scalars())


def stored_keys(
    connection: Connection, section: str, ids: Iterable[int], names: Iterable[str]
) -> dict[int, tuple[str, ...]]:
    """Return the natural keys of the rows that have one of the ids, or whose key ends with one of the names, by id.

    Usernames are in lower case. The section is one of :data:`RENAMABLE`.
    """
    rows = connection.exec_driver_sql(_KEYS[section], {"ids": list(ids), "names": list(names)})
    return {id_: tuple(key) for id_, *key in rows}


def projects_excluded_by_rules(connection: Connection, projects: Iterable[int]) -> set[int]:
    """Return those of the projects that an alert rule or a trigger excludes. Rules refer to them by slug."""
    return set(connection.exec_driver_sql(_EXCLUDED, {"projects": list(projects)}).scalars())


_KEYS: Final = {
    "organizations": """
        SELECT id, slug FROM organizations
        WHERE id = ANY(%(ids)s::bigint[]) OR slug = ANY(%(names)s::text[])
        """,
    "users": """
        SELECT id, lower(username) FROM users
        WHERE id = ANY(%(ids)s::bigint[]) OR lower(username) = ANY(%(names)s::text[])
        """,
    "projects": """
        SELECT p.id, o.slug, p.slug FROM projects p JOIN organizations o ON o.id = p.organization_id
        WHERE p.id = ANY(%(ids)s::bigint[]) OR p.slug = ANY(%(names)s::text[])
        """,
    "teams": """
        SELECT t.id, o.slug, t.slug FROM teams t JOIN organizations o ON o.id = t.organization_id
        WHERE t.id = ANY(%(ids)s::bigint[]) OR t.slug = ANY(%(names)s::text[])
        """,
}
RENAMABLE: Final = tuple(_KEYS)
"""The sections whose rows can get another name: an object with the row's id and a new name renames it."""

_EXCLUDED: Final = """
    SELECT DISTINCT p.id FROM projects p JOIN alert_rules r ON r.organization_id = p.organization_id
    WHERE p.id = ANY(%(projects)s::bigint[]) AND (
        r.definition->'excluded_projects' ? p.slug
        OR EXISTS (SELECT FROM jsonb_array_elements(r.definition->'triggers') t WHERE t->'excluded_projects' ? p.slug)
    )
    """


def fold_usernames(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Map each username to its lower-case form, as computed by PostgreSQL."""
    query = "SELECT name, lower(name) AS folded FROM unnest(%(names)s::text[]) AS name"
    rows = connection.exec_driver_sql(query, {"names": list(set(names))})
    return {row.name: row.folded for row in rows}


def assign_ids(connection: Connection, section: str, rows: Sequence[Row]) -> None:
    """Assign an id to each row that does not have one, after advancing the section's sequence past the given ids.

    :raises DirectoryError: when too few ids are left after the highest given id.
    """
    sequence = f"{TABLES[section].name}_id_seq"
    given = max((row["id"] for row in rows if "id" in row), default=0)
    without = [row for row in rows if "id" not in row]
    last: int = connection.exec_driver_sql(
        "SELECT coalesce(pg_sequence_last_value(%(sequence)s::regclass), 0)", {"sequence": sequence}
    ).scalar_one()
    if max(given, last) + len(without) > MAX_ID:
        raise DirectoryError([f"{section}: no ids are left after {max(given, last)}; give every new object an id"])
    if given > last:
        connection.exec_driver_sql(
            "SELECT advance_directory_sequence(%(sequence)s, %(given)s)", {"sequence": sequence, "given": given}
        )
    generated = connection.exec_driver_sql(
        "SELECT nextval(%(sequence)s::regclass) FROM generate_series(1, %(count)s)",
        {"sequence": sequence, "count": len(without)},
    ).scalars()
    for row, number in zip(without, generated, strict=True):
        row["id"] = number


def write_rows(connection: Connection, section: str, rows: Sequence[Row], ids: Ids) -> None:
    """Insert the rows, or update those whose id already exists."""
    if not rows:
        return
    records = [_COLUMNS[section](row, ids) | {"id": row["id"]} for row in rows]
    columns, table = records[0].keys(), TABLES[section].name
    names = ", ".join(columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "id")
    connection.exec_driver_sql(
        f"INSERT INTO {table} ({names})"  # noqa: S608 - names of our own tables and columns
        f" SELECT {names} FROM jsonb_populate_recordset(NULL::{table}, %(rows)s::jsonb)"
        f" ON CONFLICT (id) DO UPDATE SET {changes}",
        {"rows": json.dumps(records)},
    )


def write_project_teams(connection: Connection, teams: Sequence[Row], ids: Ids) -> None:
    """Attach each team to exactly the projects that it lists."""
    pairs = [
        (ids["projects"][team["organization"], project], team["id"]) for team in teams for project in team["projects"]
    ]
    connection.exec_driver_sql(
        "DELETE FROM project_teams WHERE team_id = ANY(%(teams)s::bigint[])", {"teams": [team["id"] for team in teams]}
    )
    connection.exec_driver_sql(
        """
        INSERT INTO project_teams (project_id, team_id)
        SELECT * FROM unnest(%(projects)s::bigint[], %(teams)s::bigint[])
        """,
        {"projects": [project for project, _ in pairs], "teams": [team for _, team in pairs]},
    )


def write_team_members(connection: Connection, members: Sequence[Row], ids: Ids) -> None:
    """Make each member an active member of exactly the listed teams. Other memberships become inactive, not deleted."""
    pairs = [
        (ids["teams"][member["organization"], team], member["id"]) for member in members for team in member["teams"]
    ]
    connection.exec_driver_sql(
        "UPDATE team_members SET is_active = false WHERE is_active AND member_id = ANY(%(members)s::bigint[])",
        {"members": [member["id"] for member in members]},
    )
    connection.exec_driver_sql(
        """
        INSERT INTO team_members (team_id, member_id)
        SELECT * FROM unnest(%(teams)s::bigint[], %(members)s::bigint[])
        ON CONFLICT (team_id, member_id) DO UPDATE SET is_active = true
        """,
        {"teams": [team for team, _ in pairs], "members": [member for _, member in pairs]},
    )


def remove_members(connection: Connection, members: Sequence[Row]) -> None:
    """Delete these members from their organizations."""
    connection.exec_driver_sql(
        "DELETE FROM members WHERE id = ANY(%(ids)s::bigint[])", {"ids": [member["id"] for member in members]}
    )


def _organization_columns(row: Row, _: Ids) -> dict[str, Any]:
    return _named(row, "slug", "name", "features") | _named(row["options"], *OPTIONS)


def _user_columns(row: Row, _: Ids) -> dict[str, Any]:
    return _named(row, "username", "name", "email", "is_active", "is_superuser", "timezone")


def _project_columns(row: Row, ids: Ids) -> dict[str, Any]:
    return _references(row, ids, "organization") | _named(row, "slug", "name", "status")


def _member_columns(row: Row, ids: Ids) -> dict[str, Any]:
    return _references(row, ids, "organization", "user") | _named(row, "role")


def _token_columns(row: Row, ids: Ids) -> dict[str, Any]:
    return (
        {"hash": "\\x" + row["token"], "ops_role": row["role"]}
        | _references(row, ids, "organization", "user")
        | _named(row, "kind", "name", "scopes", "act_as")
    )


def _named(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _references(row: Row, ids: Ids, *names: str) -> dict[str, Any]:
    return {f"{name}_id": None if row[name] is None else ids[f"{name}s"][(row[name],)] for name in names}


_COLUMNS: Final[Mapping[str, Callable[[Row, Ids], dict[str, Any]]]] = {
    "organizations": _organization_columns,
    "users": _user_columns,
    "projects": _project_columns,
    "teams": _project_columns,
    "members": _member_columns,
    "tokens": _token_columns,
}
