"""Tokens: made, listed, revoked. A token is shown once; what is stored is its hash."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Connection

from models.directory.tables import hash_token, organizations, tokens, users
from models.enums import MAX_ID, CallerKind, OpsRole, Role
from models.scopes import ALL_SCOPES, ROLE_SCOPES

TOKEN_KINDS: Final = (CallerKind.USER, CallerKind.KEY, CallerKind.SERVICE, CallerKind.OPS)
"""The kinds that a token may be of."""

_READING: Final = frozenset(scope for scope in ROLE_SCOPES[Role.OWNER] if scope.endswith(":read"))
DEFAULT_SCOPES: Final[dict[CallerKind, frozenset[str]]] = {
    CallerKind.KEY: _READING,
    CallerKind.SERVICE: _READING | {"project:write", "alerts:write"},
}
"""What a key and a service open unless told otherwise; a user token without scopes is its person's session."""

MAX_LIFETIME: Final = timedelta(days=36_500)


class TokenError(Exception):
    """A token that cannot be made or found; the text is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What a token is for. ``user`` is a username, ``organization`` a slug; which are needed depends on the kind."""

    kind: CallerKind
    user: str | None = None
    organization: str | None = None
    name: str = ""
    scopes: frozenset[str] | None = None
    act_as: bool = False
    ops_role: OpsRole | None = None


class IssuedToken(NamedTuple):
    """A new token. ``secret`` is what its holder sends, and is stored nowhere."""

    id: int
    secret: str


class StoredToken(NamedTuple):
    """A token as it is listed."""

    id: int
    kind: str
    user: str | None
    organization: str | None
    name: str
    scopes: list[str] | None
    act_as: bool
    ops_role: str | None
    date_created: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def create_token(connection: Connection, facts: TokenSpec, *, expires_in: timedelta | None = None) -> IssuedToken:
    """Make a token of 256 random bits and store its hash.

    :raises TokenError: the facts do not fit together, or name someone unknown.
    """
    for misfit in token_errors(facts):
        raise TokenError(misfit.says)
    if expires_in is not None and not timedelta() < expires_in <= MAX_LIFETIME:
        raise TokenError(f"a token expires in 1 to {MAX_LIFETIME.days} days")
    if not f"{facts.user}{facts.organization}{facts.name}".isprintable():
        raise TokenError("names hold printable characters alone")
    scopes = facts.scopes if facts.scopes is not None else DEFAULT_SCOPES.get(facts.kind)
    secret = "tcs_" + secrets.token_urlsafe(32)
    lock_directory(connection)
    token_id = connection.execute(
        insert(tokens)
        .values(
            hash=hash_token(secret),
            kind=facts.kind,
            user_id=_user_id(connection, facts.user),
            organization_id=_organization_id(connection, facts.organization),
            name=facts.name,
            scopes=None if scopes is None else sorted(scopes),
            act_as=facts.act_as,
            ops_role=facts.ops_role,
            expires_at=None if expires_in is None else text("clock_timestamp() + :life").bindparams(life=expires_in),
        )
        .returning(tokens.c.id)
    ).scalar_one()
    return IssuedToken(token_id, secret)


def list_tokens(connection: Connection) -> list[StoredToken]:
    """Every token, oldest first; their secrets are nowhere."""
    rows = connection.execute(
        select(
            tokens.c.id,
            tokens.c.kind,
            users.c.username,
            organizations.c.slug,
            tokens.c.name,
            tokens.c.scopes,
            tokens.c.act_as,
            tokens.c.ops_role,
            tokens.c.date_created,
            tokens.c.expires_at,
            tokens.c.revoked_at,
        )
        .select_from(tokens.outerjoin(users).outerjoin(organizations))
        .order_by(tokens.c.id)
    )
    return [StoredToken(*row) for row in rows]


def revoke_token(connection: Connection, token_id: int) -> datetime:
    """End a token now and say since when it is revoked; one revoked before stays revoked since then.

    :raises TokenError: there is no such token.
    """
    revoked_at: datetime | None = connection.execute(
        update(tokens)
        .where(tokens.c.id == (token_id if 0 < token_id <= MAX_ID else 0))
        .values(revoked_at=text("coalesce(revoked_at, clock_timestamp())"))
        .returning(tokens.c.revoked_at)
    ).scalar_one_or_none()
    if revoked_at is None:
        raise TokenError(f"there is no token {token_id}; `tocsin token list` shows them")
    return revoked_at


class Misfit(NamedTuple):
    """A fact that does not fit the others: its key in the directory, and a sentence that says why."""

    key: str
    says: str


def token_errors(facts: TokenSpec) -> Iterator[Misfit]:
    """What does not fit together in a token's facts."""
    kind, of_organization = facts.kind, facts.kind in {CallerKind.KEY, CallerKind.SERVICE}
    yield from _needs(kind, "user", "a user", bool(facts.user), kind is CallerKind.USER)
    yield from _needs(kind, "organization", "an organization", bool(facts.organization), of_organization)
    yield from _needs(kind, "role", "a role of operators", facts.ops_role is not None, kind is CallerKind.OPS)
    if kind is not CallerKind.USER and not facts.name.strip():
        yield Misfit("name", f"{_a(kind)} token needs a name")
    if facts.act_as and kind is not CallerKind.SERVICE:
        yield Misfit("act_as", f"{_a(kind)} token cannot act as someone else: only a service does")
    if facts.scopes is not None and kind is CallerKind.OPS:
        yield Misfit("scopes", "an ops token has a role and no scopes")
    for scope in sorted((facts.scopes or frozenset()) - ALL_SCOPES):
        yield Misfit("scopes", f'"{scope}" is no scope; there are {", ".join(sorted(ALL_SCOPES))}')


def lock_directory(connection: Connection) -> None:
    """One writer of the directory at a time, until the transaction ends: ids are drawn past those carried over."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('directory', 0))")


def _needs(kind: CallerKind, key: str, what: str, is_there: bool, belongs: bool) -> Iterator[Misfit]:
    if is_there is not belongs:
        yield Misfit(key, f"{_a(kind)} token {'needs' if belongs else 'has no place for'} {what}")


def _a(kind: CallerKind) -> str:
    return f"{'an' if kind is CallerKind.OPS else 'a'} {kind}"


def _user_id(connection: Connection, username: str | None) -> int | None:
    if username is None:
        return None
    query = text("SELECT id FROM users WHERE lower(username) = lower(:username)")
    found: int | None = connection.execute(query, {"username": username}).scalar()
    if found is None:
        raise TokenError(f'there is no user "{username}": `tocsin directory export` shows who there is')
    return found


def _organization_id(connection: Connection, slug: str | None) -> int | None:
    if slug is None:
        return None
    found: int | None = connection.execute(
        select(organizations.c.id).where(organizations.c.slug == slug)
    ).scalar_one_or_none()
    if found is None:
        raise TokenError(f'there is no organization "{slug}": `tocsin directory export` shows those there are')
    return found
