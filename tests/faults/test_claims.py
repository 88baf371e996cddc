"""Claims are fair, and their cost is bounded, whatever else waits, fails or has finished in the ledger."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql
from sqlalchemy import text, update
from sqlalchemy.engine import Connection, Engine

from models.database.engine import GENERIC_PLANS
from models.enums import Lane
from models.messaging import backlog, claims
from models.messaging.command_ledger import commands
from tasks.commands.catalog import KNOWN_TYPES
from tests.builders import an_accepted_command, an_incident
from tests.faults.ledger import a_comment_command, states
from tests.handlers.acme import Acme
from tests.harness import Harness, Remaining, lock_subjects
from tests.waiting import eventually
from workers.apply import applier as applier_module
from workers.apply import claim as claim_module
from workers.apply.applier import BatchResult
from workers.apply.claim import Claimer
from workers.apply.limits import SUBJECTS_PER_BATCH

FIRST = 100
"""The identifier of the first of the incidents that these tests insert."""


@pytest.fixture
def acme(harness: Harness) -> Acme:
    return Acme(harness.engine)


def insert_incidents(harness: Harness, acme: Acme, count: int) -> None:
    with harness.engine.begin() as connection:
        for identifier in range(FIRST, FIRST + count):
            an_incident(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", "p1"]],
                identifier=identifier,
            )


def insert_backlog(harness: Harness, acme: Acme, count: int, *, incidents: int, lane: Lane = Lane.BULK) -> None:
    """Insert ``count`` comments by Mem that wait in a lane, spread over the incidents from :data:`FIRST` on."""
    identity = acme.by("mem")
    with harness.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO commands (id, type, subject, lane, organization_id, token_id, user_id, caller, payload)"
                " SELECT gen_random_uuid(), 'comment.post', 'incident:' || :organization || ':' || at, :lane,"
                "  :organization, :token, :user, 'user:11',"
                "  jsonb_build_object('incident', at::text, 'comment', n::text)"
                " FROM generate_series(0, :count - 1) AS n CROSS JOIN LATERAL (SELECT :first + n % :incidents) AS i(at)"
            ),
            {"count": count, "incidents": incidents, "first": FIRST, "lane": lane.value, **identity},
        )


def subject(acme: Acme, identifier: int) -> str:
    return f"incident:{acme.organizations['acme']}:{identifier}"


def apply_one_batch(harness: Harness, monkeypatch: pytest.MonkeyPatch, *hinted: str) -> tuple[list[UUID], Remaining]:
    """Apply one batch; return the finished commands, and the subjects that are handed over."""
    monkeypatch.setattr(applier_module, "DRAIN_SECONDS", 0.0)
    handed_over: list[Remaining] = []
    harness.results.clear()
    worker = harness.applier(request_continuation=handed_over.append)
    worker.drain(hinted)
    worker.in_flight.close()
    return [id_ for result in harness.results for id_ in result.finished], handed_over[0] if handed_over else {}


# --- round-robin -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint_arrives", [True, False])
def test_a_single_command_is_in_the_first_batch_however_many_bulk_commands_wait(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch, *, hint_arrives: bool
) -> None:
    insert_incidents(harness, acme, 150)
    insert_backlog(harness, acme, 3000, incidents=150)
    by_hand = harness.accept(a_comment_command(), **acme.by("mem"))

    finished, _ = apply_one_batch(harness, monkeypatch, *([subject(acme, 1)] if hint_arrives else []))

    assert by_hand in finished
    assert len(finished) == 200


def test_a_batch_takes_commands_from_the_subjects_in_turn(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_incidents(harness, acme, 3)
    insert_backlog(harness, acme, 60, incidents=1)
    insert_backlog(harness, acme, 90, incidents=3)

    finished, _ = apply_one_batch(harness, monkeypatch)

    with harness.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT subject, array_agg(id ORDER BY seq) AS ids FROM commands GROUP BY subject")
        ).all()
    assert sorted(len(finished_of(row.ids, finished)) for row in rows) == [30, 30, 50]
    assert all(row.ids[: len(finished_of(row.ids, finished))] == finished_of(row.ids, finished) for row in rows)


def finished_of(ids: list[UUID], finished: list[UUID]) -> list[UUID]:
    return [id_ for id_ in ids if id_ in set(finished)]


def test_hinted_subjects_that_were_not_served_in_time_are_handed_over(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_incidents(harness, acme, 300)
    insert_backlog(harness, acme, 300, incidents=300)
    hinted = [subject(acme, identifier) for identifier in range(FIRST, FIRST + 300)]

    finished, remaining = apply_one_batch(harness, monkeypatch, *hinted)

    served = set(hinted[:SUBJECTS_PER_BATCH])
    assert len(finished) == SUBJECTS_PER_BATCH
    handed_over = [each for subjects in remaining.values() for each in subjects]
    assert set(handed_over) >= set(hinted) - served


def test_all_hinted_subjects_are_served_within_one_task(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_incidents(harness, acme, 300)
    insert_backlog(harness, acme, 300, incidents=300)
    monkeypatch.setattr(applier_module, "DRAIN_SECONDS", 60.0)
    worker = harness.applier()

    worker.drain([subject(acme, identifier) for identifier in range(FIRST, FIRST + 300)])

    assert waiting(harness) == 0


def waiting(harness: Harness) -> int:
    with harness.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM commands WHERE state = 'accepted'")).scalar_one())


# --- subjects that cannot proceed --------------------------------------------------------------------------------


def test_a_deferred_subject_with_a_long_backlog_delays_no_other_subject(harness: Harness, acme: Acme) -> None:
    insert_incidents(harness, acme, 201)
    insert_backlog(harness, acme, 1500, incidents=1)
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(next_attempt_at=text("now() + interval '1 hour'")))
    others = [
        harness.accept(a_comment_command(incident=str(identifier)), **acme.by("mem"))
        for identifier in range(FIRST + 1, FIRST + 201)
    ]

    harness.applier().drain([subject(acme, identifier) for identifier in range(FIRST + 1, FIRST + 201)])

    assert set(states(harness, others)) == {"applied"}
    assert waiting(harness) == 1500


def test_subjects_locked_by_another_worker_delay_no_other_subject(harness: Harness, acme: Acme) -> None:
    insert_incidents(harness, acme, 300)
    insert_backlog(harness, acme, 300, incidents=300)
    last = [subject(acme, identifier) for identifier in range(FIRST, FIRST + 300)]

    with harness.engine.begin() as other_worker:
        lock_subjects(other_worker, last[:290])
        harness.applier().drain(last)
        assert waiting(harness) == 290


def test_a_command_of_an_unknown_type_or_payload_version_waits_and_nothing_is_counted(
    harness: Harness, acme: Acme
) -> None:
    newer = harness.accept(a_comment_command("newer"), **acme.by("mem"))
    unknown = harness.accept(a_comment_command("unknown", incident="7"), **acme.by("mem"))
    behind = harness.accept(a_comment_command("behind"), **acme.by("mem"))
    insert_incidents(harness, acme, 1)
    other = harness.accept(a_comment_command(incident=str(FIRST)), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == newer).values(payload_version=2))
        connection.execute(update(commands).where(commands.c.id == unknown).values(type="comment.pin"))

    harness.apply()

    assert states(harness, [newer, unknown, behind, other]) == ["accepted", "accepted", "accepted", "applied"]
    assert [harness.ledger_row(id_)["attempts"] for id_ in (newer, unknown, behind)] == [0, 0, 0]

    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == newer).values(payload_version=1))
    harness.apply()

    assert states(harness, [newer, behind]) == ["applied", "applied"]


def test_commands_behind_one_of_an_unknown_type_wait_but_earlier_ones_are_applied(harness: Harness, acme: Acme) -> None:
    ids = [harness.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(3)]
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == ids[1]).values(type="comment.pin"))

    harness.apply()

    assert states(harness, ids) == ["applied", "accepted", "accepted"]


@pytest.mark.parametrize("subjects", [100, 513, 600])
def test_a_task_ends_when_none_of_many_subjects_can_proceed(harness: Harness, acme: Acme, subjects: int) -> None:
    insert_incidents(harness, acme, subjects)
    insert_backlog(harness, acme, subjects, incidents=subjects)
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(next_attempt_at=text("now() + interval '1 hour'")))
    handed_over: list[Remaining] = []

    harness.applier(request_continuation=handed_over.append).drain(())

    assert handed_over == []


def test_a_command_accepted_while_its_subject_was_locked_is_applied_without_a_hint(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [harness.accept(a_comment_command(), **acme.by("mem"))]

    def accept_another(_: BatchResult) -> None:
        if len(ids) == 1:
            ids.append(harness.accept(a_comment_command(), **acme.by("mem")))

    worker = harness.applier()
    worker.on_commit = accept_another
    # Neither a hint nor a scan names the subject again.
    monkeypatch.setattr(Claimer, "_scan", lambda *_, **__: None)
    worker.drain([subject(acme, 1)])

    assert states(harness, ids) == ["applied", "applied"]


def test_hinted_subjects_are_served_before_a_backlog_of_their_lane(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_incidents(harness, acme, 600)
    insert_backlog(harness, acme, 600, incidents=600, lane=Lane.COMMANDS)
    middle = subject(acme, FIRST + 300)
    with harness.engine.connect() as connection:
        hinted = connection.execute(
            text("SELECT id FROM commands WHERE subject = :subject"), {"subject": middle}
        ).scalar_one()

    finished, _ = apply_one_batch(harness, monkeypatch, middle)

    assert hinted in finished


def test_hinted_subjects_are_offered_again_after_a_failed_claim(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    monkeypatch.setattr(Claimer, "_scan", lambda *_, **__: None)
    worker = harness.applier()

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(claim_module, "read_commands", fail)
        with pytest.raises(ConnectionError):
            worker.drain([subject(acme, 1)])
    worker.drain(())

    assert states(harness, [id_]) == ["applied"]


def test_the_newest_commands_do_not_wait_for_a_backlog_of_their_lane(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_incidents(harness, acme, 1500)
    insert_backlog(harness, acme, 4501, incidents=1500)
    with harness.engine.begin() as connection:
        newest = connection.execute(
            text(
                "UPDATE commands SET subject = :subject, payload = CAST(:payload AS jsonb)"
                " WHERE seq = (SELECT max(seq) FROM commands) RETURNING id"
            ),
            {"subject": subject(acme, 1), "payload": '{"incident": "1", "comment": "newest"}'},
        ).scalar_one()

    finished, _ = apply_one_batch(harness, monkeypatch)

    assert newest in finished


# --- cost --------------------------------------------------------------------------------------------------------


def buffers(connection: Connection, statement: str, parameters: dict[str, Any]) -> int:
    """Run a statement; return the number of buffers that it read."""
    [plan] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters).scalar_one()
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


def claim_buffers(
    connection: Connection, subjects: list[str], *, measure: Callable[[Connection, str, dict[str, Any]], int] = buffers
) -> dict[str, int]:
    """Return the number of buffers that each statement of a claim, and of a sweep, reads."""
    known = list(KNOWN_TYPES)
    scan = {"lanes": [Lane.COMMANDS.value], "after": [0], "most": [1000], "span": 20_000, "newest": 32, "latest": 2_000}
    return {
        "scan": measure(connection, claims._SCAN[True], scan),
        "lock": measure(connection, claims._LOCK[True], {"subjects": subjects, "known": known, "most": 128}),
        "read": measure(
            connection,
            claims._READ[True],
            {"subjects": subjects, "most_of_each": [3] * len(subjects), "known": known, "most": 200},
        ),
        "sweep": measure(connection, backlog._OVERDUE, {"subjects": subjects, "older": 3}),
        "retries": measure(connection, backlog._RETRIES, {"most": 1000}),
    }


def test_claims_read_few_buffers_with_the_statistics_of_an_empty_queue(harness: Harness, acme: Acme) -> None:
    with harness.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE commands")
    insert_backlog(harness, acme, 20_000, incidents=2_000, lane=Lane.COMMANDS)
    subjects = [subject(acme, identifier) for identifier in range(FIRST, FIRST + 64)]

    with harness.engine.begin() as connection:
        read = claim_buffers(connection, subjects)

    # 64 subjects: an index of three or four levels and one row each; the scan reads 1,000 rows.
    assert read["scan"] < 1_500
    assert read["lock"] < 10 * 64
    assert read["read"] < 20 * 64
    assert read["sweep"] < 10 * 64
    assert read["retries"] < 100


def test_claims_planned_for_an_empty_queue_read_few_buffers_in_a_backlog(harness: Harness, acme: Acme) -> None:
    """A worker's connection plans each statement once, perhaps long before there is a backlog."""
    subjects = [subject(acme, identifier) for identifier in range(FIRST, FIRST + 64)]
    with harness.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE commands")
        for name, value in GENERIC_PLANS.items():
            connection.exec_driver_sql(f"SET {name} = {value}")
        prepare_claims(connection)
        claim_buffers(connection, subjects, measure=prepared_buffers)
        insert_backlog(harness, acme, 20_000, incidents=2_000, lane=Lane.COMMANDS)

        read = claim_buffers(connection, subjects, measure=prepared_buffers)

    assert read["scan"] < 1_500
    assert read["lock"] < 10 * 64
    assert read["read"] < 20 * 64
    assert read["sweep"] < 10 * 64
    assert read["retries"] < 100


