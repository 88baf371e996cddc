"""The `tocsin` command line: a table of commands. A command's module is imported only when the command is called.

To add a command, write a module in this package that contains a function with typer parameters, or a `typer.Typer` for
a group of subcommands. Then add the function or group to :data:`CLI_COMMANDS`. A command reports an expected failure
by raising :class:`~workers.cli.errors.CliError`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from workers.runtime.imports import import_structlog, importing


class CliCommand(NamedTuple):
    """An entry in the command table: a function, as ``module:name``, and the command's line in the overview."""

    target: str
    summary: str


CLI_COMMANDS: Final[dict[str, CliCommand]] = {
    "up": CliCommand("workers.cli.up:up", "start every server that is not configured and all processes"),
    "reset": CliCommand("workers.cli.reset:reset", "delete the embedded servers' data"),
    "doctor": CliCommand("workers.cli.doctor:doctor", "check configuration, database, broker, clocks and disk"),
    "migrate": CliCommand("workers.cli.migrate:migrate", "upgrade the database schema"),
    "backup": CliCommand("workers.cli.backup:backup", "write the whole database to one file"),
    "restore": CliCommand("workers.cli.backup:restore", "replace the content of the database with a backup"),
    "maintain": CliCommand("workers.cli.maintain:maintain", "delete what is older than it has to be kept"),
    "directory": CliCommand("workers.cli.directory:directory", "import and export organizations, people and teams"),
    "token": CliCommand("workers.cli.token:token", "create, list and revoke tokens"),
    "status": CliCommand("workers.cli.status:status", "show whether anything is wrong, and what to look at"),
    "queues": CliCommand("workers.cli.status:queues", "show what waits on each queue"),
    "workers": CliCommand("workers.cli.status:workers", "show every process on every host"),
    "commands": CliCommand("workers.cli.commands:commands", "search accepted commands, and show one with its timeline"),
    "dead": CliCommand("workers.cli.dead:dead", "list, requeue and discard dead letters"),
    "hold": CliCommand("workers.cli.holds:hold", "hold a queue, a type, a channel or an organization"),
    "holds": CliCommand("workers.cli.holds:holds", "list what is held"),
    "release": CliCommand("workers.cli.holds:release", "release a hold"),
    "deliveries": CliCommand("workers.cli.deliveries:deliveries", "list and retry messages"),
    "secrets": CliCommand("workers.cli.secrets:secrets", "encrypt stored secrets with a new TOCSIN_SECRET"),
    "audit": CliCommand("workers.cli.status:audit", "show who changed what, and why"),
    "explain": CliCommand("workers.cli.explain:explain", "explain why a person was, or was not, notified"),
    "tap": CliCommand("workers.cli.tap:tap", "print events as they are published"),
    "gateway": CliCommand("workers.cli.processes:gateway", "run one gateway process"),
    "worker": CliCommand("workers.cli.processes:worker", "run one worker process"),
    "relay": CliCommand("workers.cli.processes:relay", "run one relay process"),
    "notifier": CliCommand("workers.cli.processes:notifier", "run one notifier process"),
    "catcher": CliCommand("workers.cli.catcher:catcher", "run the demo's mail catcher and webhook echo"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and exit with code 0 (success), 1 (failure) or 2 (wrong usage).

    An expected error is printed to stderr as one sentence.
    """
    sys.exit(_run(list(sys.argv[1:] if words is None else words)))


def _run(words: list[str]) -> int:
    with importing():
        import_structlog()
        from models.settings import SettingsError, check_setting_names
    try:
        check_setting_names(os.environ)
    except SettingsError as error:
        return _fail(str(error))
    name, *arguments = words or ["--help"]
    if name in _OPTIONS:
        _OPTIONS[name]()
        return 0
    if name not in CLI_COMMANDS:
        return _fail(f"tocsin has no command {name}; `tocsin --help` lists the commands", code=2)
    with importing():
        from workers.cli.common import run
    return run(name, CLI_COMMANDS[name].target, arguments)


def _print_overview() -> None:
    width = max(map(len, CLI_COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in CLI_COMMANDS.items()]
    sys.stdout.write("Usage: tocsin COMMAND [OPTIONS]\n\n" + "\n".join(lines))
    sys.stdout.write("\n\n`tocsin COMMAND --help` describes a command. Every command takes --data DIR and --json.\n")
    sys.stdout.write("`tocsin --version` prints the version.\n")


def _print_version() -> None:
    from importlib.metadata import version

    sys.stdout.write(f"tocsin {version('tocsin')}\n")


_OPTIONS: Final[dict[str, Callable[[], None]]] = {
    "--help": _print_overview,
    "-h": _print_overview,
    "help": _print_overview,
    "--version": _print_version,
}


def _fail(sentence: str, code: int = 1) -> int:
    sys.stderr.write(f"{sentence}\n")
    return code
