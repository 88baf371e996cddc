"""What is old is deleted, except what somebody may still need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update

from models.base import new_id
from models.directory.tables import organizations
from models.messaging.command_ledger import commands
from models.messaging.outbox import events, last_sequences
from models.notifications.delivery import deliveries, delivery_attempts
from models.notifications.notification import notifications
from models.operations.retention import RetentionPass
from models.operations.series import first_id
from tests.faults.ledger import states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.ops.ledger import accept_comments, bury

OLD = datetime.now(UTC) - timedelta(days=100)


def retain(harness: Harness, **options: Any) -> dict[str, int]:
    """Delete what is older than 90 days; return the number of rows by table."""
    retention = RetentionPass(options.pop("keep_days", 90), rows_per_step=2, **options)
    continues = True
    while continues:
        with harness.engine.begin() as connection:
            continues = retention.step(connection)
    return retention.deleted


def make_old(harness: Harness) -> None:
    """Let everything in the ledger and the outbox have happened long ago."""
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.finished_at.is_not(None)).values(finished_at=OLD))
        for number, id_ in enumerate(connection.execute(select(events.c.id).order_by(events.c.id)).scalars().all()):
            old_id = UUID(int=first_id(OLD).int + number)
            connection.execute(update(events).where(events.c.id == id_).values(id=old_id))


def count(harness: Harness, table: Any) -> int:
    with harness.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_finished_commands_and_processed_events_go_and_the_rest_stays(harness: Harness, acme: Acme) -> None:
    applied = accept_comments(harness, 3, **acme.by("mem"))
    harness.apply()
    dead, waiting = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, [dead])
    make_old(harness)
    with harness.engine.begin() as connection:
        connection.execute(update(events).values(announced_at=OLD, planned_at=OLD))
        unplanned = connection.execute(select(func.min(events.c.sequence))).scalar_one()
        connection.execute(update(events).where(events.c.sequence == unplanned).values(planned_at=None))
    [young] = accept_comments(harness, 1, **acme.by("mem"))
    before = count(harness, events)

    would = retain(harness, dry_run=True)
    assert count(harness, events) == before
    did = retain(harness)

    assert would == did
    assert did["commands"] == len(applied)
    assert states(harness, [dead, waiting, young]) == ["dead", "accepted", "accepted"]
    with harness.engine.connect() as connection:
        left = connection.execute(select(events.c.sequence).order_by(events.c.sequence)).scalars().all()
    # The unplanned event, and the last one of the incident.
    assert left == [1, 3]
    assert did["events"] == 1


def test_the_number_of_the_next_event_does_not_start_again(harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 2, **acme.by("mem"))
    harness.apply()
    make_old(harness)
    with harness.engine.begin() as connection:
        connection.execute(update(events).values(announced_at=OLD, planned_at=OLD))

    retain(harness)

    with harness.engine.connect() as connection:
        assert last_sequences(connection, ["incidents/1"]) == {"incidents/1": 2}


def test_read_inbox_items_and_ended_deliveries_go(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        organization = connection.execute(select(organizations.c.id).where(organizations.c.slug == "acme")).scalar_one()
        incident = connection.exec_driver_sql("SELECT min(id) FROM incidents").scalar_one()
        for activity, read in ((1, OLD), (2, None), (3, datetime.now(UTC))):
            connection.execute(
                insert(notifications).values(
                    organization_id=organization, user_id=11, incident_id=incident, activity_id=activity,
                    event_id=new_id(), event_type="x", reason="mention", date_created=OLD, date_read=read,
                )
            )  # fmt: skip
        for finished in (OLD, None):
            id_ = new_id()
            connection.execute(
                insert(deliveries).values(id=id_, organization_id=organization, channel="email", finished_at=finished)
            )
            connection.execute(insert(delivery_attempts).values(delivery_id=id_, number=1, duration_ms=1))

    did = retain(harness)

    assert (did["notifications"], did["deliveries"]) == (1, 1)
    assert (count(harness, notifications), count(harness, deliveries), count(harness, delivery_attempts)) == (2, 1, 1)


@pytest.mark.parametrize(("keep_days", "left"), [(0, 1), (1, 1), (3, 0)])
def test_commands_are_kept_for_ever_or_at_least_as_long_as_their_keys(
    harness: Harness, acme: Acme, keep_days: int, left: int
) -> None:
    accept_comments(harness, 1, **acme.by("mem"))
    harness.apply()
    with harness.engine.begin() as connection:
        age = timedelta(days=4) if keep_days == 3 else timedelta(hours=48)
        connection.execute(update(commands).values(finished_at=datetime.now(UTC) - age))

    retain(harness, keep_days=keep_days)

    assert count(harness, commands) == left
