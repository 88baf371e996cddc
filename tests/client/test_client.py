"""What a service does with the client: post, wait, ask for many, and get the same effect over bad connections."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import (
    DeleteComment,
    EditComment,
    Failed,
    MarkSeen,
    OpenIncident,
    PlainOrder,
    PostComment,
    ReadNotifications,
    Refused,
    SetStatus,
    Subscribe,
    TimedOut,
    Unreachable,
    Unsubscribe,
)

from tests.client.conftest import Connect
from tests.client.rough_road import BUSY, CUT, GONE, SLOW_DOWN, a_road
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, Worker

LOOK = PostComment(1, "Look at this.")


def comments(ledger: Engine) -> list[str]:
    with ledger.connect() as connection:
        rows = connection.exec_driver_sql("SELECT comment FROM incident_activities WHERE type = 3 ORDER BY id")
        return [row.comment for row in rows]


# --- one order -------------------------------------------------------------------------------------------------


def test_posting_gives_the_outcome(mem: Any, busy_worker: Worker) -> None:
    outcome = mem.post(PostComment(1, "Ana?", mentions=["user:12"]))

    assert (outcome.status, outcome.body["comment"]) == (201, "Ana?")
    assert mem.command(outcome.command_id).outcome.body == outcome.body


def test_an_order_without_a_route_of_its_own_goes_among_the_commands(mem: Any, busy_worker: Worker) -> None:
    mem.post(LOOK)

    outcome = mem.post(PlainOrder("comment.post", {"incident": 1, "comment": "Again."}))

    assert (outcome.status, outcome.body["comment"]) == (201, "Again.")


def test_an_incident_can_be_addressed_by_the_key_it_was_opened_with(
    connect: Connect, gateway: Gateway, busy_worker: Worker
) -> None:
    bot = connect(gateway.url, "dev-bot")
    opened = bot.post(OpenIncident("Checkout is slow", ["p1"], status=10, dedup_key="checkout"))

    said = connect(gateway.url, "dev-bot", act_as=11).post(PostComment("dedup:checkout", "Looking."))

    assert (said.status, said.body["incidentIdentifier"]) == (201, opened.body["identifier"])
    assert said.body["user"]["id"] == "11"


def test_sending_waits_for_nothing_and_waiting_comes_later(mem: Any, worker: Worker) -> None:
    command = mem.send(LOOK)
    assert (command.type, command.status, command.is_final) == ("comment.post", "accepted", False)

    with pytest.raises(TimedOut) as late:
        mem.wait(command, seconds=0)
    worker.apply()

    assert late.value.command_ids == [command.id]
    assert mem.wait(command).status == 201
    assert mem.command(command).status == "applied"


def test_what_takes_longer_than_one_waits_is_accepted_all_the_same(mem: Any, worker: Worker) -> None:
    with pytest.raises(TimedOut) as late:
        mem.post(LOOK, wait=0)
    worker.apply()

    assert mem.wait(late.value.command_ids[0]).status == 201


def test_every_order_of_an_incident(mem: Any, busy_worker: Worker) -> None:
    comment = mem.post(LOOK).body["id"]

    answers = [
        mem.post(order)
        for order in (
            MarkSeen(1),
            Subscribe(1),
            EditComment(1, comment, "Look there."),
            DeleteComment(1, comment),
            SetStatus(1, 2, "Done."),
            Unsubscribe(1),
        )
    ]

    assert [answer.status for answer in answers] == [201, 201, 200, 204, 200, 200]
    assert answers[4].body["status"] == 2


def test_reading_gives_the_json_of_an_address(mem: Any) -> None:
    assert mem.read("incidents/1/")["identifier"] == "1"
    assert [member["user"]["username"] for member in mem.read("members/", query="ana")] == ["ana"]


def test_marking_notifications_as_read(mem: Any, busy_worker: Worker) -> None:
    assert mem.post(ReadNotifications(up_to=0)).body == {"read": 0}


# --- no --------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_fields_at_fault(mem: Any) -> None:
    with pytest.raises(Refused) as no:
        mem.post(PostComment(1, ""))

    assert no.value.status == 400
    assert set(no.value.fields) == {"comment"}
    assert no.value.command_id is None


def test_a_refusal_of_an_accepted_command_names_the_command(mem: Any, busy_worker: Worker) -> None:
    with pytest.raises(Refused) as no:
        mem.post(PostComment(99, "Anybody?"))

    assert (no.value.status, no.value.fields) == (404, {})
    assert mem.command(no.value.command_id).status == "rejected"


def test_a_bad_token_is_refused(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused, match="401: Invalid token"):
        connect(gateway.url, "nobody").post(LOOK)


def test_a_server_that_is_elsewhere_is_said_and_not_followed(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused) as no:
        connect(gateway.url).read("incidents/1")

    assert no.value.status in (307, 404)


def test_a_key_that_covers_another_request_is_refused(mem: Any, busy_worker: Worker) -> None:
    mem.post(LOOK, key="mine")

    with pytest.raises(Refused, match="422"):
        mem.post(PostComment(1, "Something else."), key="mine")


def test_a_dead_command_has_failed(mem: Any, ledger: Engine) -> None:
    command = mem.send(LOOK)
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE commands SET state = 'dead', finished_at = now(), error = 'It broke.'")

    with pytest.raises(Failed, match=r"It broke\.") as failed:
        mem.wait(command)

    assert failed.value.command.status == "dead"


def test_nobody_there_is_said_after_a_while_with_the_key_to_repeat_it_with(connect: Connect) -> None:
    nobody = connect("http://127.0.0.1:9", patience_seconds=0.5)

    with pytest.raises(Unreachable, match="ConnectError") as gone:
        nobody.post(LOOK, key="mine")

    assert gone.value.key == "mine"


# --- one effect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [CUT, GONE, BUSY, SLOW_DOWN])
def test_whatever_happens_on_the_road_there_is_one_comment(
    connect: Connect, gateway: Gateway, busy_worker: Worker, ledger: Engine, trouble: str
) -> None:
    with a_road(gateway.url, trouble, trouble) as road:
        outcome = connect(road.url).post(LOOK)

        assert outcome.status == 201
        assert road.taken == [trouble, trouble, None]
    assert comments(ledger) == ["Look at this."]


def test_a_repeated_key_is_answered_as_before(mem: Any, busy_worker: Worker) -> None:
    first, second = mem.post(LOOK, key="mine"), mem.post(LOOK, key="mine")

    assert second.is_replay
    assert (second.command_id, second.body) == (first.command_id, first.body)


# --- many ------------------------------------------------------------------------------------------------------


def test_a_thousand_at_once_over_a_bad_road_each_with_its_result_and_in_order(
    connect: Connect, gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    texts = [f"number {number}" for number in range(999)]
    with a_road(gateway.url, CUT, BUSY) as road:
        orders = [*(PostComment(1, text) for text in texts), PostComment(99, "Anybody?")]
        commands = connect(road.url).bulk(orders, wait=60)

    assert [command.outcome.status for command in commands] == [201] * 999 + [404]
    assert commands[-1].status == "rejected"
    assert comments(ledger) == texts


def test_many_can_be_left_to_themselves(mem: Any, worker: Worker, acme: Acme) -> None:
    commands = mem.bulk([LOOK, LOOK])

    assert [command.status for command in commands] == ["accepted"] * 2
    with pytest.raises(TimedOut) as late:
        mem.bulk([LOOK], wait=0.01)
    assert len(late.value.command_ids) == 1


def test_a_wrong_item_is_named_by_its_place(mem: Any) -> None:
    with pytest.raises(Refused) as no:
        mem.bulk([LOOK, PlainOrder("no.such", {})])

    assert set(no.value.fields["commands"]) == {"1"}