def prepare_claims(connection: Connection) -> None:
    """Prepare the statements of a claim and of a sweep on the server, as psycopg does after a few executions."""
    for statement in (claims._SCAN[True], claims._LOCK[True], claims._READ[True], backlog._OVERDUE, backlog._RETRIES):
        numbered = statement
        for number, name in enumerate(parameter_names(statement), 1):
            numbered = numbered.replace(f"%({name})s", f"${number}")
        connection.exec_driver_sql(f"PREPARE {prepared_name(statement)} AS {numbered}".replace("%", "%%"))


def prepared_buffers(connection: Connection, statement: str, parameters: dict[str, Any]) -> int:
    """Run a prepared statement; return the number of buffers that it read."""
    names = parameter_names(statement)
    driver: Any = connection.connection.driver_connection
    values = ", ".join(sql.Literal(parameters[name]).as_string(driver) for name in names)
    [plan] = driver.execute(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {prepared_name(statement)} ({values})"
    ).fetchone()[0]
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


def prepared_name(statement: str) -> str:
    return f"claim_{zlib.crc32(statement.encode())}"


def parameter_names(statement: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))


def test_claims_read_few_buffers_while_an_old_snapshot_keeps_finished_commands(harness: Harness, acme: Acme) -> None:
    insert_incidents(harness, acme, 1)
    with harness.engine.connect() as backup:
        backup.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.exec_driver_sql("SELECT count(*) FROM commands")
        insert_backlog(harness, acme, 30_000, incidents=64, lane=Lane.COMMANDS)
        with harness.engine.begin() as connection:
            connection.execute(text("UPDATE commands SET state = 'applied'"))
        eventually(lambda: raise_floor(harness.engine))
        insert_backlog(harness, acme, 64, incidents=64, lane=Lane.COMMANDS)

        with harness.engine.begin() as connection:
            read = claim_buffers(connection, [subject(acme, FIRST + number) for number in range(64)])

    assert read["scan"] < 300
    assert read["lock"] < 10 * 64
    assert read["read"] < 10 * 64
    assert read["sweep"] < 10 * 64


