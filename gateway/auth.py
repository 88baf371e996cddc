"""Token → caller: who asks, read from the tables for this very request.

Nothing is cached, since an import of the directory is in force for every request that starts after it. Requests that
arrive together are looked up by one query, equal ones once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.batcher import Batcher
from models.database.engine import is_transient
from models.directory.policy_facts import IS_ACTIVE, ORGANIZATION_COLUMNS, organization_facts
from models.enums import CallerKind, OpsRole, Role
from models.policy import Actor, CredentialFacts, OrganizationFacts, require_valid_credential
from models.refusals import Forbidden, Unauthenticated, Unavailable
from tasks.commands.fields import identifier


class Credential(NamedTuple):
    """Whose credential, on which organization (slug or number), in whose name (a user id; 0 names nobody)."""

    token: bytes
    organization: str | None
    act_as: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``organization`` is the one of the address, if it exists; ``ledger_name`` who may read a command."""

    actor: Actor
    token_id: int
    token_name: str
    ops_role: OpsRole | None
    organization: OrganizationFacts | None

    @property
    def caller_key(self) -> str:
        """The caller as the ledger names it: the person, the program, or the program for a person."""
        actor = self.actor
        if actor.kind is CallerKind.USER:
            return f"user:{actor.user_id}"
        program = f"{actor.kind}:{actor.organization_id}:{_plain(self.token_name)}"
        return program if actor.user_id is None else f"{program} as user:{actor.user_id}"

    def may_read_command_of(self, ledger_name: str) -> bool:
        """Whether a command of that caller is this one's to read: their own, the pair's for both, and all for ops."""
        if self.actor.kind is CallerKind.OPS:
            return True
        program, _, person = ledger_name.partition(" as ")
        if self.actor.kind is CallerKind.USER:
            return f"user:{self.actor.user_id}" in (ledger_name, person)
        return program == self.caller_key.partition(" as ")[0]


_LOOK_UP: Final = f"""
SELECT t.id AS token_id, t.kind, t.name, t.scopes, t.act_as, t.ops_role, t.organization_id AS home,
       t.revoked_at IS NOT NULL AS revoked, coalesce(t.expires_at <= clock_timestamp(), false) AS expired,
       u.id AS user_id, u.is_active,
       {ORGANIZATION_COLUMNS},
       m.organization_id AS member_of, m.role, m.teams
FROM unnest(%(tokens)b::bytea[], %(slugs)b::text[], %(numbers)b::bigint[], %(people)b::bigint[])
     WITH ORDINALITY AS a(token, slug, number, person, place)
LEFT JOIN tokens t ON t.hash = a.token
LEFT JOIN users u ON u.id = CASE t.kind WHEN 'user' THEN t.user_id WHEN 'service' THEN a.person END
LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, 1 AS turn FROM organizations WHERE slug = a.slug
        UNION ALL
        SELECT *, 2 AS turn FROM organizations WHERE id = a.number
    ) AS named ORDER BY turn LIMIT 1
) AS o ON true
LEFT JOIN LATERAL (
    SELECT members.organization_id, members.role, ARRAY(
        SELECT p.team_id FROM team_members p JOIN teams ON teams.id = p.team_id
        WHERE p.member_id = members.id AND p.is_active AND teams.{IS_ACTIVE}
    ) AS teams
    FROM members
    WHERE members.user_id = u.id
      AND members.organization_id = CASE t.kind WHEN 'service' THEN t.organization_id ELSE o.id END
) AS m ON true
ORDER BY a.place
"""  # noqa: S608 - our own columns


class Authenticator:
    """Answers who a caller is. Faults of the database are answered as unavailable."""

    def __init__(self, engine: AsyncEngine, *, seconds: float) -> None:
        # One statement needs no transaction around it.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._batcher: Batcher[Credential, Caller] = Batcher(self._look_up, max_size=500, timeout_seconds=seconds)

    async def authenticate(self, question: Credential, *, deadline: float) -> Caller:
        """The caller behind a credential.

        :raises Unauthenticated: the credential is unknown, expired or revoked, or its person inactive.
        :raises Forbidden: it may not act for that person.
        :raises Unavailable: the database cannot be asked in time.
        """
        return await self._batcher.submit(question, deadline=deadline)

    async def stop(self) -> None:
        """Let what is in flight end."""
        await self._batcher.stop()

    async def _look_up(self, questions: list[Credential]) -> Sequence[Caller | Exception]:
        places = {question: place for place, question in enumerate(dict.fromkeys(questions))}
        try:
            rows = await self._rows(list(places))
        except Exception as fault:
            if not is_transient(fault):
                raise
            # A connection that broke while it lay in the pool: the pool is fresh now, so once more.
            try:
                rows = await self._rows(list(places))
            except Exception as again:
                raise (Unavailable() if is_transient(again) else again) from again
        callers = [_caller(question, row) for question, row in zip(places, rows, strict=True)]
        return [callers[places[question]] for question in questions]

    async def _rows(self, questions: list[Credential]) -> Sequence[Any]:
        parameters = {
            "tokens": [question.token for question in questions],
            "slugs": [question.organization for question in questions],
            "numbers": [identifier(question.organization) for question in questions],
            "people": [question.act_as for question in questions],
        }
        async with self._engine.connect() as connection:
            return (await connection.exec_driver_sql(_LOOK_UP, parameters)).all()


def _caller(question: Credential, row: Any) -> Caller | Exception:
    try:
        require_valid_credential(_credential(question, row))
    except (Unauthenticated, Forbidden) as refusal:
        return refusal
    # A program acts for members of its own organization, so a role counts only where it was given.
    is_member = row.role is not None and row.member_of == row.organization_id
    actor = Actor(
        kind=CallerKind(row.kind),
        user_id=row.user_id,
        organization_id=row.home,
        scopes=None if row.scopes is None else frozenset(row.scopes),
        role=Role(row.role) if is_member else None,
        teams=frozenset(row.teams) if is_member else frozenset(),
    )
    return Caller(
        actor=actor,
        token_id=row.token_id,
        token_name=row.name,
        ops_role=None if row.ops_role is None else OpsRole(row.ops_role),
        organization=None if row.organization_id is None else organization_facts(row),
    )


def _credential(question: Credential, row: Any) -> CredentialFacts | None:
    if row.token_id is None:
        return None
    return CredentialFacts(
        kind=CallerKind(row.kind),
        revoked=row.revoked,
        expired=row.expired,
        user_active=bool(row.is_active),
        acts_for_user=question.act_as is not None,
        may_act_for_users=row.act_as,
        is_member=row.role is not None,
    )


def _plain(name: str) -> str:
    # A program's name must not read as somebody it acts for.
    return quote(name, safe="")
