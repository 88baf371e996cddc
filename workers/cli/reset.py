"""`tocsin reset`: delete only a stack's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.common import JsonOption, print_json, print_line
from workers.cli.errors import CliError
from workers.stack.data_dir import DataDirectory


def reset(
    *,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The data directory to reset.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a stack's data in DIR, leaving any other files in place."""
    directory = DataDirectory(data)
    try:
        if not directory.is_initialized:
            raise CliError(f"{data} is not a data directory of tocsin: choose the one passed to `tocsin up --data`")
        if directory.is_locked():
            raise CliError(f"tocsin runs in {data}: stop it first")
        if not yes and not typer.confirm(f"Delete all data in {directory.path}?", err=True):
            raise CliError(f"{data} was not changed")
        with directory.locked():
            directory.remove()
    except OSError as error:
        raise CliError(f"{data} cannot be reset: {error.strerror} ({error.filename})") from None
    if as_json:
        print_json({"data": str(directory.path), "reset": True})
    else:
        print_line(f"{directory.path} has been reset")
