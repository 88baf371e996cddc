"""`tocsin reset`: the embedded servers' data goes, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.common import JsonOption, print_json, print_line
from workers.cli.errors import CliError
from workers.stack.data_dir import DataDirectory


def reset(
    *,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The folder to reset.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete what a stack keeps in DIR; other files there stay."""
    folder = DataDirectory(data)
    try:
        if not folder.is_initialized:
            raise CliError(f"{data} is no data folder of tocsin: name the one that `tocsin up --data` was given")
        if folder.is_locked():
            raise CliError(f"tocsin runs on {data}: stop it first")
        if not yes and not typer.confirm(f"Delete all data in {folder.path}?", err=True):
            raise CliError(f"{data} stays as it was")
        with folder.locked():
            folder.remove()
    except OSError as error:
        raise CliError(f"{data} cannot be reset: {error.strerror} ({error.filename})") from None
    if as_json:
        print_json({"data": str(folder.path), "reset": True})
    else:
        print_line(f"{folder.path} is reset")
