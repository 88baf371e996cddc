"""Authentication: the lookup of a request's caller by token.

Nothing is cached, so a directory import applies to every request that starts after it. Credentials that arrive
together are looked up in one query, in which each distinct credential occurs only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.batcher import Batcher
from gateway.unavailable import unavailable_if_transient
from models.database.errors import is_transient
from models.directory.policy_facts import (
    MEMBERSHIPS,
    ORGANIZATION_COLUMNS,
    TOKEN_COLUMNS,
    actor_from_membership,
    organization_facts,
)
from models.enums import CallerKind, OpsRole
from models.policy import Actor, CredentialFacts, OrganizationFacts, require_valid_credential
from models.refusals import Forbidden, ForbiddenCode, Unauthenticated
from tasks.commands.fields import identifier


class Credential(NamedTuple):
    """What a request presents: a token's digest, the organization in the path (slug or id), and the user to act for.

    ``act_as`` is a user id. It is 0 if the ``Act-As`` header has no valid id, and ``None`` if there is no such header.
    """

    token: bytes
    organization: str | None
    act_as: int | None


class MayNotActFor(Forbidden):
    """403: a caller with a valid token may not act for the user in ``Act-As``. ``spender`` is the caller's own."""

    def __init__(self, code: ForbiddenCode | None, spender: str) -> None:
        super().__init__(code=code)
        self.spender = spender


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``organization`` is the organization in the request's path, if it exists.

    ``token_id`` is ``None`` if a ticket opened the caller's session.
    """

    actor: Actor
    token_id: int | None
    token_name: str
    ops_role: OpsRole | None
    organization: OrganizationFacts | None

    @property
    def caller_key(self) -> str:
        """The caller's key in the ledger, which names a person, a program, or a program that acts for a person.

        Idempotency keys apply per caller key, and the key decides who may read a command.
        """
        actor, spender = self.actor, self.spender
        is_for_a_person = actor.kind is not CallerKind.USER and actor.user_id is not None
        return f"{spender} as user:{actor.user_id}" if is_for_a_person else spender

    @property
    def spender(self) -> str:
        """The key by which limits on rates, open requests and streams count: a person or a program.

        A program that acts for people shares one limit with all of them. Otherwise it could have as many limits as it
        has people. No pair of a program and a person needs a limit of its own, because it could not exceed this one.
        """
        actor = self.actor
        return _spender(actor.kind, actor.user_id, actor.organization_id, self.token_name)

    @property
    def audit_name(self) -> str:
        """How the audit log names an operator who makes a change."""
        return self.token_name or f"ops token {self.token_id}"

    def may_read_command_of(self, caller_key: str) -> bool:
        """Return whether this caller may read a command that ``caller_key`` submitted.

        People and programs may read their own commands. A command that a program submitted for a person may be read by
        both. Operators may read every command.
        """
        if self.actor.kind is CallerKind.OPS:
            return True
        program, _, person = caller_key.partition(" as ")
        if self.actor.kind is CallerKind.USER:
            return f"user:{self.actor.user_id}" in (caller_key, person)
        return program == self.spender


_LOOK_UP: Final = f"""
SELECT t.id AS token_id, t.ops_role, t.organization_id AS home, {TOKEN_COLUMNS},
       u.id AS user_id, u.is_active,
       {ORGANIZATION_COLUMNS},
       m.organization_id AS member_of, m.role, m.teams
FROM unnest(%(tokens)b::bytea[], %(slugs)b::text[], %(numbers)b::bigint[], %(people)b::bigint[])
     WITH ORDINALITY AS a(token, slug, number, person, position)
LEFT JOIN tokens t ON t.hash = a.token
LEFT JOIN users u
  ON u.id = CASE t.kind WHEN '{CallerKind.USER}' THEN t.user_id WHEN '{CallerKind.SERVICE}' THEN a.person END
LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, 1 AS precedence FROM organizations WHERE slug = a.slug
        UNION ALL
        SELECT *, 2 AS precedence FROM organizations WHERE id = a.number
    ) AS named ORDER BY precedence LIMIT 1
) AS o ON true
LEFT JOIN LATERAL (
    {MEMBERSHIPS}
    WHERE members.user_id = u.id
      AND members.organization_id = CASE t.kind WHEN '{CallerKind.SERVICE}' THEN t.organization_id ELSE o.id END
) AS m ON true
ORDER BY a.position
"""  # noqa: S608 - our own columns


class Authenticator:
    """Finds callers by their credentials, in batches."""

    def __init__(self, engine: AsyncEngine, *, timeout_seconds: float) -> None:
        # A single statement needs no explicit transaction.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._batcher: Batcher[Credential, Caller] = Batcher(
            self._look_up, max_size=500, timeout_seconds=timeout_seconds
        )

    async def authenticate(self, credential: Credential, *, deadline: float) -> Caller:
        """Return the caller to whom a credential belongs. ``deadline`` is in event-loop time.

        :raises Unauthenticated: if the token is unknown, expired or revoked, or its user is inactive.
        :raises MayNotActFor: if the caller may not act for the user in ``Act-As``.
        :raises Unavailable: if the database does not respond in time.
        """
        return await self._batcher.submit(credential, deadline=deadline)

    async def stop(self) -> None:
        """Wait until the lookups in flight have finished."""
        await self._batcher.stop()

    async def _look_up(self, credentials: list[Credential]) -> Sequence[Caller | Exception]:
        unique = list(dict.fromkeys(credentials))
        try:
            rows = await self._rows(unique)
        except Exception as error:
            if not is_transient(error):
                raise
            # A pooled connection may have broken long ago. The pool has been emptied, so the retry opens a new one.
            with unavailable_if_transient():
                rows = await self._rows(unique)
        callers = {credential: _caller(credential, row) for credential, row in zip(unique, rows, strict=True)}
        return [callers[credential] for credential in credentials]

    async def _rows(self, credentials: list[Credential]) -> Sequence[Any]:
        parameters = {
            "tokens": [credential.token for credential in credentials],
            "slugs": [credential.organization for credential in credentials],
            "numbers": [identifier(credential.organization) for credential in credentials],
            "people": [credential.act_as for credential in credentials],
        }
        async with self._engine.connect() as connection:
            return (await connection.exec_driver_sql(_LOOK_UP, parameters)).all()


def _caller(credential: Credential, row: Any) -> Caller | Exception:
    try:
        require_valid_credential(_credential_facts(credential, row))
    except Unauthenticated as refusal:
        return refusal
    except Forbidden as refusal:
        code = ForbiddenCode.ACT_AS_MALFORMED if credential.act_as == 0 else refusal.code
        return MayNotActFor(code, _spender(CallerKind(row.kind), row.user_id, row.home, row.name))
    # A service acts for members of its own organization. Their roles there do not count in another organization.
    actor = actor_from_membership(
        row if row.member_of == row.organization_id else None,
        kind=CallerKind(row.kind),
        user_id=row.user_id,
        organization_id=row.home,
        scopes=None if row.scopes is None else frozenset(row.scopes),
    )
    return Caller(
        actor=actor,
        token_id=row.token_id,
        token_name=row.name,
        ops_role=None if row.ops_role is None else OpsRole(row.ops_role),
        organization=None if row.organization_id is None else organization_facts(row),
    )


def _credential_facts(credential: Credential, row: Any) -> CredentialFacts | None:
    if row.token_id is None:
        return None
    return CredentialFacts(
        kind=CallerKind(row.kind),
        revoked=row.revoked,
        expired=row.expired,
        user_active=bool(row.is_active),
        acts_for_user=credential.act_as is not None,
        may_act_for_users=row.act_as,
        is_member=row.role is not None,
    )


def _spender(kind: CallerKind, user_id: int | None, organization_id: int | None, token_name: str) -> str:
    if kind is CallerKind.USER:
        return f"user:{user_id}"
    # A token's name must not contain the separators that a caller key uses.
    return f"{kind}:{organization_id}:{quote(token_name, safe='')}"
