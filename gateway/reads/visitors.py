"""The people who open pages, as they are now: their account, their token, and their memberships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.reads.database import QueryRunner
from models.directory.policy_facts import (
    MEMBERSHIPS,
    ORGANIZATION_COLUMNS,
    TOKEN_COLUMNS,
    actor_from_membership,
    organization_facts,
)
from models.enums import CallerKind
from models.local_time import load_zone
from models.policy import Actor, CredentialFacts, OrganizationFacts, require_valid_credential
from models.refusals import Refusal
from tasks.commands.fields import identifier

_PERSON: Final = f"""
SELECT u.id AS user_id, u.name AS person, u.timezone, u.is_active, t.id AS token_id, {TOKEN_COLUMNS}, o.name AS title,
       {ORGANIZATION_COLUMNS}, m.role, m.teams
FROM users u
LEFT JOIN tokens t ON t.id = %(token)b::bigint AND t.user_id = u.id
"""  # noqa: S608 - our own columns

_MEMBERSHIP: Final = f"""
LEFT JOIN LATERAL ({MEMBERSHIPS} WHERE members.user_id = u.id AND members.organization_id = o.id) AS m ON true
WHERE u.id = %(user)b::bigint
"""

_IN_ONE_ORGANIZATION: Final = f"""{_PERSON}
LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, 1 AS precedence FROM organizations WHERE slug = %(slug)b::text
        UNION ALL
        SELECT *, 2 AS precedence FROM organizations WHERE id = %(number)b::bigint
    ) AS named ORDER BY precedence LIMIT 1
) AS o ON true
{_MEMBERSHIP}
"""  # noqa: S608

_IN_EVERY_ORGANIZATION: Final = f"""{_PERSON}
LEFT JOIN members own ON own.user_id = u.id
LEFT JOIN organizations o ON o.id = own.organization_id
{_MEMBERSHIP}
ORDER BY o.slug
"""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who opens a page, with their rights in one organization.

    ``zone`` is their time zone. ``token_id`` is the token with which they logged in, or ``None`` if a ticket opened the
    session. ``organization`` is ``None`` if it does not exist.
    """

    name: str
    zone: str
    actor: Actor
    token_id: int | None
    token_name: str
    organization: OrganizationFacts | None
    organization_name: str


class VisitorQueries:
    """Queries for the people who open pages. Nothing is cached."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def visitor(self, user_id: int, token_id: int | None, organization: str | int = 0) -> Visitor | None:
        """Return a person with their rights in the organization with this slug or id, as text, or with this id.

        Return ``None`` if the account or the token is no longer valid.
        """
        # PostgreSQL cannot store NUL characters, so a name that contains one belongs to no organization.
        slug = organization if isinstance(organization, str) and "\0" not in organization else None
        number = organization if isinstance(organization, int) else identifier(organization)
        parameters = {"user": user_id, "token": token_id, "slug": slug, "number": number}
        rows = await self._rows(_IN_ONE_ORGANIZATION, parameters)
        return _visitor(rows[0], token_id) if rows else None

    async def memberships(self, user_id: int, token_id: int | None) -> Sequence[Visitor]:
        """Return a person with their rights in each organization of which they are a member."""
        rows = await self._rows(_IN_EVERY_ORGANIZATION, {"user": user_id, "token": token_id})
        return [visitor for row in rows if row.slug is not None and (visitor := _visitor(row, token_id)) is not None]


def _visitor(row: Any, token_id: int | None) -> Visitor | None:
    try:
        require_valid_credential(_credential(row, token_id))
    except Refusal:
        return None
    scopes = None if token_id is None or row.scopes is None else frozenset(row.scopes)
    return Visitor(
        name=row.person,
        zone=load_zone(row.timezone).key,
        actor=actor_from_membership(row, user_id=row.user_id, scopes=scopes),
        token_id=token_id,
        token_name="" if token_id is None else row.name,
        organization=None if row.organization_id is None else organization_facts(row),
        organization_name=row.title or "",
    )


def _credential(row: Any, token_id: int | None) -> CredentialFacts | None:
    if token_id is not None and row.token_id is None:
        return None
    return CredentialFacts(
        kind=CallerKind.USER,
        revoked=token_id is not None and row.revoked,
        expired=token_id is not None and row.expired,
        user_active=row.is_active,
        acts_for_user=False,
        may_act_for_users=False,
        is_member=row.role is not None,
    )
