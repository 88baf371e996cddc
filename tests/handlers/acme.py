"""The organization that most tests use: people, teams, projects, tokens, and one incident."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine

from models.directory.importer import import_directory
from models.directory.tables import hash_token, organizations, tokens, users
from models.incidents.incident import incidents
from tests.builders import an_incident

DIRECTORY: dict[str, Any] = {
    "organizations": [
        {"slug": "acme", "name": "Acme", "features": ["organizations:incidents"]},
        {"slug": "closed", "features": ["organizations:incidents"], "options": {"open_membership": False}},
        {"slug": "plain", "features": []},
    ],
    "users": [
        {"id": 11, "username": "mem", "name": "Mem", "email": "mem@x.test"},
        {"id": 12, "username": "ana", "name": "Ana", "email": "ana@x.test"},
        {"id": 13, "username": "ben", "name": "Ben", "email": "ben@x.test"},
        {"id": 14, "username": "out", "name": "Out", "email": "out@x.test"},
        {"id": 15, "username": "own", "name": "Own", "email": "own@x.test"},
    ],
    "projects": [
        {"organization": "acme", "slug": "p1"},
        {"organization": "acme", "slug": "p2"},
        {"organization": "acme", "slug": "old", "status": "inactive"},
        {"organization": "closed", "slug": "c1"},
        {"organization": "plain", "slug": "n1"},
    ],
    "teams": [
        {"id": 21, "organization": "acme", "slug": "t1", "projects": ["p1"]},
        {"id": 22, "organization": "acme", "slug": "t2", "projects": ["p2"]},
        {"id": 23, "organization": "closed", "slug": "tc", "projects": ["c1"]},
    ],
    "members": [
        {"organization": "acme", "user": "mem", "role": "member", "teams": ["t1"]},
        {"organization": "acme", "user": "ana", "role": "member", "teams": ["t1"]},
        {"organization": "acme", "user": "ben", "role": "admin", "teams": ["t1", "t2"]},
        {"organization": "acme", "user": "own", "role": "owner", "teams": []},
        {"organization": "closed", "user": "mem", "role": "member", "teams": []},
        {"organization": "plain", "user": "mem", "role": "member", "teams": []},
    ],
    "tokens": [
        {"token": "dev-mem", "user": "mem"},
        {"token": "dev-ana", "user": "ana"},
        {"token": "dev-ben", "user": "ben"},
        {"token": "dev-out", "user": "out"},
        {"token": "dev-own", "user": "own"},
        {"token": "dev-key", "organization": "acme", "name": "key", "kind": "key", "scopes": ["project:read"]},
        {
            "token": "dev-bot",
            "organization": "acme",
            "name": "bot",
            "kind": "service",
            "act_as": True,
            "scopes": ["org:read", "project:read", "project:write", "alerts:read", "alerts:write"],
        },
    ],
}


class Acme:
    """The ids of the directory's rows, by slug and username. An empty database first gets the directory imported."""

    def __init__(self, engine: Engine) -> None:
        with engine.begin() as connection:
            if connection.execute(select(organizations.c.id)).first() is None:
                _import(connection)
            self.organizations = {
                row.slug: row.id for row in connection.execute(select(organizations.c.slug, organizations.c.id))
            }
            self.users = {row.username: row.id for row in connection.execute(select(users.c.username, users.c.id))}
            by_hash = {row.hash: row.id for row in connection.execute(select(tokens.c.hash, tokens.c.id))}
            self.tokens = {each["token"]: by_hash[hash_token(each["token"])] for each in DIRECTORY["tokens"]}
            self.projects = _projects(connection)

    def by(self, username: str, *, organization: str = "acme") -> dict[str, Any]:
        """Return a person's identity with their own token, as keyword arguments for :class:`tests.harness.Harness`."""
        return {
            "organization": self.organizations[organization],
            "token": self.tokens[f"dev-{username}"],
            "user": self.users[username],
        }

    def by_service(self, *, acting_for: str | None = None) -> dict[str, Any]:
        """Return the identity of the organization's service, acting as itself or for a member."""
        return {
            "organization": self.organizations["acme"],
            "token": self.tokens["dev-bot"],
            "user": self.users[acting_for] if acting_for else None,
        }


def _import(connection: Connection) -> None:
    import_directory(connection, DIRECTORY)
    ids = {row.slug: row.id for row in connection.execute(select(organizations.c.slug, organizations.c.id))}
    projects = _projects(connection)
    for organization, project in (("acme", "p1"), ("closed", "c1"), ("plain", "n1")):
        an_incident(connection, ids[organization], projects=[projects[organization, project]], identifier=1)


def _projects(connection: Any) -> dict[tuple[str, str], int]:
    rows = connection.exec_driver_sql(
        "SELECT o.slug AS organization, p.slug, p.id FROM projects p JOIN organizations o ON o.id = p.organization_id"
    )
    return {(row.organization, row.slug): row.id for row in rows}


def versions(engine: Engine, organization: int) -> dict[int, int]:
    """Return the version of each of the organization's incidents, by identifier."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(incidents.c.identifier, incidents.c.version).where(incidents.c.organization_id == organization)
        )
        return {row.identifier: row.version for row in rows}
