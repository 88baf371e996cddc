"""Holds stop what they name, keep the order of what waits, and end by themselves."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from models.enums import Lane
from models.messaging import backlog
from models.messaging.command_ledger import commands
from models.messaging.hold import HeldCommand, find_held, holds
from models.operations.audit import list_audit
from models.operations.command_details import read_command
from models.operations.holds import list_holds, place_hold, read_hold, release_expired_holds, release_hold
from models.refusals import Conflict, InvalidFields, NotFound
from models.serializers.operations import HoldJson, TimelineStep
from tasks.commands.catalog import CATALOG
from tasks.commands.incidents import MarkSeen
from tests.faults.ledger import a_comment_command, states
from tests.handlers.acme import Acme
from tests.harness import Harness


def hold(harness: Harness, scope: str, target: str, *, release_after: timedelta | None = None) -> HoldJson:
    with harness.engine.begin() as connection:
        now = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        return place_hold(
            connection,
            scope=scope,
            target=target,
            reason="the mail server is down",
            by="terminal:ana",
            known_types=frozenset(CATALOG),
            release_at=None if release_after is None else now + release_after,
        )


def release(harness: Harness, placed: HoldJson) -> None:
    with harness.engine.begin() as connection:
        release_hold(connection, int(placed["id"]), reason="it is back", by="terminal:bo")


def held_by(harness: Harness, id_: UUID) -> HeldCommand | None:
    with harness.engine.connect() as connection:
        return find_held(connection, [id_]).get(id_)


def mark_seen(incident: str) -> MarkSeen:
    return MarkSeen.model_validate({"incident": incident})


def expire(harness: Harness, placed: HoldJson) -> None:
    """Let the time come that was set for the hold's release."""
    with harness.engine.begin() as connection:
        connection.execute(
            update(holds).where(holds.c.id == int(placed["id"])).values(release_at=holds.c.since, since=holds.c.since)
        )


@pytest.mark.parametrize(
    ("scope", "target"), [("queue", "commands"), ("type", "comment.post"), ("organization", "acme")]
)
def test_what_is_held_waits_until_it_is_released(harness: Harness, acme: Acme, scope: str, target: str) -> None:
    placed = hold(harness, scope, target)
    first, second = (harness.accept(a_comment_command(text), **acme.by("mem")) for text in ("1", "2"))

    harness.apply()

    assert states(harness, [first, second]) == ["accepted", "accepted"]
    held = held_by(harness, first)
    assert held is not None
    assert (str(held.hold_id), held.scope, held.target) == (placed["id"], scope, target)
    release(harness, placed)
    harness.apply()
    assert states(harness, [first, second]) == ["applied", "applied"]


def test_a_held_command_holds_what_comes_after_it_on_its_subject_and_nothing_else(harness: Harness, acme: Acme) -> None:
    placed = hold(harness, "type", "comment.post")
    before = harness.accept(mark_seen("1"), **acme.by("mem"))
    comment = harness.accept(a_comment_command(), **acme.by("mem"))
    after = harness.accept(mark_seen("1"), **acme.by("mem"))
    elsewhere = harness.accept(mark_seen("2"), subject="incident:1:2", **acme.by("mem"))

    harness.apply()

    assert states(harness, [before, comment, after]) == ["applied", "accepted", "accepted"]
    assert states(harness, [elsewhere]) != ["accepted"]
    held = held_by(harness, after)
    assert held is not None
    assert str(held.hold_id) == placed["id"]
    release(harness, placed)
    harness.apply()
    seqs = [harness.ledger_row(id_)["finished_at"] for id_ in (before, comment, after)]
    assert seqs == sorted(seqs)
    assert states(harness, [comment, after]) == ["applied", "applied"]


def test_a_hold_ends_at_its_time_by_itself_and_that_is_in_the_audit_log(harness: Harness, acme: Acme) -> None:
    placed = hold(harness, "queue", "commands", release_after=timedelta(hours=1))
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    harness.apply()
    assert states(harness, [id_]) == ["accepted"]

    expire(harness, placed)
    harness.apply()

    assert states(harness, [id_]) == ["applied"]
    with harness.engine.begin() as connection:
        assert release_expired_holds(connection) == 1
        assert release_expired_holds(connection) == 0
        newest = list_audit(connection).entities[0]
    assert (newest["by"], newest["action"], newest["target"]) == ("tocsin", "hold.released", "queue commands")


def test_held_commands_are_neither_overdue_nor_a_sign_of_a_stuck_worker(harness: Harness, acme: Acme) -> None:
    hold(harness, "organization", "acme")
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(
            update(commands).where(commands.c.id == id_).values(accepted_at=commands.c.accepted_at - timedelta(hours=1))
        )

    with harness.engine.connect() as connection:
        assert backlog.find_stalled_lanes(connection, older_than=3) == set()
        assert backlog.find_overdue_subjects(connection, Lane.COMMANDS, older_than=3).subjects == []


def test_a_hold_says_what_it_holds_and_leaves_an_entry_in_the_audit_log(harness: Harness, acme: Acme) -> None:
    for _ in range(3):
        harness.accept(a_comment_command(), **acme.by("mem"))

    placed = hold(harness, "type", "comment.post")

    assert placed["waiting"] == 3
    assert (placed["reason"], placed["by"], placed["releaseAt"]) == ("the mail server is down", "terminal:ana", None)
    with harness.engine.connect() as connection:
        assert list_holds(connection) == [placed]
        assert read_hold(connection, int(placed["id"])) == placed
        entry = list_audit(connection).entities[0]
    assert (entry["by"], entry["action"], entry["target"]) == ("terminal:ana", "hold.placed", "type comment.post")
    assert entry["after"] == {"hold": placed["id"], "releaseAt": None}


@pytest.mark.parametrize(
    ("scope", "target", "field"),
    [
        ("queue", "mail", "target"),
        ("type", "comment.shout", "target"),
        ("channel", "inbox", "target"),
        ("organization", "nowhere", "target"),
        ("user", "mem", "scope"),
    ],
)
def test_an_unknown_target_cannot_be_held(harness: Harness, acme: Acme, scope: str, target: str, field: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        hold(harness, scope, target)

    assert isinstance(refused.value.body, dict)
    assert list(refused.value.body) == [field]


def test_the_same_target_is_held_once(harness: Harness, acme: Acme) -> None:
    placed = hold(harness, "queue", "bulk")

    with pytest.raises(Conflict):
        hold(harness, "queue", "bulk")

    release(harness, placed)
    with pytest.raises(NotFound):
        release(harness, placed)
    assert hold(harness, "queue", "bulk")["id"] != placed["id"]


def test_every_change_needs_a_reason(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection, pytest.raises(InvalidFields) as refused:
        place_hold(
            connection, scope="queue", target="bulk", reason=" ", by="terminal:ana", known_types=frozenset(CATALOG)
        )

    assert refused.value.body == {"reason": ["This field is required."]}


def test_the_timeline_shows_when_a_command_was_held_and_released(harness: Harness, acme: Acme) -> None:
    placed = hold(harness, "queue", "commands")
    id_ = harness.accept(a_comment_command("a secret"), **acme.by("mem"))
    release(harness, placed)
    harness.apply()

    with harness.engine.connect() as connection:
        command = read_command(connection, id_, with_texts=False)

    assert [entry["step"] for entry in command["timeline"]] == [
        TimelineStep.ACCEPTED,
        TimelineStep.HELD,
        TimelineStep.RELEASED,
        TimelineStep.CLAIMED,
        TimelineStep.EVENT,
        TimelineStep.APPLIED,
    ]
    assert "a secret" not in str(command)
