"""A mail server that is down for a while costs no mail, and the log of attempts says what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.builders import a_member
from tests.delivery.conftest import Scene
from tests.delivery.everywhere import MailServer
from tests.waiting import eventually
from workers.deliver import retry
from workers.deliver.deliverer import Deliverer

MAILS = 12


@pytest.fixture
def server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


def post_and_plan(scene: Scene) -> None:
    """Post a comment that mentions new people, and make the mails due at once."""
    with scene.engine.begin() as connection:
        people = [a_member(connection, scene.organization) for _ in range(MAILS)]
    scene.post_comment(mentioning=people)
    scene.plan()
    with scene.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")


def count(scene: Scene, condition: str) -> int:
    return int(scene.rows(f"SELECT count(*) FROM deliveries WHERE {condition}")[0][0])


def test_after_an_outage_of_the_mail_server_every_mail_has_arrived_once(
    scene: Scene, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "OPEN_SECONDS", (0.05,))
    channel = server.channel()
    # An outage must not outlast the retries, which take two days outside tests.
    channel.retry_delays_seconds = (0.2,) * 1000
    server.start()
    deliverer = Deliverer(scene.engine.url.render_as_string(hide_password=False), [channel])

    post_and_plan(scene)
    deliverer.start()
    try:
        eventually(lambda: count(scene, "state = 'delivered'") == MAILS)
        server.stop()
        post_and_plan(scene)
        deliverer.wake()
        # More failures than open the circuit breaker.
        eventually(lambda: scene.rows("SELECT count(*) FROM delivery_attempts WHERE error IS NOT NULL")[0][0] > 8)
        server.start()
        eventually(lambda: count(scene, "state = 'delivered'") == 2 * MAILS)
    finally:
        deliverer.stop()

    ids = [row.id for row in scene.rows("SELECT id FROM deliveries")]
    assert Counter(server.message_ids()) == Counter(ids)
    attempts = scene.rows(
        "SELECT d.attempts, array_agg(a.number ORDER BY a.number) AS numbers, array_agg(a.status ORDER BY a.number)"
        " AS statuses, array_agg(a.error ORDER BY a.number) AS errors"
        " FROM deliveries d JOIN delivery_attempts a ON a.delivery_id = d.id GROUP BY d.id"
    )
    assert len(attempts) == 2 * MAILS
    for row in attempts:
        assert list(row.numbers) == list(range(1, row.attempts + 1))
        *failed, last = zip(row.statuses, row.errors, strict=True)
        assert last == (250, None)
        for status, error in failed:
            assert status is None
            assert error.startswith("the mail server cannot be used: ")
    assert sum(row.attempts > 1 for row in attempts) >= 1
    assert {row.outcome for row in scene.rows("SELECT outcome FROM notification_decisions")} == {"delivered"}
