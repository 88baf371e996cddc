"""`tocsin secrets`: encrypt stored secrets with a new `TOCSIN_SECRET`."""

from __future__ import annotations

import typer

from models.operations.audit import record_audit
from models.operations.stored_secrets import rotate_secrets
from tasks.settings import SecretSettings
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError
from workers.cli.operations import group, operator

secrets = group("Encrypt stored secrets anew.")


@secrets.command()
def rotate(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Encrypt all stored secrets with the first secret of TOCSIN_SECRET. Everything may be running."""
    with transaction(data) as connection:
        # Within the block, in which the settings of the stack that runs in DIR are known.
        settings = SecretSettings.from_environment()
        if not settings.secrets:
            raise CliError("TOCSIN_SECRET is not set: set it to the new secret, a comma, and the old one")
        counts = rotate_secrets(connection, settings.secrets)
        record_audit(
            connection,
            by=operator(),
            action="secrets.rotated",
            target="stored secrets",
            reason="TOCSIN_SECRET was replaced",
            after={each.name: each.readable for each in counts},
        )
    if as_json:
        print_json([each._asdict() for each in counts])
    else:
        for each in counts:
            changed = f", {each.changed} changed meanwhile" if each.changed else ""
            print_line(f"{each.name}: {each.readable} encrypted anew{changed}, {len(each.unreadable)} unreadable")
    if any(each.changed or each.unreadable for each in counts):
        raise typer.Exit(1)
