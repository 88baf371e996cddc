"""What all commands share: how they are run, their common options, how they answer, how they find the stack."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from models.settings import SettingsError
from tasks.startup import StartupError
from workers.cli.errors import CliError
from workers.runtime.imports import importing
from workers.stack.managed_process import StackError

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the embedded servers' files (TOCSIN_DATA; ./.tocsin)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]

_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""typer does not export it; it is what a wrong option or argument raises."""


def run(name: str, target: str, words: list[str]) -> int:
    """Load a command, run it and return its exit code; a foreseeable error is a sentence on stderr."""
    try:
        result = _load(name, target)(words, prog_name=f"tocsin {name}", standalone_mode=False)
    except _UsageError as error:
        return fail(f"{error.format_message().rstrip('.')}; `tocsin {name} --help` shows how it is used", code=2)
    except (CliError, StackError, SettingsError, StartupError) as error:
        return fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return fail("stopped")
    return result if isinstance(result, int) else 0


def fail(sentence: str, code: int = 1) -> int:
    """Say a sentence on stderr and return the exit code."""
    sys.stderr.write(f"{sentence}\n")
    return code


def print_line(line: str = "") -> None:
    """Say one line, at once and unwrapped."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def print_json(answer: object) -> None:
    """Answer in JSON."""
    print_line(json.dumps(answer, indent=2, default=str))


def resolve_data_dir(data: Path | None) -> Path:
    """The data folder: as asked for, as configured, or ``.tocsin`` here."""
    from workers.stack.settings import StackSettings

    return data or StackSettings.from_environment().data


def use_stack_environment(data: Path | None) -> None:
    """Point this process's settings to the configured servers, or to those of the stack that runs on `data`.

    :raises StackError: there are neither.
    """
    from workers.stack.discovery import resolve_environment

    os.environ.update(resolve_environment(resolve_data_dir(data)))


def _load(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    with importing():
        command = getattr(importlib.import_module(module), attribute)
    if isinstance(command, typer.Typer):
        return command
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(command)
    return app
