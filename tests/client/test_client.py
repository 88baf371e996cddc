"""The client posts commands singly and in bulk, waits for outcomes, and applies each once over faulty connections."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import (
    CommandRecords,
    DeleteComment,
    EditComment,
    Failed,
    MarkSeen,
    NotApplied,
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
from tocsin_client._protocol import Flow, FlowRun, HttpProtocol, NoResponse, Pause, Request, Response

from models.operations.holds import place_hold
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


def test_the_error_of_a_command_without_an_endpoint_names_its_fields_as_any_other(mem: Any) -> None:
    with pytest.raises(Refused) as refused:
        mem.post(RawCommand("comment.post", {"incident": 1, "comment": ""}))

    assert refused.value.field_errors == {"comment": ["This field may not be blank."]}


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


# --- time limits -----------------------------------------------------------------------------------------------


class Clock:
    """A clock that moves only when a flow pauses or the server waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def run(self, flow: Flow[Any], respond: Callable[[Request], Response | NoResponse]) -> Any:
        """Run a flow whose requests are answered by `respond`."""
        run = FlowRun(flow)
        while run.step:
            if isinstance(run.step, Pause):
                self.now += run.step.seconds
                run.resume(None)
            else:
                run.resume(respond(run.step))
        return run.result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def protocol(clock: Clock) -> HttpProtocol:
    return HttpProtocol("dev-mem", "acme", patience_seconds=60, clock=clock)


def refuse_connection(_: Request) -> NoResponse:
    return NoResponse("ConnectError: refused")


def test_wait_limits_a_call_that_no_server_accepts(clock: Clock, protocol: HttpProtocol) -> None:
    with pytest.raises(Unreachable):
        clock.run(protocol.post(LOOK, key=None, wait=2), refuse_connection)
    assert clock.now <= 1002

    with pytest.raises(Unreachable):
        clock.run(protocol.bulk([LOOK], key=None, wait=2), refuse_connection)
    assert clock.now <= 1004


def test_patience_limits_a_call_that_may_wait_longer(clock: Clock, protocol: HttpProtocol) -> None:
    with pytest.raises(Unreachable):
        clock.run(protocol.post(LOOK, key=None, wait=600), refuse_connection)

    assert 1050 < clock.now <= 1060


def test_a_retry_asks_the_server_to_wait_only_for_the_rest_of_the_time(clock: Clock, protocol: HttpProtocol) -> None:
    sent: list[Request] = []

    def respond(request: Request) -> Response:
        sent.append(request)
        if len(sent) == 1:
            return Response(503, {"retry-after": "12"}, None)
        return Response(201, {"command-id": "1"}, {})

    clock.run(protocol.post(LOOK, key="mine", wait=20), respond)

    assert sent[0].headers["Prefer"] == "wait=20, handling=strict"
    assert (sent[1].headers["Prefer"], sent[1].timeout) == ("wait=8, handling=strict", 18)
    assert sent[1].headers["Idempotency-Key"] == sent[0].headers["Idempotency-Key"] == "mine"


def test_a_wait_for_an_accepted_command_outlasts_an_outage_and_ends_in_time(
    clock: Clock, protocol: HttpProtocol
) -> None:
    with pytest.raises(TimedOut) as timed_out:
        clock.run(protocol.wait("c-1", until=clock() + 300), refuse_connection)

    assert 1280 < clock.now <= 1300
    assert timed_out.value.command_ids == ["c-1"]
    assert "refused" in str(timed_out.value.__cause__)


def test_a_wait_for_a_held_command_does_not_poll_continuously(clock: Clock, protocol: HttpProtocol) -> None:
    polls: list[Request] = []

    def respond(request: Request) -> Response:
        polls.append(request)
        return Response(200, {}, A_HELD_COMMAND)

    with pytest.raises(TimedOut):
        clock.run(protocol.wait("c-1", until=clock() + 120), respond)

    assert clock.now == 1120
    assert len(polls) < 30


