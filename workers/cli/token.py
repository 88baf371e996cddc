"""`tocsin token`: create, list and revoke tokens."""

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
    """Create, list and revoke tokens for people, organizations and operators."""


@token.command("create")
def create(
    *,
    user: Annotated[str | None, typer.Option(metavar="U", help="A person's token: their username.")] = None,
    organization: Annotated[
        str | None,
        typer.Option(metavar="O", help="A token of this organization: an API key, unless --service."),
    ] = None,
    name: Annotated[str, typer.Option(metavar="N", help="Its purpose; required except with --user.")] = "",
    scopes: Annotated[
        str | None,
        typer.Option(
            help="Scopes, separated by commas. By default a person's token has all scopes of their role, a key reads,"
            " and a service reads and writes projects and alerts."
        ),
    ] = None,
    service: Annotated[
        bool, typer.Option("--service", help="A service of the organization, which may write as itself.")
    ] = False,
    act_as: Annotated[bool, typer.Option("--act-as", help="A service that may also act for members.")] = False,
    ops: Annotated[OpsRole | None, typer.Option(help="An operator's token with this role.")] = None,
    expires: Annotated[int | None, typer.Option(metavar="DAYS", min=1, help="Days until it expires.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a token and print its secret, which is never shown again."""
    given = [
        option for option, value in {"--user": user, "--organization": organization, "--ops": ops}.items() if value
    ]
    if len(given) != 1:
        raise typer.BadParameter("give one of --user, --organization with --name, and --ops with --name")
    if user is None and not name.strip():
        raise typer.BadParameter(f"{given[0]} needs --name, the purpose of the token")
    if organization is None and (service or act_as):
        raise typer.BadParameter(
            f"{'--act-as' if act_as else '--service'} needs the service's organization: add --organization"
        )
    if ops is not None and scopes is not None:
        raise typer.BadParameter("--ops takes no --scopes: the role decides what an operator may do")
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
            issued = create_token(
                connection, facts, expires_in=None if expires is None else timedelta(days=min(expires, 999_999))
            )
    except TokenError as error:
        raise CliError(str(error)) from None
    _print_token(issued, facts, as_json=as_json)


@token.command("list")
def list_(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List all tokens, without their secrets."""
    with transaction(data) as connection:
        stored = list_tokens(connection)
    if as_json:
        print_json([row._asdict() for row in stored])
        return
    for row in stored:
        print_line(_line(row))


@token.command("revoke")
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="The token's number in `tocsin token list`.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a token with immediate effect."""
    try:
        with transaction(data) as connection:
            revoked_at = revoke_token(connection, token_id)
    except TokenError as error:
        raise CliError(str(error)) from None
    if as_json:
        print_json({"id": token_id, "revoked_at": revoked_at})
    else:
        print_line(f"token {token_id} is revoked since {revoked_at:%Y-%m-%d %H:%M:%S} UTC")


def _kind(*, user: str | None, ops: OpsRole | None, service: bool) -> CallerKind:
    if user is not None:
        return CallerKind.USER
    if ops is not None:
        return CallerKind.OPS
    return CallerKind.SERVICE if service else CallerKind.KEY


def _print_token(issued: IssuedToken, facts: TokenSpec, *, as_json: bool) -> None:
    """Print the secret to stdout, where a script can read it, and the rest to stderr; or print everything as JSON."""
    if as_json:
        print_json({"id": issued.id, "kind": facts.kind, "token": issued.secret})
        return
    print_line(issued.secret)
    typer.echo(f"token {issued.id}, {facts.kind}: store it now, it is not shown again", err=True)


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