def raise_floor(engine: Engine) -> bool:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return claims.raise_floor(connection, claims.propose_floor(connection))


# --- the floor ---------------------------------------------------------------------------------------------------


def scan(connection: Connection, *, after: int = 0, rows: int = 1000) -> claims.Scan:
    return claims.scan_for_subjects(connection, {Lane.COMMANDS: after}, rows=rows)[Lane.COMMANDS]


def floor(connection: Connection) -> int:
    return int(connection.execute(text("SELECT seq FROM command_floor")).scalar_one())


def seq_of(connection: Connection, id_: UUID) -> int:
    return int(connection.execute(text("SELECT seq FROM commands WHERE id = :id"), {"id": id_}).scalar_one())


def test_the_floor_is_raised_to_the_first_waiting_command_of_any_lane(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        an_accepted_command(connection, subject="a", lane=Lane.COMMANDS)
        connection.execute(text("UPDATE commands SET state = 'applied'"))
        first = an_accepted_command(connection, subject="b", lane=Lane.DELIVERIES, retry_in=timedelta(hours=1))
        an_accepted_command(connection, subject="c", lane=Lane.BULK)

    eventually(lambda: raise_floor(harness.engine))
    with harness.engine.connect() as connection:
        assert floor(connection) == seq_of(connection, first)


def test_a_command_that_is_committed_late_is_not_lost_below_the_floor(harness: Harness) -> None:
    with harness.engine.connect() as slow_gateway:
        late = an_accepted_command(slow_gateway, subject="late")
        with harness.engine.begin() as connection:
            an_accepted_command(connection, subject="early")
            connection.execute(text("UPDATE commands SET state = 'applied' WHERE subject = 'early'"))
        assert not raise_floor(harness.engine)
        slow_gateway.commit()

    eventually(lambda: raise_floor(harness.engine))
    with harness.engine.begin() as connection:
        assert floor(connection) == seq_of(connection, late)
        assert scan(connection).subjects == ["late"]


def test_a_command_with_an_early_seq_and_a_late_commit_is_not_lost_below_the_floor(harness: Harness) -> None:
    """The transaction that draws the higher ``seq`` may have the lower id: it had one before it accepted a command."""
    with harness.engine.connect() as busy_worker, harness.engine.connect() as slow_gateway:
        busy_worker.exec_driver_sql("SELECT pg_current_xact_id()")
        late = an_accepted_command(slow_gateway, subject="late")
        an_accepted_command(busy_worker, subject="follow-up")
        busy_worker.commit()
        assert not raise_floor(harness.engine)
        slow_gateway.commit()

    eventually(lambda: raise_floor(harness.engine))
    with harness.engine.begin() as connection:
        assert floor(connection) == seq_of(connection, late)


def test_the_floor_stays_below_a_command_in_a_lane_of_a_newer_release(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        newer = an_accepted_command(connection, subject="a")
        connection.execute(text("UPDATE commands SET lane = 'urgent'"))
        an_accepted_command(connection, subject="b")

    eventually(lambda: raise_floor(harness.engine))
    with harness.engine.connect() as connection:
        assert floor(connection) == seq_of(connection, newer)


def test_the_floor_is_raised_over_any_number_of_finished_commands(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SPAN_PER_RAISE", 3)
    with harness.engine.begin() as connection:
        for _ in range(10):
            an_accepted_command(connection)
        connection.execute(text("UPDATE commands SET state = 'applied'"))

    eventually(lambda: raise_floor(harness.engine))
    with harness.engine.connect() as connection:
        assert floor(connection) == connection.execute(text("SELECT max(seq) + 1 FROM commands")).scalar_one()


def test_a_command_far_above_one_that_cannot_proceed_is_found_at_once(harness: Harness, acme: Acme) -> None:
    harness.accept(a_comment_command(), **acme.by("mem"))
    insert_incidents(harness, acme, 1)
    with harness.engine.begin() as connection:
        connection.execute(text("UPDATE commands SET type = 'comment.pin'"))
        connection.exec_driver_sql("ALTER TABLE commands ALTER COLUMN seq RESTART WITH 150000")
    far = harness.accept(a_comment_command(incident=str(FIRST)), **acme.by("mem"))

    with harness.engine.begin() as connection:
        found = backlog.find_overdue_subjects(connection, Lane.COMMANDS, older_than=0, after=2)
    harness.apply()

    assert (Lane.COMMANDS, subject(acme, FIRST)) in found.subjects
    assert states(harness, [far]) == ["applied"]


def test_a_transaction_has_an_id_before_its_first_command_gets_a_seq(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        # Drawing a seq may itself assign an id to the transaction, but only for one in 32 values.
        an_accepted_command(connection)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION reject_without_id() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN"
            "  IF pg_current_xact_id_if_assigned() IS NULL THEN RAISE 'the transaction has no id yet'; END IF;"
            "  RETURN 1; END $$"
        )
        connection.exec_driver_sql("ALTER TABLE commands ALTER COLUMN timeouts SET DEFAULT reject_without_id()")

    with harness.engine.begin() as connection:
        an_accepted_command(connection)


def test_a_scan_continues_where_the_last_one_ended_and_then_from_the_start(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        for name in "abcde":
            an_accepted_command(connection, subject=name)

        first = scan(connection, rows=2)
        second = scan(connection, after=first.after, rows=2)
        third = scan(connection, after=second.after, rows=2)

    assert [first.subjects, second.subjects, third.subjects] == [["a", "b"], ["c", "d"], ["e"]]
    assert first.after < second.after
    assert third.after == 0
