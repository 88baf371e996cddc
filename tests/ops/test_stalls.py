"""A stall of each kind is found, and shown by the overview, the metrics and an alert with a paragraph."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from models.base import new_id
from models.directory.tables import organizations
from models.enums import Lane
from models.messaging.canary import NOTIFIER, canaries
from models.messaging.command_ledger import commands
from models.messaging.outbox import events
from models.notifications.delivery import deliveries
from models.operations.holds import place_hold
from models.operations.ledger_numbers import read_ledger_numbers
from models.operations.overview import read_overview
from models.operations.processes import REPORT, ProcessFacts, ProcessReport, report_parameters
from models.operations.stalls import TARGETS, StallKind, find_stalls
from models.operations.tables import process_heartbeats
from models.serializers.operations import BrokerState
from tasks.commands.catalog import CATALOG
from tasks.metrics.exposition import render
from tasks.metrics.ledger import LedgerCollector, LedgerReader
from tests.handlers.acme import Acme
from tests.harness import Harness, lock_subjects
from tests.ops.ledger import accept_comments
from tests.waiting import eventually

Cause = Callable[[Connection, Acme], None]


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def an_unseen_canary(queue: str) -> Cause:
    def cause(connection: Connection, _: Acme) -> None:
        connection.execute(insert(canaries).values(queue=queue, sent_at=ago(70)))
        connection.execute(insert(canaries).values(queue=queue, sent_at=ago(10)))

    return cause


def a_waiting_command(lane: Lane, *, seconds: float, is_locked: bool) -> Cause:
    def cause(connection: Connection, _: Acme) -> None:
        connection.execute(update(commands).values(lane=lane.value, accepted_at=ago(seconds)))
        if is_locked:
            lock_subjects(connection, list(connection.execute(select(commands.c.subject)).scalars()))

    return cause


def a_due_delivery(seconds: float, *, is_claimed: bool) -> Cause:
    def cause(connection: Connection, _: Acme) -> None:
        organization = connection.execute(select(organizations.c.id).limit(1)).scalar_one()
        for claimed_by in (None, new_id() if is_claimed else None):
            connection.execute(
                insert(deliveries).values(
                    id=new_id(),
                    organization_id=organization,
                    channel="email",
                    due_at=ago(seconds),
                    claimed_by=claimed_by,
                )
            )

    return cause


def no_canary(connection: Connection, _: Acme) -> None:
    connection.execute(insert(canaries).values(queue="bulk", sent_at=ago(100), seen_at=ago(99)))


def an_old_event(*, is_announced: bool, seconds: float) -> Cause:
    def cause(connection: Connection, _: Acme) -> None:
        announced = func.now() if is_announced else None
        planned = None if is_announced else func.now()
        connection.execute(update(events).values(date_created=ago(seconds), announced_at=announced, planned_at=planned))

    return cause


def a_gone(kind: str) -> Cause:
    def cause(connection: Connection, _: Acme) -> None:
        facts = ProcessFacts(new_id(), kind, "host", 1, "1")
        connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(0, None, None)))
        connection.execute(update(process_heartbeats).values(last_seen_at=ago(45)))

    return cause


CAUSES: dict[tuple[StallKind, str], Cause] = {
    **{(StallKind.NO_CONSUMER, queue): an_unseen_canary(queue) for queue in TARGETS[StallKind.NO_CONSUMER]},
    **{
        (StallKind.STALLED, lane): a_waiting_command(lane, seconds=40, is_locked=False)
        for lane in (Lane.COMMANDS, Lane.BULK)
    },
    (StallKind.STALLED, Lane.DELIVERIES): a_due_delivery(40, is_claimed=False),
    **{
        (StallKind.OLDEST, lane): a_waiting_command(lane, seconds=400, is_locked=True)
        for lane in (Lane.COMMANDS, Lane.BULK)
    },
    (StallKind.OLDEST, Lane.DELIVERIES): a_due_delivery(400, is_claimed=True),
    (StallKind.RELAY, "canaries"): no_canary,
    (StallKind.RELAY, "events"): an_old_event(is_announced=False, seconds=40),
    (StallKind.NOTIFIER, "events"): an_old_event(is_announced=True, seconds=400),
    **{(StallKind.PROCESS, kind): a_gone(kind) for kind in TARGETS[StallKind.PROCESS]},
}


@pytest.mark.parametrize(
    ("kind", "target"), [(kind, target) for kind, targets in TARGETS.items() for target in targets]
)
def test_a_stall_of_each_kind_is_found_and_shown(harness: Harness, acme: Acme, kind: StallKind, target: str) -> None:
    if kind in (StallKind.RELAY, StallKind.NOTIFIER) and target == "events":
        accept_comments(harness, 1, **acme.by("mem"))
        harness.apply()
    elif kind in (StallKind.STALLED, StallKind.OLDEST) and target != Lane.DELIVERIES:
        accept_comments(harness, 1, **acme.by("mem"))
    with harness.engine.begin() as connection:
        before = find_stalls(connection)
        CAUSES[kind, target](connection, acme)

        [stall] = find_stalls(connection)
        shown = read_overview(connection, broker={"status": BrokerState.OK, "kind": "valkey", "detail": ""})
        text = exported(connection)

    assert before == []
    assert (stall.kind, stall.target) == (kind, target)
    assert stall.seconds >= 29
    assert [(entry["kind"], entry["text"]) for entry in shown["attention"]] == [(kind, stall.text)]
    assert [line for line in text.splitlines() if line.startswith("tocsin_stall{") and line.endswith(" 1.0")] == [
        f'tocsin_stall{{kind="{kind}",target="{target}"}} 1.0'
    ]


def test_what_is_held_does_not_stall(harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 1, **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(accepted_at=ago(400)))
        a_due_delivery(400, is_claimed=False)(connection, acme)
        for queue in ("commands", "deliveries"):
            place_hold(connection, scope="queue", target=queue, reason="x", by="ops:1", known_types=frozenset(CATALOG))

        found = find_stalls(connection)
        text = exported(connection)

    assert found == []
    assert 'tocsin_commands_held{lane="commands"} 1.0' in text
    assert 'tocsin_deliveries_held{channel="email"} 2.0' in text


def test_a_canary_after_a_long_pause_is_given_time(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        connection.execute(insert(canaries).values(queue=NOTIFIER, sent_at=ago(900), seen_at=ago(899)))
        connection.execute(insert(canaries).values(queue=NOTIFIER, sent_at=ago(5)))

        assert find_stalls(connection) == []


def test_the_gauges_are_absent_while_the_database_does_not_answer(harness: Harness) -> None:
    read = LedgerReader(harness.url.replace("postgresql:", "postgresql+psycopg:"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE canaries")

        while_it_hangs = read()
    back = eventually(read)
    away = LedgerReader("postgresql+psycopg://nobody@/nothing?host=/nowhere")()

    assert (while_it_hangs, away) == (None, None)
    assert back is not None
    assert back.processes["worker"] == 0


def exported(connection: Connection) -> str:
    """Return the ledger's metrics in the text format."""
    numbers = read_ledger_numbers(connection)
    registry = CollectorRegistry()
    registry.register(LedgerCollector(lambda: numbers))
    return render(registry)[0].decode()
