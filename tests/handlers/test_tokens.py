"""Creation, listing and revocation of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Connection

from models.directory.importer import import_directory
from models.directory.tables import hash_token, tokens
from models.directory.tokens import (
    DEFAULT_SCOPES,
    MAX_LIFETIME,
    StoredToken,
    TokenError,
    TokenSpec,
    create_token,
    list_tokens,
    revoke_token,
)
from models.enums import CallerKind, OpsRole
from models.types import MAX_ID
from tests.conftest import Database

PERSONAL = TokenSpec(kind=CallerKind.USER, user="mem")


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection to a database with one organization and one person."""
    with database.engine.begin() as connection:
        import_directory(connection, {"organizations": [{"slug": "acme"}], "users": [{"username": "mem"}]})
        yield connection


def the_only_token(connection: Connection) -> StoredToken:
    (stored,) = list_tokens(connection)
    return stored


def test_a_token_is_shown_once_and_stored_as_its_hash(connection: Connection) -> None:
    made = create_token(connection, PERSONAL)

    stored = connection.execute(select(tokens)).one()
    assert made.secret.startswith("tcs_")
    assert stored.hash == hash_token(made.secret)
    assert made.secret not in str(stored)


def test_every_token_is_unique(connection: Connection) -> None:
    secrets = {create_token(connection, PERSONAL).secret for _ in range(20)}

    assert len(secrets) == 20


def test_a_user_token_is_a_session_unless_scopes_are_given(connection: Connection) -> None:
    create_token(connection, PERSONAL)
    create_token(connection, TokenSpec(kind=CallerKind.USER, user="MEM", scopes=frozenset({"org:read"})))

    session, limited = list_tokens(connection)
    assert (session.user, session.scopes) == ("mem", None)
    assert (limited.user, limited.scopes) == ("mem", ["org:read"])


@pytest.mark.parametrize("kind", [CallerKind.KEY, CallerKind.SERVICE])
def test_a_key_or_service_gets_default_scopes_unless_others_are_given(connection: Connection, kind: CallerKind) -> None:
    create_token(connection, TokenSpec(kind=kind, organization="acme", name="bot"))

    stored = the_only_token(connection)
    assert (stored.kind, stored.organization, stored.name) == (kind, "acme", "bot")
    assert stored.scopes == sorted(DEFAULT_SCOPES[kind])


def test_an_ops_token_has_a_role_but_no_scopes_user_or_organization(connection: Connection) -> None:
    create_token(connection, TokenSpec(kind=CallerKind.OPS, name="me", ops_role=OpsRole.VIEWER))

    stored = the_only_token(connection)
    assert (stored.ops_role, stored.scopes, stored.user, stored.organization) == ("viewer", None, None, None)


def test_a_token_expires_after_its_lifetime(connection: Connection) -> None:
    before = datetime.now(UTC)

    create_token(connection, PERSONAL, expires_in=timedelta(days=3))

    expires_at = the_only_token(connection).expires_at
    assert expires_at is not None
    assert timedelta(0) <= expires_at - before - timedelta(days=3) < timedelta(minutes=1)


def test_revoking_a_token_again_keeps_the_first_revocation_time(connection: Connection) -> None:
    made = create_token(connection, PERSONAL)

    first, again = revoke_token(connection, made.id), revoke_token(connection, made.id)

    assert first == again == the_only_token(connection).revoked_at


@pytest.mark.parametrize("token_id", [0, -1, 999, MAX_ID + 1])
def test_revoking_an_unknown_token_is_an_error(connection: Connection, token_id: int) -> None:
    with pytest.raises(TokenError, match=f"there is no token {token_id};"):
        revoke_token(connection, token_id)


INCONSISTENT = {
    'there is no user "ghost"': TokenSpec(kind=CallerKind.USER, user="ghost"),
    'there is no organization "nix"': TokenSpec(kind=CallerKind.KEY, organization="nix", name="k"),
    '"org:rule" is not a scope': TokenSpec(kind=CallerKind.USER, user="mem", scopes=frozenset({"org:rule"})),
    "a user token needs a user": TokenSpec(kind=CallerKind.USER),
    "a key token needs an organization": TokenSpec(kind=CallerKind.KEY, name="k"),
    "a key token needs a name": TokenSpec(kind=CallerKind.KEY, organization="acme"),
    "an ops token needs an ops role": TokenSpec(kind=CallerKind.OPS, name="me"),
    "a user token cannot have an organization": TokenSpec(kind=CallerKind.USER, user="mem", organization="acme"),
    "a key token cannot act for users": TokenSpec(kind=CallerKind.KEY, organization="acme", name="k", act_as=True),
    "an ops token has a role instead of scopes": TokenSpec(
        kind=CallerKind.OPS, name="me", ops_role=OpsRole.ADMIN, scopes=frozenset({"org:read"})
    ),
    "names may contain only printable characters": TokenSpec(kind=CallerKind.KEY, organization="acme", name="\udcff"),
}


@pytest.mark.parametrize("sentence", INCONSISTENT)
def test_inconsistent_token_attributes_are_rejected_with_a_specific_message(
    connection: Connection, sentence: str
) -> None:
    with pytest.raises(TokenError, match=sentence):
        create_token(connection, INCONSISTENT[sentence])

    assert list_tokens(connection) == []


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=-1), MAX_LIFETIME + timedelta(days=1)])
def test_a_lifetime_out_of_range_is_rejected(connection: Connection, lifetime: timedelta) -> None:
    with pytest.raises(TokenError, match="expires in 1 to"):
        create_token(connection, PERSONAL, expires_in=lifetime)
