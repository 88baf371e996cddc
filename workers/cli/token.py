"""`tocsin token`: tokens are made, listed, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from models.directory.tokens import (
    IssuedToken,
    StoredToken,
    TokenError,
    TokenSpec,
    create_token,
    list_tokens,
    revoke_token,
)
from models.enums import CallerKind, OpsRole
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError

token = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@token.callback()
def about() -> None:
    """Credentials of people, of organizations' programs, and of operators."""


@token.command("create")
def create(
    *,
    user: Annotated[str | None, typer.Option(metavar="U", help="A person's token: their username.")] = None,
    organization: Annotated[
        str | None, typer.Option(metavar="O", help="A token of this organization; without more a key, which reads.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="N", help="What it is for; needed unless it is a person's.")] = "",
    scopes: Annotated[
        str | None,
        typer.Option(
            help="Scopes, separated by commas. Without it a person's token has all scopes of their role, a key reads,"
            " and a service reads and writes projects and alerts."
        ),
    ] = None,
    service: Annotated[
        bool, typer.Option("--service", help="The organization's own program, which may write as itself.")
    ] = False,
    act_as: Annotated[bool, typer.Option("--act-as", help="A service that may also act for members.")] = False,
    ops: Annotated[OpsRole | None, typer.Option(help="An operator's token: what it may do.")] = None,
    expires: Annotated[int | None, typer.Option(metavar="DAYS", min=1, help="Days until it expires.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once."""
    given = [
        option for option, value in {"--user": user, "--organization": organization, "--ops": ops}.items() if value
    ]
    if len(given) != 1:
        raise typer.BadParameter("give one of --user, --organization with --name, and --ops with --name")
    if user is None and not name.strip():
        raise typer.BadParameter(f"{given[0]} needs --name, which says what the token is for")
    if organization is None and (service or act_as):
        raise typer.BadParameter(f"{'--act-as' if act_as else '--service'} is for a program: give --organization")
    if ops is not None and scopes is not None:
        raise typer.BadParameter("--ops takes no --scopes: the role says what an operator may do")
    facts = TokenSpec(
        kind=_kind(user=user, ops=ops, service=service or act_as),
        user=user,
        organization=organization,
        name=name,
        scopes=None if scopes is None else frozenset(filter(None, map(str.strip, scopes.split(",")))),
        act_as=act_as,
        ops_role=ops,
    )
    try:
        with transaction(data) as connection:
            made = create_token(
                connection, facts, expires_in=None if expires is None else timedelta(days=min(expires, 999_999))
            )
    except TokenError as error:
        raise CliError(str(error)) from None
    _show(made, facts, as_json=as_json)


@token.command("list")
def list_(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Every token, without its secret."""
    with transaction(data) as connection:
        stored = list_tokens(connection)
    if as_json:
        print_json([row._asdict() for row in stored])
        return
    for row in stored:
        print_line(_line(row))


@token.command("revoke")
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="The token's number in the list.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token now."""
    try:
        with transaction(data) as connection:
            since = revoke_token(connection, token_id)
    except TokenError as error:
        raise CliError(str(error)) from None
    if as_json:
        print_json({"id": token_id, "revoked_at": since})
    else:
        print_line(f"token {token_id} is revoked since {since:%Y-%m-%d %H:%M:%S} UTC")


def _kind(*, user: str | None, ops: OpsRole | None, service: bool) -> CallerKind:
    if user is not None:
        return CallerKind.USER
    if ops is not None:
        return CallerKind.OPS
    return CallerKind.SERVICE if service else CallerKind.KEY


def _show(made: IssuedToken, facts: TokenSpec, *, as_json: bool) -> None:
    """The secret alone on standard output, so that a script can take it; the rest is for the eye."""
    if as_json:
        print_json({"id": made.id, "kind": facts.kind, "token": made.secret})
        return
    print_line(made.secret)
    typer.echo(f"token {made.id}, {facts.kind}: keep it now, it is not shown again", err=True)


def _line(row: StoredToken) -> str:
    holder = row.user or " ".join(filter(None, [row.organization, row.name]))
    words = [str(row.id), row.kind, holder]
    if row.ops_role:
        words.append(row.ops_role)
    if row.scopes is not None:
        words.append(",".join(row.scopes) or "no scopes")
    if row.act_as:
        words.append("may act for members")
    if row.revoked_at:
        words.append(f"revoked {row.revoked_at:%Y-%m-%d}")
    elif row.expires_at:
        words.append(f"expires {row.expires_at:%Y-%m-%d}")
    return "  ".join(words)
