"""The command line's help and version, and the error for an unknown command."""

from __future__ import annotations

from importlib.metadata import version

from tests.journeys.subprocesses import run_tocsin
from workers.cli import CLI_COMMANDS


def test_the_version_is_printed() -> None:
    done = run_tocsin("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"tocsin {version('tocsin')}\n", "")


def test_help_lists_every_command_and_the_version_option() -> None:
    done = run_tocsin("--help")

    assert done.returncode == 0
    assert [line for line in CLI_COMMANDS if f"\n  {line} " not in done.stdout] == []
    assert "--version" in done.stdout


def test_an_unknown_command_is_a_usage_error_that_mentions_the_help_option() -> None:
    done = run_tocsin("start")

    assert (done.returncode, done.stderr) == (2, "tocsin has no command start; `tocsin --help` lists the commands\n")
