"""The overview, the queues, the processes and the numbers per minute say what is so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update

from models.base import new_id
from models.enums import Lane
from models.messaging.attempts import record_in_flight
from models.messaging.canary import canaries
from models.messaging.command_ledger import commands
from models.messaging.hold import holds
from models.operations.dead import list_dead, list_dead_groups
from models.operations.holds import place_hold
from models.operations.overview import read_overview, read_queues
from models.operations.processes import (
    REPORT,
    ProcessFacts,
    ProcessReport,
    list_processes,
    prune_processes,
    report_parameters,
)
from models.operations.series import read_series, record_minute
from models.operations.tables import minute_series, process_heartbeats
from models.refusals import InvalidFields
from models.serializers.operations import BrokerState, BrokerStatusJson, OverviewJson, ProcessJson, QueueJson
from tasks.broker_status import read_broker_status
from tasks.commands.catalog import CATALOG
from tasks.log_config import ProcessKind
from tasks.process_reporter import ProcessReporter
from tests.brokers import broker_settings
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.ops.ledger import accept_comments, bury
from tests.waiting import eventually

ANSWERS: BrokerStatusJson = {"status": BrokerState.OK, "kind": "valkey", "detail": "valkey answers."}


def overview(harness: Harness) -> OverviewJson:
    with harness.engine.connect() as connection:
        return read_overview(connection, broker=ANSWERS)


def queue(harness: Harness, name: Lane) -> QueueJson:
    with harness.engine.connect() as connection:
        return next(each for each in read_queues(connection) if each["name"] == name)


def processes(harness: Harness) -> list[ProcessJson]:
    with harness.engine.connect() as connection:
        return list_processes(connection)


def test_the_overview_of_an_idle_system_has_nothing_to_report(harness: Harness) -> None:
    seen = overview(harness)

    assert set(seen) == {
        "at", "database", "broker", "waiting", "oldestSeconds", "held", "dead", "unannounced", "unplanned",
        "deliveriesDue", "acceptedPerMinute", "finishedPerMinute", "rejectedPerMinute", "waitP50Ms", "waitP95Ms",
        "attention",
    }  # fmt: skip
    assert (seen["waiting"], seen["oldestSeconds"], seen["waitP50Ms"]) == (0, None, None)
    assert seen["attention"] == []


def test_the_overview_counts_what_waits_and_what_the_last_minute_brought(harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 3, **acme.by("mem"))
    harness.apply()
    waiting = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, waiting[:1])

    seen = overview(harness)

    assert (seen["waiting"], seen["dead"]) == (1, 1)
    assert (seen["acceptedPerMinute"], seen["finishedPerMinute"], seen["rejectedPerMinute"]) == (5, 4, 0)
    assert seen["oldestSeconds"] is not None
    assert seen["waitP50Ms"] is not None
    assert seen["unannounced"] == 3
    assert [entry["kind"] for entry in seen["attention"]] == ["dead"]


def test_what_is_wrong_needs_attention(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(minutes=5)
        connection.execute(insert(canaries).values(queue="bulk", sent_at=old))
        connection.execute(insert(canaries).values(queue="commands", seen_at=func.now()))
        place_hold(
            connection, scope="type", target="comment.post", reason="spam", by="ops:1", known_types=frozenset(CATALOG)
        )
        facts = ProcessFacts(new_id(), "relay", "host", 1, "1")
        connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(0, None, None)))
        connection.execute(update(process_heartbeats).values(last_seen_at=old))
        connection.execute(update(holds).values(since=old))
        seen = read_overview(
            connection, broker={"status": BrokerState.UNREACHABLE, "kind": "rabbitmq", "detail": "It is away."}
        )

    assert [(entry["kind"], entry["severity"]) for entry in seen["attention"]] == [
        ("broker", "critical"),
        ("no_consumer", "critical"),
        ("process", "critical"),
        ("hold", "warning"),
    ]
    assert [entry["text"] for entry in seen["attention"][1:]] == [
        "No worker has consumed the queue bulk for 5 min.",
        "No relay has reported itself for 5 min: the last one is gone.",
        "ops:1 has held the type comment.post for 5 min, with no end set: spam",
    ]


def test_each_queue_says_what_waits_and_whether_it_is_served(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 4, **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id.in_(ids[-1:])).values(lane="bulk"))

    assert [queue(harness, lane)["waiting"] for lane in Lane] == [3, 1, 0]
    assert queue(harness, Lane.COMMANDS)["state"] == "unknown"
    with harness.engine.begin() as connection:
        connection.execute(insert(canaries).values(queue="commands", seen_at=func.now()))
    assert queue(harness, Lane.COMMANDS)["state"] == "running"
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(accepted_at=commands.c.accepted_at - timedelta(minutes=2)))
    stalled = queue(harness, Lane.COMMANDS)
    assert stalled["state"] == "stalled"
    assert stalled["oldestSeconds"] is not None
    assert stalled["oldestSeconds"] > 100
    with harness.engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(minutes=5)
        connection.execute(update(canaries).values(sent_at=old, seen_at=None))
    assert queue(harness, Lane.COMMANDS)["state"] == "no_consumer"


def test_a_held_queue_names_its_hold(harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 2, **acme.by("mem"))
    with harness.engine.begin() as connection:
        placed = place_hold(
            connection, scope="queue", target="commands", reason="x", by="ops:1", known_types=frozenset(CATALOG)
        )

    held = queue(harness, Lane.COMMANDS)

    assert (held["state"], held["held"], held["hold"]) == ("held", 2, placed)
    assert set(held) == {
        "name", "waiting", "oldestSeconds", "held", "inPerMinute", "outPerMinute", "drainSeconds", "state", "hold",
        "canary", "consumers",
    }  # fmt: skip


def test_a_broker_that_is_away_is_named_within_the_time_limit() -> None:
    status = read_broker_status(broker_settings("redis://127.0.0.1:1/0"), seconds=1)

    assert not status.is_reachable
    assert status.kind == "redis"
    assert "cannot be reached" in status.detail
    assert set(status.consumers.values()) == {None}


def test_dead_letters_are_grouped_by_type_and_error(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 5, **acme.by("mem"))
    bury(harness, ids[:3], "KeyError: 7")
    bury(harness, ids[3:], "ValueError: bad")

    with harness.engine.connect() as connection:
        groups = list_dead_groups(connection)
        letters = list_dead(connection, fingerprint=groups[1]["fingerprint"]).entities

    assert [(group["error"], group["count"], group["sample"]) for group in groups] == [
        ("ValueError: bad", 2, str(ids[4])),
        ("KeyError: 7", 3, str(ids[2])),
    ]
    assert [UUID(letter["id"]) for letter in letters] == ids[2::-1]
    assert {letter["fingerprint"] for letter in letters} == {groups[1]["fingerprint"]}


def test_a_process_reports_itself_until_it_ends(harness: Harness) -> None:
    reporter = ProcessReporter(
        harness.url, ProcessKind.WORKER, lambda: 7, lanes=["commands"], worker="w1", pid=42, seconds=0.05
    )
    reporter.start()
    first = eventually(lambda: processes(harness))[0]
    eventually(lambda: processes(harness)[0]["lastSeenAt"] > first["lastSeenAt"])
    reporter.stop()

    [ended] = processes(harness)

    assert (first["kind"], first["pid"], first["lanes"], first["state"]) == ("worker", 42, ["commands"], "idle")
    assert first["rssBytes"]
    assert ended["state"] == "gone"


def test_a_worker_has_in_hand_what_it_has_claimed_until_it_is_finished(harness: Harness, acme: Acme) -> None:
    finished = accept_comments(harness, 2, **acme.by("mem"))
    harness.apply()
    claimed = accept_comments(harness, 1, **acme.by("mem"))
    with harness.engine.begin() as connection:
        facts = ProcessFacts(new_id(), "worker", "host", 1, "1", ["bulk"], "w1")
        connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(5, 0, 1)))
        record_in_flight(connection, "w1", [*finished, *claimed])
    busy = processes(harness)[0]

    harness.apply()
    idle = processes(harness)[0]

    assert (busy["state"], busy["inHand"]) == ("busy", list(map(str, claimed)))
    assert (idle["state"], idle["inHand"]) == ("idle", [])


def test_a_process_that_stays_silent_is_gone_and_forgotten_after_an_hour(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        facts = ProcessFacts(new_id(), "worker", "host", 1, "1", ["bulk"], "w1")
        connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(5, 300, 1)))
    assert processes(harness)[0]["state"] == "busy"

    for minutes, states in ((1, ["gone"]), (70, [])):
        with harness.engine.begin() as connection:
            seen = datetime.now(UTC) - timedelta(minutes=minutes)
            connection.execute(update(process_heartbeats).values(last_seen_at=seen))
        assert [process["state"] for process in processes(harness)] == states
    with harness.engine.begin() as connection:
        assert prune_processes(connection) == 1


def test_the_numbers_of_a_minute_are_recorded_once(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 3, **acme.by("mem"))
    harness.apply()
    accept_comments(harness, 1, **acme.by("mem"))
    with harness.engine.begin() as connection:
        # Ids and times of the minute before this one.
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(seconds=30)
        for id_ in ids:
            values = {"accepted_at": start, "finished_at": start}
            connection.execute(update(commands).where(commands.c.id == id_).values(values))

        assert record_minute(connection)
        assert not record_minute(connection)
        series = read_series(connection, ["finished", "waiting", "oldest"], minutes=3)

    assert series["stepSeconds"] == 60
    assert series["series"]["finished"] == [None, None, 3]
    assert series["series"]["waiting"] == [None, None, 1]


def test_in_a_step_of_several_minutes_events_are_summed_up_and_of_the_waiting_the_most_counts(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        end = connection.execute(select(func.date_trunc("minute", func.clock_timestamp()))).scalar_one()
        for minutes, numbers in ((30, {"dead": 1, "oldest": 0.5}), (16, {"dead": 2, "oldest": 9}), (1, {"dead": 4})):
            values = {"at": end - timedelta(minutes=minutes), "numbers": numbers}
            connection.execute(insert(minute_series).values(values))

        series = read_series(connection, ["dead", "oldest"], minutes=45, step_minutes=15)

    assert series["stepSeconds"] == 900
    assert series["series"] == {"dead": [None, 3, 4], "oldest": [None, 9, None]}


def test_numbers_are_kept_for_thirty_days(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=31)
        connection.execute(insert(minute_series).values(at=old, numbers={}))
        record_minute(connection)

        rows = connection.execute(minute_series.select()).all()

    assert len(rows) == 1


@pytest.mark.parametrize(("metrics", "minutes"), [(["speed"], 60), (["dead"], 0), (["dead"], 50_000)])
def test_unknown_series_and_spans_are_refused(harness: Harness, metrics: list[str], minutes: int) -> None:
    with harness.engine.connect() as connection, pytest.raises(InvalidFields):
        read_series(connection, metrics, minutes=minutes)
