"""The operator's command line: one table of commands, each loaded when it is asked for.

To add a command, write a module here with a function whose parameters typer reads (or with a `typer.Typer`, for a
command that has commands), and add its line to :data:`COMMANDS`. Say "no" by raising
:class:`~workers.cli.errors.Refused`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from workers.runtime.imports import importing


class CliCommand(NamedTuple):
    """Where a command is, as ``module:name``, and what it does."""

    target: str
    about: str


CLI_COMMANDS: dict[str, CliCommand] = {
    "up": CliCommand("workers.cli.up:up", "start everything that is not configured, and stay"),
    "reset": CliCommand("workers.cli.reset:reset", "delete the embedded servers' data"),
    "doctor": CliCommand("workers.cli.doctor:doctor", "check configuration, database, broker, clocks and disk"),
    "migrate": CliCommand("workers.cli.migrate:migrate", "bring the schema to head"),
    "backup": CliCommand("workers.cli.backup:backup", "write the whole database to one file"),
    "restore": CliCommand("workers.cli.backup:restore", "put such a file in the place of what the database holds"),
    "directory": CliCommand("workers.cli.directory:directory", "import and export who exists"),
    "token": CliCommand("workers.cli.token:token", "create, list and revoke tokens"),
    "commands": CliCommand("workers.cli.commands:commands", "what was asked, and what became of it"),
    "tap": CliCommand("workers.cli.tap:tap", "print events as they pass"),
    "gateway": CliCommand("workers.cli.processes:gateway", "one gateway process"),
    "worker": CliCommand("workers.cli.processes:worker", "one worker process"),
    "relay": CliCommand("workers.cli.processes:relay", "one relay process"),
    "notifier": CliCommand("workers.cli.processes:notifier", "one notifier process"),
    "catcher": CliCommand("workers.cli.catcher:catcher", "catch mails and webhooks of the demo, and show them"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 refused or failed, 2 wrong usage; errors are a sentence on stderr."""
    sys.exit(_run(list(sys.argv[1:] if words is None else words)))


def _run(words: list[str]) -> int:
    with importing():
        from models.settings import SettingsError, check_setting_names
    try:
        check_setting_names(os.environ)
    except SettingsError as error:
        return _fail(str(error))
    if not words or words[0] in {"--help", "-h", "help"}:
        return _overview()
    if words[0] not in CLI_COMMANDS:
        return _fail(f"tocsin has no command {words[0]}; `tocsin --help` lists the commands there are", code=2)
    with importing():
        from workers.cli.common import run
    return run(words[0], CLI_COMMANDS[words[0]].target, words[1:])


def _overview() -> int:
    width = max(map(len, CLI_COMMANDS))
    lines = [f"  {name:<{width}}  {entry.about}" for name, entry in CLI_COMMANDS.items()]
    sys.stdout.write("Usage: tocsin COMMAND [OPTIONS]\n\n" + "\n".join(lines))
    sys.stdout.write("\n\n`tocsin COMMAND --help` says more. Every command takes --data DIR and --json.\n")
    return 0


def _fail(sentence: str, code: int = 1) -> int:
    sys.stderr.write(f"{sentence}\n")
    return code
