"""The deliverer sends each due delivery once, retries what can pass, and lets no target hold up the others."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import new_id
from models.enums import DecisionOutcome
from models.notifications.delivery import DeliveryState, deliveries, target_key
from models.notifications.notification import NewDecision, insert_decisions
from models.timestamps import iso_or_none
from tests.builders import a_member
from tests.conftest import Database
from tests.delivery.conftest import Scene
from tests.delivery.fake_channel import FakeChannel, failing
from tests.waiting import eventually
from workers.deliver import claim
from workers.deliver.channel import AttemptResult, ClaimedDelivery, Postponed, Verdict, Withheld
from workers.deliver.deliverer import SLOTS, Deliverer
from workers.deliver.retry import FAULTS_TO_OPEN

PAST = datetime.now(UTC) - timedelta(minutes=1)


def test_a_due_delivery_is_sent_once_and_recorded(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel()

    counted: list[tuple[str, str]] = []

    with delivering(scene, channel, on_attempt=lambda name, verdict, _seconds: counted.append((name, verdict))):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)

    assert channel.sent_ids() == [delivery]
    assert counted == [("email", "delivered")]
    assert attempts_of(scene, delivery) == [(1, 250, None)]
    assert decision_of(scene, delivery) == (DecisionOutcome.DELIVERED, "mention", "")


def test_nothing_is_sent_before_it_is_due(scene: Scene) -> None:
    later = add_delivery(scene, due_at=datetime.now(UTC) + timedelta(hours=1))
    now = add_delivery(scene)
    channel = FakeChannel()

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, now) == DeliveryState.DELIVERED)

    assert later not in channel.sent_ids()


def test_a_delivery_of_another_channel_is_left_alone(scene: Scene) -> None:
    other = add_delivery(scene, channel="chat", target_key=target_key("chat", scene.organization, 1))
    mine = add_delivery(scene)

    with delivering(scene, FakeChannel()):
        eventually(lambda: state_of(scene, mine) == DeliveryState.DELIVERED)

    assert state_of(scene, other) == DeliveryState.PENDING


def test_a_passing_failure_is_tried_again_with_the_same_bytes(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel(answers={key_of(scene): list(failing(2, status=451))})

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)

    assert attempts_of(scene, delivery) == [(1, 451, "try later"), (2, 451, "try later"), (3, 250, None)]
    assert channel.bodies == [b"rendered for 1"] * 3


def test_after_the_last_retry_a_delivery_is_dead(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel(answers={key_of(scene): list(failing(9))})

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DEAD)

    assert len(attempts_of(scene, delivery)) == 1 + len(channel.retry_delays_seconds)
    assert decision_of(scene, delivery) == (DecisionOutcome.FAILED, "mention", "try later")


def test_an_attempt_that_breaks_the_common_transaction_is_recorded_alone_and_so_are_the_others(scene: Scene) -> None:
    delivery_ids = [add_delivery(scene) for _ in range(4)]

    class Breaking(FakeChannel):
        """Its first transaction fails after the attempts have been written."""

        broken = 0

        async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
            if delivery.id == delivery_ids[-1] and self.broken < 1:
                self.broken += 1
                await connection.exec_driver_sql("SELECT 1/0")

    channel = Breaking()

    with delivering(scene, channel):
        eventually(lambda: all(state_of(scene, each) == DeliveryState.DELIVERED for each in delivery_ids))

    assert channel.broken == 1
    assert sorted(channel.sent_ids()) == sorted(delivery_ids)
    assert [attempts_of(scene, each) for each in delivery_ids] == [[(1, 250, None)]] * 4


def test_a_permanent_failure_is_not_tried_again(scene: Scene) -> None:
    delivery = add_delivery(scene)
    refused = AttemptResult(Verdict.PERMANENT, status=550, error="no such mailbox")

    with delivering(scene, FakeChannel(answers={key_of(scene): [refused]})):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.FAILED)

    assert attempts_of(scene, delivery) == [(1, 550, "no such mailbox")]
    assert decision_of(scene, delivery) == (DecisionOutcome.FAILED, "mention", "no such mailbox")


def test_a_server_that_asks_for_a_pause_gets_it(scene: Scene) -> None:
    delivery = add_delivery(scene)
    busy = AttemptResult(Verdict.PASSING, status=429, error="busy", retry_after_seconds=3600)

    with delivering(scene, FakeChannel(answers={key_of(scene): [busy]})):
        eventually(lambda: attempts_of(scene, delivery))
        eventually(lambda: scene.rows("SELECT 1 FROM deliveries WHERE claimed_by IS NULL"))

    (row,) = scene.rows("SELECT due_at - date_created AS pause FROM deliveries")
    assert row.pause >= timedelta(hours=1)


def test_what_the_channel_withholds_is_explained_and_not_sent(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel(decide=lambda _: Withheld(DeliveryState.SUPPRESSED, "no_access"))

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.SUPPRESSED)

    assert channel.sent == []
    assert attempts_of(scene, delivery) == []
    assert decision_of(scene, delivery) == (DecisionOutcome.SUPPRESSED, "no_access", "")


def test_what_the_channel_postpones_waits_without_counting_an_attempt(scene: Scene) -> None:
    delivery = add_delivery(scene)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    channel = FakeChannel(decide=lambda _: Postponed(tomorrow, "quiet_hours", is_merged=True))

    with delivering(scene, channel):
        eventually(lambda: scene.rows("SELECT 1 FROM deliveries WHERE is_merged AND claimed_by IS NULL"))

    (row,) = scene.rows("SELECT state, attempts, due_at FROM deliveries")
    assert (row.state, row.attempts, row.due_at) == (DeliveryState.PENDING, 0, tomorrow)
    assert decision_of(scene, delivery) == (
        DecisionOutcome.DEFERRED,
        "quiet_hours",
        f"until {iso_or_none(tomorrow)}",
    )


def test_merged_deliveries_of_one_person_are_sent_in_one_message(scene: Scene) -> None:
    ana, ben = add_person(scene), add_person(scene)
    of_ana = [add_delivery(scene, user=ana, is_merged=True) for _ in range(3)]
    of_ben = add_delivery(scene, user=ben, is_merged=True)
    alone = add_delivery(scene, user=ana)
    channel = FakeChannel()

    with delivering(scene, channel):
        eventually(lambda: scene.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")[0][0] == 5)

    messages = sorted([each.id for each in delivery.merged] for delivery in channel.sent)
    assert messages == sorted([of_ana, [of_ben], [alone]])
    assert attempts_of(scene, of_ana[1]) == []
    assert scene.rows("SELECT DISTINCT merged_into FROM deliveries WHERE is_merged ORDER BY 1") == [
        (of_ana[0],),
        (of_ben,),
    ]


def test_a_merged_message_that_failed_keeps_its_deliveries(scene: Scene) -> None:
    ana = add_person(scene)
    first = [add_delivery(scene, user=ana, is_merged=True) for _ in range(2)]
    channel = FakeChannel(answers={key_of(scene): list(failing(1))}, retry_delays_seconds=(0.5, 0.5))

    with delivering(scene, channel):
        eventually(lambda: channel.sent)
        later = add_delivery(scene, user=ana, is_merged=True)
        eventually(lambda: scene.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")[0][0] == 3)

    messages = sorted([each.id for each in delivery.merged] for delivery in channel.sent)
    assert messages == sorted([first, first, [later]])


def test_if_the_first_of_merged_deliveries_is_withheld_the_others_are_sent(scene: Scene) -> None:
    ana = add_person(scene)
    first, second, third = (add_delivery(scene, user=ana, is_merged=True) for _ in range(3))

    def decide(delivery: ClaimedDelivery) -> Withheld | None:
        return Withheld(DeliveryState.CANCELLED, "deleted") if delivery.id == first else None

    channel = FakeChannel(decide=decide)

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, third) == DeliveryState.DELIVERED)

    assert [each.id for each in channel.sent[0].merged] == [second, third]
    assert state_of(scene, first) == DeliveryState.CANCELLED


@pytest.mark.parametrize("shows_activities", [True, False])
def test_a_message_about_a_deleted_comment_is_cancelled_before_its_channel_sees_it(
    scene: Scene, shows_activities: bool
) -> None:
    seen: list[UUID] = []
    deleted, other = add_delivery(scene), add_delivery(scene)
    delete_comment(scene, deleted)
    channel = FakeChannel(shows_activities=shows_activities, on_prepare=lambda each: seen.append(each.id))

    with delivering(scene, channel):
        eventually(lambda: DeliveryState.PENDING not in {state_of(scene, deleted), state_of(scene, other)})

    assert state_of(scene, other) == DeliveryState.DELIVERED
    # A channel that sends events as they were published sends this one, too.
    if shows_activities:
        assert decision_of(scene, deleted) == (DecisionOutcome.SUPPRESSED, "deleted", "")
        assert (state_of(scene, deleted), seen) == (DeliveryState.CANCELLED, [other])
    else:
        assert (state_of(scene, deleted), set(seen)) == (DeliveryState.DELIVERED, {deleted, other})


def test_the_news_that_a_comment_was_deleted_is_sent(scene: Scene) -> None:
    delivery = add_delivery(scene, event_type="incident.comment_deleted")
    delete_comment(scene, delivery)

    with delivering(scene, FakeChannel(shows_activities=True)):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)


def test_a_merged_message_is_rendered_again_without_a_deleted_comment(scene: Scene) -> None:
    ana = add_person(scene)
    first, second = (add_delivery(scene, user=ana, is_merged=True, body=b"with both") for _ in range(2))
    delete_comment(scene, first)
    channel = FakeChannel(shows_activities=True)

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, second) == DeliveryState.DELIVERED)

    assert [[each.id for each in delivery.merged] for delivery in channel.sent] == [[second]]
    assert channel.bodies == [b"rendered for 1"]


def test_a_target_that_hangs_holds_only_its_own_share(scene: Scene) -> None:
    hanging = target_key("email", 1)
    for _ in range(2 * SLOTS):
        add_delivery(scene, target_key=hanging)
    others = [add_delivery(scene, target_key=target_key("email", 2 + number)) for number in range(20)]
    channel = FakeChannel(hanging=frozenset({hanging}))

    with delivering(scene, channel):
        eventually(lambda: all(state_of(scene, each) == DeliveryState.DELIVERED for each in others))

    assert channel.most_in_flight[hanging] == channel.concurrency_per_target


def test_a_target_that_fails_again_and_again_is_left_alone(scene: Scene) -> None:
    for _ in range(50):
        add_delivery(scene)
    channel = FakeChannel(
        answers={key_of(scene): list(failing(500, is_target_fault=True))},
        retry_delays_seconds=(600.0,),
        concurrency_per_target=1,
    )
    other = add_delivery(scene, target_key=target_key("email", scene.organization + 1))

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, other) == DeliveryState.DELIVERED)
        eventually(lambda: len(channel.sent) >= FAULTS_TO_OPEN + 1)
        # The probe may follow after the first pause, but not the other deliveries.

    assert len(channel.sent) < 20


def test_a_message_that_takes_too_long_counts_as_unknown(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel(hanging=frozenset({key_of(scene)}), deadline_seconds=0.05, retry_delays_seconds=())

    with delivering(scene, channel):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DEAD)

    (attempt,) = attempts_of(scene, delivery)
    assert attempt == (1, None, "no answer within 0.05 s, so it may have arrived")


def test_a_delivery_that_cannot_be_prepared_does_not_hold_up_the_others(scene: Scene) -> None:
    poisoned = add_delivery(scene)
    others = [add_delivery(scene) for _ in range(7)]

    def fail(delivery: ClaimedDelivery) -> None:
        if delivery.id == poisoned:
            raise ValueError("a row that cannot be rendered")

    channel = FakeChannel(on_prepare=fail, concurrency_per_target=8, retry_delays_seconds=())

    with delivering(scene, channel):
        eventually(lambda: all(state_of(scene, each) == DeliveryState.DELIVERED for each in others))
        eventually(lambda: state_of(scene, poisoned) == DeliveryState.DEAD)

    assert [len(attempts_of(scene, each)) for each in others] == [1] * 7


def test_two_deliverers_never_send_the_same_row(scene: Scene) -> None:
    people = [add_person(scene) for _ in range(5)]
    for number in range(300):
        add_delivery(scene, user=people[number % 5], is_merged=number % 3 == 0)
    channels = [FakeChannel(), FakeChannel()]

    with delivering(scene, channels[0]), delivering(scene, channels[1]):
        eventually(lambda: scene.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")[0][0] == 300)

    sent = [each.id for channel in channels for delivery in channel.sent for each in delivery.merged]
    assert len(sent) == len(set(sent)) == 300


def test_the_claims_of_a_dead_process_are_taken_over_and_counted(database: Database, scene: Scene) -> None:
    delivery = add_delivery(scene)
    dying_process(database, "os._exit(9)")
    assert scene.rows("SELECT state FROM deliveries WHERE claimed_by IS NOT NULL") == [(DeliveryState.PENDING,)]
    channel = FakeChannel()

    with delivering(scene, channel, lease_seconds=0):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)

    unknown, delivered = attempts_of(scene, delivery)
    assert unknown == (1, None, "the process that was sending it ended, so it may have arrived")
    assert delivered == (2, 250, None)


def test_the_claims_of_a_live_process_are_not_taken_over(scene: Scene) -> None:
    slow = add_delivery(scene)
    holding = FakeChannel(hanging=frozenset({key_of(scene)}))
    with delivering(scene, holding):
        eventually(lambda: holding.sent)
        other = add_delivery(scene)
        second = FakeChannel()

        with delivering(scene, second, lease_seconds=0):
            eventually(lambda: second.sent or len(holding.sent) > 1)

    assert slow not in second.sent_ids()
    assert [*holding.sent_ids(), *second.sent_ids()].count(other) == 1


def test_what_is_under_way_when_the_process_stops_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.deliver.deliverer.STOP_SECONDS", 0.1)
    delivery = add_delivery(scene)
    stopped = FakeChannel(hanging=frozenset({key_of(scene)}))
    with delivering(scene, stopped):
        eventually(lambda: stopped.sent)

    channel = FakeChannel()
    with delivering(scene, channel, lease_seconds=0):
        eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)

    assert [number for number, *_ in attempts_of(scene, delivery)] == [1, 2]


def test_a_failure_of_the_database_while_recording_does_not_send_twice(scene: Scene) -> None:
    delivery = add_delivery(scene)
    channel = FakeChannel()
    with scene.engine.connect() as blocking:
        blocking.exec_driver_sql("LOCK TABLE delivery_attempts IN ACCESS EXCLUSIVE MODE")
        with delivering(scene, channel):
            eventually(lambda: channel.sent)
            blocking.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tocsin-deliverer' AND wait_event_type = 'Lock'"
            )
            blocking.rollback()
            eventually(lambda: state_of(scene, delivery) == DeliveryState.DELIVERED)

    assert channel.sent_ids() == [delivery]


def test_the_cost_of_a_claim_depends_on_the_targets_and_not_on_what_waits(scene: Scene) -> None:
    targets = 20
    add_many(scene, 300, "email", due_in="-1 hour", targets=targets)
    small = claim_buffers(scene)
    add_many(scene, 20_000, "email", due_in="1 day", targets=targets)
    add_many(scene, 20_000, "email", due_in="-1 hour", targets=targets)
    add_many(scene, 20_000, "chat", due_in="-1 hour", targets=targets)

    large = claim_buffers(scene)

    assert large <= 4 * small


# --- helpers ---------------------------------------------------------------------------------------------------------


@contextmanager
def delivering(scene: Scene, channel: FakeChannel, **options: Any) -> Iterator[Deliverer]:
    url = scene.engine.url.render_as_string(hide_password=False)
    deliverer = Deliverer(url, [channel], **options)
    deliverer.start()
    try:
        yield deliverer
    finally:
        deliverer.stop()


def add_many(scene: Scene, count: int, channel: str, *, due_in: str, targets: int) -> None:
    """Insert deliveries to several targets with a single statement."""
    with scene.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO deliveries (id, organization_id, channel, target_key, due_at)"
            " SELECT gen_random_uuid(), %(organization)s, %(channel)s, %(channel)s || ':' || mod(n, %(targets)s),"
            " now() + %(due_in)s::interval FROM generate_series(1, %(count)s) AS n",
            {
                "organization": scene.organization,
                "channel": channel,
                "targets": targets,
                "due_in": due_in,
                "count": count,
            },
        )


def claim_buffers(scene: Scene) -> int:
    """Return how many buffers a claim reads, without the claim taking effect."""
    parameters = {
        "process": new_id(),
        "channels": ["email"],
        "channel_limits": [4],
        "targets": [],
        "target_limits": [],
        "most": SLOTS,
    }
    with scene.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim._CLAIM}", parameters)
        root = plan.scalar_one()[0]["Plan"]
        connection.rollback()
    return int(root["Shared Hit Blocks"] + root["Shared Read Blocks"])


def dying_process(database: Database, ending: str) -> None:
    """Run a process that claims what is due, and then ends in the middle of the first message."""
    program = textwrap.dedent(f"""
        import asyncio, os, sys
        from tests.delivery.fake_channel import FakeChannel
        from workers.deliver.deliverer import Deliverer

        class Dying(FakeChannel):
            async def send(self, delivery, message):
                {ending}

        deliverer = Deliverer(sys.argv[1], [Dying()])
        deliverer.start()
        deliverer._thread.join()
    """)
    url = database.engine.url.render_as_string(hide_password=False)
    ended = subprocess.run([sys.executable, "-c", program, url], env=os.environ, timeout=60, check=False)
    assert ended.returncode == 9


def add_person(scene: Scene) -> int:
    with scene.engine.begin() as connection:
        return a_member(connection, scene.organization, teams=[scene.team])


def add_delivery(scene: Scene, *, user: int | None = None, due_at: datetime = PAST, **facts: Any) -> UUID:
    """Insert a delivery of a comment to a person, with the decision about it; return its id."""
    user = user or add_person(scene)
    activity = scene.post_comment()
    id_ = new_id()
    with scene.engine.begin() as connection:
        connection.execute(
            insert(deliveries).values(
                **{
                    "id": id_,
                    "organization_id": scene.organization,
                    "incident_id": scene.incident,
                    "activity_id": activity,
                    "channel": "email",
                    "user_id": user,
                    "reason": "mention",
                    "target_key": key_of(scene),
                    "due_at": due_at,
                }
                | facts
            )
        )
        decision = NewDecision(
            activity, user, "email", scene.incident, new_id(), DecisionOutcome.PENDING, "mention", ""
        )
        insert_decisions(connection, [decision], "")
    return id_


def delete_comment(scene: Scene, delivery: UUID) -> None:
    """Delete the comment that a delivery is about."""
    with scene.engine.begin() as connection:
        connection.exec_driver_sql(
            "DELETE FROM incident_activities a USING deliveries d WHERE a.id = d.activity_id AND d.id = %(id)s",
            {"id": delivery},
        )


def key_of(scene: Scene) -> str:
    return target_key("email", scene.organization)


def state_of(scene: Scene, delivery: UUID) -> str:
    return str(scene.rows(f"SELECT state FROM deliveries WHERE id = '{delivery}'")[0].state)


def attempts_of(scene: Scene, delivery: UUID) -> list[tuple[int, int | None, str | None]]:
    rows = scene.rows(
        f"SELECT number, status, error FROM delivery_attempts WHERE delivery_id = '{delivery}' ORDER BY number"
    )
    return [(row.number, row.status, row.error) for row in rows]


def decision_of(scene: Scene, delivery: UUID) -> tuple[str, str, str]:
    (row,) = scene.rows(
        "SELECT n.outcome, n.rule, n.detail FROM notification_decisions n"
        f" JOIN deliveries d USING (activity_id, user_id) WHERE d.id = '{delivery}'"
    )
    return row.outcome, row.rule, row.detail
