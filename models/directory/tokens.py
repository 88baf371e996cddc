"""Create, list and revoke tokens. A token is shown only once, when it is created. Only its hash is stored."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Connection

from models.directory.tables import hash_token, organizations, tokens, users
from models.enums import CallerKind, OpsRole, Role
from models.role_scopes import ALL_SCOPES, ROLE_SCOPES
from models.types import MAX_ID

_READ_SCOPES: Final = frozenset(scope for scope in ROLE_SCOPES[Role.OWNER] if scope.endswith(":read"))
DEFAULT_SCOPES: Final[dict[CallerKind, frozenset[str]]] = {
    CallerKind.KEY: _READ_SCOPES,
    CallerKind.SERVICE: _READ_SCOPES | {"project:write", "alerts:write"},
}
"""The default scopes for a new API key or service token. A user token without scopes is a session."""

MAX_LIFETIME: Final = timedelta(days=36_500)


class TokenError(Exception):
    """Raised when a token cannot be created or does not exist. The message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The attributes of a token to create.

    The kind decides which of ``user`` (a username) and ``organization`` (a slug) must be set.
    """

    kind: CallerKind
    user: str | None = None
    organization: str | None = None
    name: str = ""
    scopes: frozenset[str] | None = None
    act_as: bool = False
    ops_role: OpsRole | None = None


class IssuedToken(NamedTuple):
    """A new token. ``secret`` is the text that its holder sends in requests. It is not stored."""

    id: int
    secret: str


class StoredToken(NamedTuple):
    """A stored token, without its secret. ``user`` is a username, and ``organization`` is a slug."""

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


def create_token(connection: Connection, spec: TokenSpec, *, expires_in: timedelta | None = None) -> IssuedToken:
    """Create a token of 256 random bits and store its hash.

    :raises TokenError: when the attributes are invalid or inconsistent, or the user or the organization does not exist.
    """
    for error in token_errors(spec):
        raise TokenError(error.message)
    if expires_in is not None and not timedelta() < expires_in <= MAX_LIFETIME:
        raise TokenError(f"a token expires in 1 to {MAX_LIFETIME.days} days")
    if not f"{spec.user}{spec.organization}{spec.name}".isprintable():
        raise TokenError("names may contain only printable characters")
    scopes = spec.scopes if spec.scopes is not None else DEFAULT_SCOPES.get(spec.kind)
    secret = "tcs_" + secrets.token_urlsafe(32)
    lock_directory(connection)
    token_id = connection.execute(
        insert(tokens)
        .values(
            hash=hash_token(secret),
            kind=spec.kind,
            user_id=_user_id(connection, spec.user),
            organization_id=_organization_id(connection, spec.organization),
            name=spec.name,
            scopes=None if scopes is None else sorted(scopes),
            act_as=spec.act_as,
            ops_role=spec.ops_role,
            expires_at=None if expires_in is None else text("clock_timestamp() + :life").bindparams(life=expires_in),
        )
        .returning(tokens.c.id)
    ).scalar_one()
    return IssuedToken(token_id, secret)


def list_tokens(connection: Connection) -> list[StoredToken]:
    """Return every token, oldest first."""
    rows = connection.execute(
        select(
            tokens.c.id,
            tokens.c.kind,
            users.c.username.label("user"),
            organizations.c.slug.label("organization"),
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
    return [StoredToken(**row._asdict()) for row in rows]


def revoke_token(connection: Connection, token_id: int) -> datetime:
    """Revoke a token and return when it was revoked. Revoking it again does not change the time.

    :raises TokenError: when the token does not exist.
    """
    revoked_at: datetime | None = connection.execute(
        update(tokens)
        .where(tokens.c.id == (token_id if 0 < token_id <= MAX_ID else 0))
        .values(revoked_at=text("coalesce(revoked_at, clock_timestamp())"))
        .returning(tokens.c.revoked_at)
    ).scalar_one_or_none()
    if revoked_at is None:
        raise TokenError(f"there is no token {token_id}; `tocsin token list` shows all tokens")
    return revoked_at


class TokenFieldError(NamedTuple):
    """An error in an attribute of a token: the attribute's key in the directory document, and what is wrong with it."""

    key: str
    message: str


def token_errors(spec: TokenSpec) -> Iterator[TokenFieldError]:
    """Yield an error for each attribute of a token that is invalid or inconsistent with the others."""
    kind, has_organization = spec.kind, spec.kind in {CallerKind.KEY, CallerKind.SERVICE}
    yield from _presence_error(kind, "user", "a user", is_given=bool(spec.user), is_needed=kind is CallerKind.USER)
    yield from _presence_error(
        kind, "organization", "an organization", is_given=bool(spec.organization), is_needed=has_organization
    )
    yield from _presence_error(
        kind, "role", "an ops role", is_given=spec.ops_role is not None, is_needed=kind is CallerKind.OPS
    )
    if kind is not CallerKind.USER and not spec.name.strip():
        yield TokenFieldError("name", f"{_a(kind)} token needs a name")
    if spec.act_as and kind is not CallerKind.SERVICE:
        yield TokenFieldError("act_as", f"{_a(kind)} token cannot act for users: only a service token can")
    if spec.scopes is not None and kind is CallerKind.OPS:
        yield TokenFieldError("scopes", "an ops token has a role instead of scopes")
    for scope in sorted((spec.scopes or frozenset()) - ALL_SCOPES):
        yield TokenFieldError("scopes", f'"{scope}" is not a scope; the scopes are {", ".join(sorted(ALL_SCOPES))}')


def lock_directory(connection: Connection) -> None:
    """Lock the directory until the transaction ends, so that generated ids cannot collide with imported ids."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('directory', 0))")


def _presence_error(
    kind: CallerKind, key: str, what: str, *, is_given: bool, is_needed: bool
) -> Iterator[TokenFieldError]:
    if is_given is not is_needed:
        yield TokenFieldError(key, f"{_a(kind)} token {'needs' if is_needed else 'cannot have'} {what}")


def _a(kind: CallerKind) -> str:
    return f"{'an' if kind is CallerKind.OPS else 'a'} {kind}"


def _user_id(connection: Connection, username: str | None) -> int | None:
    if username is None:
        return None
    query = text("SELECT id FROM users WHERE lower(username) = lower(:username)")
    found: int | None = connection.execute(query, {"username": username}).scalar()
    if found is None:
        raise TokenError(f'there is no user "{username}": `tocsin directory export` lists the users')
    return found


def _organization_id(connection: Connection, slug: str | None) -> int | None:
    if slug is None:
        return None
    found: int | None = connection.execute(
        select(organizations.c.id).where(organizations.c.slug == slug)
    ).scalar_one_or_none()
    if found is None:
        raise TokenError(f'there is no organization "{slug}": `tocsin directory export` lists the organizations')
    return found