A_HELD_COMMAND: Final[dict[str, Any]] = {
    "id": "c-1", "type": "comment.post", "status": "accepted", "organization": "acme",
    "acceptedAt": "2026-11-23T11:35:57Z", "finishedAt": None, "attempts": 0,
    "heldBy": {
        "hold": "7", "scope": "queue", "target": "commands", "reason": "Maintenance", "since": "2026-11-23T11:00:00Z",
        "releaseAt": None,
    },
    "outcome": None, "error": None,
}  # fmt: skip


def test_a_held_command_shows_its_hold(mem: Any, ledger: Engine, worker: Worker) -> None:
    with ledger.begin() as connection:
        place_hold(
            connection,
            scope="type",
            target="comment.post",
            reason="Maintenance",
            by="test",
            known_types=frozenset({"comment.post"}),
        )

    with pytest.raises(TimedOut):
        mem.post(LOOK, wait=0)
    [record] = mem.commands()

    held = mem.record(record).held_by
    assert (held.scope, held.target, held.reason, held.release_at) == ("type", "comment.post", "Maintenance", None)


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


def test_commands_of_a_bulk_that_were_not_applied_can_be_raised(mem: Any, busy_worker: Worker, ledger: Engine) -> None:
    assert mem.bulk([LOOK, LOOK], wait=30).raise_for_refused()[1].status == "applied"
    records = mem.bulk([LOOK, PostComment(99, "Anybody?"), LOOK], wait=30)

    with pytest.raises(NotApplied, match="1 of 3 commands were not applied; the first is command 1: 404") as error:
        records.raise_for_refused()

    assert error.value.errors.keys() == {1}
    assert error.value.errors[1].command_id == records[1].id


def test_dead_commands_of_a_bulk_are_raised_but_not_unfinished_ones(mem: Any, worker: Worker, ledger: Engine) -> None:
    records = mem.bulk([LOOK, LOOK]).raise_for_refused()
    with ledger.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE commands SET state = 'dead', finished_at = now(), error = 'It broke.' WHERE id = %s",
            (records[0].id,),
        )

    with pytest.raises(NotApplied, match=r"It broke\.") as error:
        CommandRecords(map(mem.record, records)).raise_for_refused()

    assert list(error.value.errors) == [0]
    assert isinstance(error.value.errors[0], Failed)


# --- own commands ----------------------------------------------------------------------------------------------


def test_the_callers_commands_are_listed_over_all_pages(mem: Any, worker: Worker) -> None:
    applied = mem.submit(LOOK)
    worker.apply()
    waiting = mem.bulk([LOOK] * 119)
    seen = mem.submit(MarkSeen(1))

    ids = [record.id for record in mem.commands()]

    assert ids == [seen.id, *(record.id for record in reversed(waiting)), applied.id]
    assert [record.id for record in mem.commands(states=["applied"])] == [applied.id]
    assert [record.id for record in mem.commands(types=["incident.mark_seen", "trigger.delete"])] == [seen.id]


def test_a_waiting_command_can_be_cancelled_even_over_a_faulty_connection(
    connect: Connect, gateway: Gateway, worker: Worker, ledger: Engine
) -> None:
    record = connect(gateway.url).submit(LOOK)

    with faulty_proxy(gateway.url, CUT_OFF) as proxy:
        cancelled = connect(proxy.url).cancel(record)
        assert proxy.connections[0] == CUT_OFF
    worker.apply()

    assert (cancelled.id, cancelled.status) == (record.id, "discarded")
    assert comments(ledger) == []


def test_an_applied_command_cannot_be_cancelled(mem: Any, busy_worker: Worker) -> None:
    outcome = mem.post(LOOK)

    with pytest.raises(Refused, match="409: The command has already been applied"):
        mem.cancel(outcome.command_id)


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
    assert lenient.read("members/", querry="ana")


def test_a_read_with_an_unknown_query_parameter_is_refused(mem: Any) -> None:
    with pytest.raises(Refused) as refusal:
        mem.read("members/", querry="ana")

    assert refusal.value.field_errors.keys() == {"querry"}


class Misspelt(PostComment):
    """A comment with a field that the server does not know."""

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "mention": ["user:12"]}
