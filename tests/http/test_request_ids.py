"""X-Request-Id and traceparent, from the request to the ledger and the events, and the log lines about requests."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from models.messaging.command_ledger import commands
from models.messaging.outbox import events
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker
from tests.waiting import eventually

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ASYNC = {"Prefer": "respond-async"}


@pytest.mark.parametrize("path", [COMMENTS, f"{ACME}/incidents/999/", "/livez", "/nothing/here", "/openapi.json"])
@pytest.mark.parametrize("given", ["r", "a" * 128, "a/b=c,d;~!"])
def test_a_valid_request_id_is_echoed_on_every_response(gateway: Gateway, path: str, given: str) -> None:
    response = gateway.get(path, X_Request_Id=given)

    assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "a" * 129, "two words", "tab\there", "ä"])
def test_an_invalid_request_id_is_replaced(gateway: Gateway, given: str) -> None:
    with gateway.client() as client:
        response = client.get("/livez", headers=[(b"X-Request-Id", given.encode("latin-1"))])

    assert UUID(response.headers["x-request-id"])


def test_a_repeated_request_id_is_replaced(gateway: Gateway) -> None:
    with gateway.client() as client:
        response = client.get("/livez", headers=[("X-Request-Id", "one"), ("X-Request-Id", "two")])

    assert UUID(response.headers["x-request-id"])


def test_each_request_without_an_id_gets_an_id_of_its_own(gateway: Gateway) -> None:
    ids = {gateway.get("/livez").headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


def test_a_command_keeps_its_request_id_and_traceparent(gateway: Gateway, ledger: Engine) -> None:
    posted = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="req-1", Traceparent=TRACEPARENT, **ASYNC)

    assert trace_of(ledger, posted.headers["command-id"]) == ("req-1", TRACEPARENT)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        f"ff{TRACEPARENT[2:]}",
        f"{TRACEPARENT}-more",
    ],
)
def test_a_malformed_traceparent_is_dropped(gateway: Gateway, ledger: Engine, given: str) -> None:
    posted = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="req-1", Traceparent=given, **ASYNC)

    assert trace_of(ledger, posted.headers["command-id"]) == ("req-1", None)


def test_a_traceparent_of_a_later_version_may_be_longer(gateway: Gateway, ledger: Engine) -> None:
    later = f"01{TRACEPARENT[2:]}-what-comes-later"

    posted = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="req-1", Traceparent=later, **ASYNC)

    assert trace_of(ledger, posted.headers["command-id"]) == ("req-1", later)


def test_a_repeated_request_does_not_change_the_request_id_of_the_first(gateway: Gateway, ledger: Engine) -> None:
    first = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="first", Idempotency_Key="k", **ASYNC)
    second = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="second", Idempotency_Key="k", **ASYNC)

    assert second.headers["command-id"] == first.headers["command-id"]
    assert second.headers["x-request-id"] == "second"
    assert trace_of(ledger, first.headers["command-id"]) == ("first", None)


def test_all_commands_of_a_bulk_request_share_its_request_id(gateway: Gateway, ledger: Engine) -> None:
    items = [{"type": "comment.post", "incident": 1, "comment": text} for text in ("One", "Two")]

    accepted = gateway.post(f"{ACME}/commands/", {"commands": items}, X_Request_Id="bulk-1").json()["commands"]

    assert [trace_of(ledger, each["id"]) for each in accepted] == [("bulk-1", None)] * 2


def test_events_carry_the_request_id_and_the_traceparent(gateway: Gateway, worker: Worker, ledger: Engine) -> None:
    gateway.post(COMMENTS, A_COMMENT, X_Request_Id="req-1", Traceparent=TRACEPARENT, **ASYNC)
    worker.apply()

    with ledger.connect() as connection:
        written = connection.execute(select(events.c.request_id, events.c.body)).all()
    assert {row.request_id for row in written} == {"req-1"}
    assert {row.body["traceparent"] for row in written} == {TRACEPARENT}


def test_an_event_without_a_trace_has_no_traceparent(gateway: Gateway, worker: Worker, ledger: Engine) -> None:
    gateway.post(COMMENTS, A_COMMENT, **ASYNC)
    worker.apply()

    with ledger.connect() as connection:
        assert all("traceparent" not in body for body in connection.execute(select(events.c.body)).scalars())


def test_each_request_logs_one_line_with_its_details(gateway: Gateway) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        posted = gateway.post(COMMENTS, A_COMMENT, X_Request_Id="logged", **ASYNC)
        gateway.get("/nothing/here", X_Request_Id="lost")

        eventually(lambda: len(requests_in(lines)) == 2)

    logged, lost = requests_in(lines)
    assert logged.pop("ms") > 0
    assert logged == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "route": "/api/0/organizations/{organization}/incidents/{identifier}/comments/",
        "status": 202,
        "caller": "user:11",
        "command_id": posted.headers["command-id"],
        "commands": 1,
        "request_id": "logged",
    }
    assert (lost["route"], lost["status"], lost["caller"], lost["command_id"]) == (None, 404, None, None)


def test_a_bulk_request_logs_one_line_with_its_number_of_commands(gateway: Gateway) -> None:
    items = [{"type": "comment.post", "incident": 1, "comment": text} for text in ("One", "Two")]

    with capture_logs(processors=[merge_contextvars]) as lines:
        gateway.post(f"{ACME}/commands/", {"commands": items})
        eventually(lambda: len(requests_in(lines)) == 1)

    [line] = requests_in(lines)
    assert (line["commands"], line["command_id"]) == (2, None)


def requests_in(lines: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    """Return the log lines about requests."""
    return [line for line in lines if line["event"] == "request"]


def trace_of(ledger: Engine, command_id: str) -> tuple[str | None, str | None]:
    """Return the request id and the traceparent that the ledger stores with a command."""
    with ledger.connect() as connection:
        row = connection.execute(
            select(commands.c.request_id, commands.c.traceparent).where(commands.c.id == UUID(command_id))
        ).one()
    return row.request_id, row.traceparent


def test_an_accepted_batch_is_not_logged_under_the_id_of_one_of_its_requests(gateway: Gateway) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        for request_id in ("first", "second"):
            gateway.post(COMMENTS, A_COMMENT, X_Request_Id=request_id, **ASYNC)

    batches = [line for line in lines if line["event"] == "commands.accepted"]
    assert [line["request_ids"] for line in batches] == [["first"], ["second"]]
    assert all("request_id" not in line for line in batches)


def test_an_unexpected_error_outside_the_endpoints_returns_500_with_the_request_id(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(type(gateway.app.state.container.metrics), "render", fail)

    response = gateway.get("/metrics", X_Request_Id="broken")

    assert (response.status_code, response.headers["x-request-id"]) == (500, "broken")


def test_a_replayed_request_logs_no_accepted_batch(gateway: Gateway) -> None:
    gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="k", **ASYNC)

    with capture_logs() as lines:
        gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="k", **ASYNC)

    assert [line["event"] for line in lines if line["event"] == "commands.accepted"] == []
