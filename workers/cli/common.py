"""Helpers for all commands: for running a command, parsing common options, printing output, and finding the stack."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Collection
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
    typer.Option("--data", metavar="DIR", help="Data directory (TOCSIN_DATA; ./.tocsin)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""The base class of the errors for invalid options and arguments. typer does not export it."""


def run(name: str, target: str, words: list[str]) -> int:
    """Import a command, run it, and return its exit code. An expected error is printed to stderr as one sentence."""
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
    """Print an error message to stderr and return the exit code."""
    sys.stderr.write(f"{sentence}\n")
    return code


def print_line(line: str = "") -> None:
    """Print one line, without buffering or wrapping it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print_line(json.dumps(value, indent=2, default=str))


def resolve_data_dir(data: Path | None) -> Path:
    """Return the data directory: the option's value, else TOCSIN_DATA, else ``.tocsin`` in the working directory."""
    from workers.stack.settings import StackSettings

    return data or StackSettings.from_environment().data


def use_stack_environment(data: Path | None, *, names: Collection[str] | None = None) -> None:
    """Set the servers' URLs in this process's environment: the configured ones, or else those of the stack in `data`.

    :param names: the settings to take from the stack, or None for all of them.
    :raises StackError: no database is configured, and no stack runs in `data`.
    """
    from workers.stack.discovery import resolve_environment

    found = resolve_environment(resolve_data_dir(data))
    os.environ.update({name: value for name, value in found.items() if names is None or name in names})


def _load(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    with importing():
        command = getattr(importlib.import_module(module), attribute)
    if isinstance(command, typer.Typer):
        return command
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(command)
    return app
