"""The command line for operators: the same facts and actions, as tables or JSON, safe to read on a terminal."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import update

from models.messaging.command_ledger import commands
from tests.faults.ledger import states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.ops.ledger import accept_comments, advance, bury
from workers.cli import main
from workers.cli.operations import rich_table


class CliResult(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Tocsin = Callable[..., CliResult]


@pytest.fixture
def tocsin(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tocsin:
    """A function that runs the command line on the harness's database; it returns the exit code and the output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", harness.url)
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")

    def run(*arguments: str) -> CliResult:
        # Discard what the harness has logged so far.
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return CliResult(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_queue_can_be_held_and_released(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 2, **acme.by("mem"))

    placed = tocsin("hold", "queue", "commands", "--reason", "deploying", "--for", "30m", "--json").json
    harness.apply()

    assert states(harness, ids) == ["accepted", "accepted"]
    assert (placed["waiting"], placed["by"]) == (2, f"terminal:{getpass.getuser()}")
    assert placed["releaseAt"] is not None
    assert "deploying" in tocsin("holds").out
    assert [row["heldBy"]["hold"] for row in tocsin("commands", "list", "--json").json] == [placed["id"]] * 2
    assert tocsin("release", placed["id"], "--reason", "done").out == f"hold {placed['id']} is released\n"
    harness.apply()
    assert states(harness, ids) == ["applied", "applied"]
    actions = [entry["action"] for entry in tocsin("audit", "--json").json]
    assert actions == ["hold.released", "hold.placed"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("hold", "queue", "commands"), "--reason: This field is required\n"),
        (("hold", "queue", "mail", "--reason", "x"), 'TARGET: "mail" is not one of commands, bulk, deliveries\n'),
        (("release", "7", "--reason", "x"), "no hold 7 is in force: `tocsin holds` lists them\n"),
        (("hold", "queue", "bulk", "--reason", "x", "--for", "soon"), "--for soon is not a duration such as"),
        (("deliveries", "show", "7"), "7 is not an id of a delivery\n"),
        (("dead", "operation", "9"), "there is no operation 9: `tocsin dead operation` lists them\n"),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(
    tocsin: Tocsin, acme: Acme, arguments: tuple[str, ...], error: str
) -> None:
    result = tocsin(*arguments)

    assert result.code == 1
    assert result.err.startswith(error)
    assert result.out == ""


def test_dead_letters_are_listed_requeued_and_discarded(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    first, second, third = accept_comments(harness, 3, **acme.by("mem"))
    bury(harness, [first, second, third])

    [group] = tocsin("dead", "list", "--group", "--json").json
    dry = tocsin("dead", "requeue", "--fingerprint", group["fingerprint"], "--dry-run")
    started = tocsin("dead", "requeue", str(first), "--reason", "fixed", "--json").json
    advance(harness)

    assert group["count"] == 3
    assert dry.out == "3 dead commands on 1 subjects would be requeued\n"
    assert states(harness, [first, second]) == ["accepted", "dead"]
    assert "1 of 1 requeued" in tocsin("dead", "operation", started["id"]).out
    assert tocsin("dead", "discard", "--all", "--reason", "obsolete").out == "2 dead commands discarded\n"
    assert tocsin("dead", "list").out == "no command is dead\n"
    assert tocsin("dead", "requeue", "--reason", "x").code == 2


def test_a_command_is_shown_with_its_timeline(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    harness.apply()

    shown = tocsin("commands", "show", str(id_))

    assert "accepted" in shown.out
    assert "incident.comment_posted" in shown.out
    assert tocsin("commands", "show", str(UUID(int=1))).code == 1


def test_what_users_wrote_cannot_control_the_terminal(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    bury(harness, [id_], "\x1b]0;owned\x07\x1b[31m\u202e\n[ERROR] [/x] rate(x[5m])")
    tocsin("hold", "queue", "bulk", "--reason", "\x1b[2J [bold]")

    for arguments in (
        ("dead", "list"), ("dead", "list", "--group"), ("commands", "show", str(id_)), ("dead", "show", str(id_)),
        ("holds",), ("audit",), ("queues",), ("status",),
    ):  # fmt: skip
        out = tocsin(*arguments).out
        assert "\x1b" not in out, arguments
        assert "\x07" not in out, arguments
        assert "\u202e" not in out, arguments
    assert "[ERROR] [/x] rate(x[5m])" in tocsin("dead", "list").out


def test_markup_in_a_table_is_text() -> None:
    from rich.console import Console

    console = Console(width=80, file=None, record=True)
    with console.capture() as captured:
        console.print(rich_table(["TITLE"], [["[ERROR] [/x] rate(x[5m])"]]))

    assert "[ERROR] [/x] rate(x[5m])" in captured.get()


def test_status_answers_without_the_broker_and_says_so(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 1, **acme.by("mem"))

    result = tocsin("status")

    assert result.code == 0
    assert "NEEDS ATTENTION" in result.out
    assert "The broker cannot be reached" in result.out
    assert "waiting   1 commands" in result.out
    assert len(result.out.splitlines()) <= 20


def test_queues_and_workers_are_tables(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    lines = tocsin("queues").out.splitlines()

    assert [line.split()[0] for line in lines] == ["QUEUE", "commands", "bulk", "deliveries"]
    assert tocsin("workers").out == "no process has reported itself within the last hour\n"


def test_commands_are_searched_with_the_filters_of_the_interface(tocsin: Tocsin, harness: Harness, acme: Acme) -> None:
    [id_, other] = accept_comments(harness, 2, **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == other).values(lane="bulk"))

    found = tocsin("commands", "list", "--organization", "acme", "--queue", "commands", "--user", "mem", "--json").json

    assert [row["id"] for row in found] == [str(id_)]
