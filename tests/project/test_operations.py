"""The commands in docs/operations.md exist with their options, and its queries run."""

from __future__ import annotations

import re
import shlex

import pytest

from models.database.grants import GRANTS
from tests.conftest import Database
from tests.journeys.subprocesses import run_tocsin
from tests.project.tree import ROOT
from workers.cli import CLI_COMMANDS

PAGE = (ROOT / "docs" / "operations.md").read_text()

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"`(tocsin [^`]+)`")


def fenced(language: str) -> list[str]:
    return [block for kind, block in _FENCE.findall(PAGE) if kind == language]


def documented_commands() -> list[str]:
    """Return every tocsin command line on the page, in code blocks and in sentences."""
    lines = (line for block in fenced("sh") for line in block.splitlines() if "tocsin " in line)
    return sorted({*(line[line.index("tocsin ") :] for line in lines), *_TYPED.findall(PAGE)})


@pytest.mark.parametrize("line", documented_commands())
def test_every_command_on_the_operations_page_exists_with_its_options(line: str) -> None:
    command, *words = shlex.split(line)[1:]
    groups = {"commands", "directory", "dead", "deliveries"}
    subcommand = [word for word in words[:1] if re.fullmatch("[a-z]+", word) and command in groups]
    options = {word for word in words if word.startswith("--")}

    help_text = run_tocsin(command, *subcommand, "--help").stdout

    assert command in CLI_COMMANDS
    assert options <= set(re.findall(r"--[a-z][a-z-]*", help_text))


@pytest.mark.parametrize("query", [each for block in fenced("sql") for each in block.split(";") if "SELECT" in each])
def test_every_query_on_the_operations_page_runs(database: Database, query: str) -> None:
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql(query).one()[0] == 0


def test_every_role_is_documented() -> None:
    assert set(re.findall(r"^\| `(tocsin_\w+)` \|", PAGE, re.MULTILINE)) == GRANTS.keys()
