"""The client posts commands singly and in bulk, waits for outcomes, and applies each once over faulty connections."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import (
    DeleteComment,
    EditComment,
    Failed,
    MarkSeen,
    OpenIncident,
    PostComment,
    RawCommand,
    ReadNotifications,
    Refused,
    SetStatus,
    Subscribe,
    TimedOut,
    Unreachable,
    Unsubscribe,
)

from tests.client.conftest import Connect
from tests.client.faulty_proxy import CUT_OFF, DROPPED, RATE_LIMITED, UNAVAILABLE, faulty_proxy
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, Worker
from tests.http.test_notifications import a_decision, a_notification

LOOK = PostComment(1, "Look at this.")


def comments(ledger: Engine) -> list[str]:
    with ledger.connect() as connection:
        rows = connection.exec_driver_sql("SELECT comment FROM incident_activities WHERE type = 3 ORDER BY id")
        return [row.comment for row in rows]


# --- one command -----------------------------------------------------------------------------------------------


def test_post_returns_the_outcome(mem: Any, busy_worker: Worker) -> None:
    outcome = mem.post(PostComment(1, "Ana?", mentions=["user:12"]))

    assert (outcome.status, outcome.body["comment"]) == (201, "Ana?")
    assert mem.record(outcome.command_id).outcome.body == outcome.body


def test_a_command_without_an_endpoint_of_its_own_is_posted_in_bulk(mem: Any, busy_worker: Worker) -> None:
    mem.post(LOOK)

    outcome = mem.post(RawCommand("comment.post", {"incident": 1, "comment": "Again."}))

    assert (outcome.status, outcome.body["comment"]) == (201, "Again.")


def test_a_command_can_identify_its_incident_by_deduplication_key(
    connect: Connect, gateway: Gateway, busy_worker: Worker
) -> None:
    bot = connect(gateway.url, "dev-bot")
    opened = bot.post(OpenIncident("Checkout is slow", ["p1"], status=10, dedup_key="checkout"))

    comment = connect(gateway.url, "dev-bot", act_as=11).post(PostComment("dedup:checkout", "Looking."))

    assert (comment.status, comment.body["incidentIdentifier"]) == (201, opened.body["identifier"])
    assert comment.body["user"]["id"] == "11"


def test_submit_returns_at_once_and_the_outcome_can_be_awaited_later(mem: Any, worker: Worker) -> None:
    record = mem.submit(LOOK)
    assert (record.type, record.status, record.is_final) == ("comment.post", "accepted", False)

    with pytest.raises(TimedOut) as timed_out:
        mem.wait(record, seconds=0)
    worker.apply()

    assert timed_out.value.command_ids == [record.id]
    assert mem.wait(record).status == 201
    assert mem.record(record).status == "applied"


def test_a_command_is_still_applied_if_waiting_for_its_outcome_times_out(mem: Any, worker: Worker) -> None:
    with pytest.raises(TimedOut) as timed_out:
        mem.post(LOOK, wait=0)
    worker.apply()

    assert mem.wait(timed_out.value.command_ids[0]).status == 201


def test_every_incident_command_is_applied(mem: Any, busy_worker: Worker) -> None:
    comment = mem.post(LOOK).body["id"]

    outcomes = [
        mem.post(command)
        for command in (
            MarkSeen(1),
            Subscribe(1),
            EditComment(1, comment, "Look there."),
            DeleteComment(1, comment),
            SetStatus(1, 2, "Done."),
            Unsubscribe(1),
        )
    ]

    assert [outcome.status for outcome in outcomes] == [201, 201, 200, 204, 200, 200]
    assert outcomes[4].body["status"] == 2


def test_read_returns_a_resource_as_decoded_json(mem: Any) -> None:
    assert mem.read("incidents/1/")["identifier"] == "1"
    assert [member["user"]["username"] for member in mem.read("members/", query="ana")] == ["ana"]


def test_notifications_can_be_marked_as_read(mem: Any, busy_worker: Worker) -> None:
    assert mem.post(ReadNotifications(up_to=0)).body == {"read": 0}


def test_a_notification_can_be_explained(connect: Connect, gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    activity = a_notification(ledger, comment="Ana?")
    event = a_decision(ledger, activity)
    ana = connect(gateway.url, "dev-ana")
    [item] = ana.read("notifications/")

    [decision] = ana.explain(item["id"])

    assert (decision.activity, decision.event, decision.rule) == (str(activity), event, "mention")
    assert decision.explanation == "Notified in the inbox: the comment mentions this person."
    assert decision.at.tzinfo is not None


def test_preferences_are_read_and_replaced(mem: Any, busy_worker: Worker) -> None:
    read = mem.preferences()

    outcome = mem.replace_preferences(
        read.document | {"digest": {"every": "hour", "at": "08:00"}}, version=read.version
    )

    assert (outcome.status, outcome.body) == (200, mem.preferences().document)
    assert outcome.body["digest"] == {"every": "hour", "at": "08:00"}
    with pytest.raises(Refused) as refused:
        mem.replace_preferences({}, version=read.version)
    assert refused.value.status == 412


def test_an_incident_is_muted_and_unmuted(mem: Any, busy_worker: Worker) -> None:
    muted = mem.mute(1, until=datetime(2999, 1, 1, tzinfo=UTC))
    again = mem.mute(1)
    unmuted = mem.unmute(1)

    assert (muted.status, muted.body) == (201, {"until": "2999-01-01T00:00:00Z"})
    assert (again.status, again.body, unmuted.status) == (200, {"until": None}, 204)


# --- failures --------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_invalid_fields(mem: Any) -> None:
    with pytest.raises(Refused) as refused:
        mem.post(PostComment(1, ""))

    assert refused.value.status == 400
    assert set(refused.value.field_errors) == {"comment"}
    assert refused.value.command_id is None


def test_the_refusal_of_an_accepted_command_contains_the_command_id(mem: Any, busy_worker: Worker) -> None:
    with pytest.raises(Refused) as refused:
        mem.post(PostComment(99, "Anybody?"))

    assert (refused.value.status, refused.value.field_errors) == (404, {})
    assert mem.record(refused.value.command_id).status == "rejected"


def test_a_bad_token_is_refused(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused, match="401: Invalid token"):
        connect(gateway.url, "nobody").post(LOOK)


def test_a_redirect_raises_refused_and_is_not_followed(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused) as refused:
        connect(gateway.url).read("incidents/1")

    assert refused.value.status in (307, 404)


def test_reusing_the_idempotency_key_of_another_request_is_refused(mem: Any, busy_worker: Worker) -> None:
    mem.post(LOOK, key="mine")

    with pytest.raises(Refused, match="422"):
        mem.post(PostComment(1, "Something else."), key="mine")


def test_waiting_for_a_dead_command_raises_failed(mem: Any, ledger: Engine) -> None:
    record = mem.submit(LOOK)
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE commands SET state = 'dead', finished_at = now(), error = 'It broke.'")

    with pytest.raises(Failed, match=r"It broke\.") as failed:
        mem.wait(record)

    assert failed.value.command == mem.record(record)


def test_the_error_for_an_unreachable_server_contains_the_idempotency_key(connect: Connect) -> None:
    client = connect("http://127.0.0.1:9", patience_seconds=0.5)

    with pytest.raises(Unreachable, match="ConnectError") as unreachable:
        client.post(LOOK, key="mine")

    assert unreachable.value.key == "mine"


# --- applied once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [CUT_OFF, DROPPED, UNAVAILABLE, RATE_LIMITED])
def test_a_post_over_a_faulty_connection_is_applied_once(
    connect: Connect, gateway: Gateway, busy_worker: Worker, ledger: Engine, fault: str
) -> None:
    with faulty_proxy(gateway.url, fault, fault) as proxy:
        outcome = connect(proxy.url).post(LOOK)

        assert outcome.status == 201
        assert proxy.connections == [fault, fault, None]
    assert comments(ledger) == ["Look at this."]


def test_a_repeated_key_returns_the_first_outcome_as_a_replay(mem: Any, busy_worker: Worker) -> None:
    first, second = mem.post(LOOK, key="mine"), mem.post(LOOK, key="mine")

    assert second.is_replay
    assert (second.command_id, second.body) == (first.command_id, first.body)


# --- bulk ------------------------------------------------------------------------------------------------------


def test_bulk_over_a_faulty_connection_applies_every_command_once_and_in_order(
    connect: Connect, gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    texts = [f"number {number}" for number in range(999)]
    with faulty_proxy(gateway.url, CUT_OFF, UNAVAILABLE) as proxy:
        commands = [*(PostComment(1, text) for text in texts), PostComment(99, "Anybody?")]
        records = connect(proxy.url).bulk(commands, wait=60)

    assert [record.outcome.status for record in records] == [201] * 999 + [404]
    assert records[-1].status == "rejected"
    assert comments(ledger) == texts


def test_bulk_without_wait_returns_accepted_commands(mem: Any, worker: Worker, acme: Acme) -> None:
    records = mem.bulk([LOOK, LOOK])

    assert [record.status for record in records] == ["accepted"] * 2
    with pytest.raises(TimedOut) as timed_out:
        mem.bulk([LOOK], wait=0.01)
    assert len(timed_out.value.command_ids) == 1


def test_the_error_for_an_invalid_bulk_item_contains_its_index(mem: Any) -> None:
    with pytest.raises(Refused) as refused:
        mem.bulk([LOOK, RawCommand("no.such", {})])

    assert set(refused.value.field_errors["commands"]) == {"1"}


# --- strict handling -------------------------------------------------------------------------------------------


def test_a_command_with_an_unknown_field_is_refused(mem: Any, gateway: Gateway, ledger: Engine) -> None:
    with pytest.raises(Refused) as refusal:
        mem.post(Misspelt(1, "Look at this."))

    assert (refusal.value.status, refusal.value.field_errors) == (400, {"mention": ["Unknown field."]})
    assert comments(ledger) == []


def test_a_client_that_is_not_strict_lets_the_server_ignore_unknown_fields(
    connect: Connect, gateway: Gateway, busy_worker: Worker
) -> None:
    lenient = connect(gateway.url, strict=False)

    assert lenient.post(Misspelt(1, "Look at this.")).status == 201


class Misspelt(PostComment):
    """A comment with a field that the server does not know."""

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "mention": ["user:12"]}
