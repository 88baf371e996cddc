"""What operators change over HTTP: by role, with a reason, and with an entry in the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, update

from gateway.settings import GatewaySettings
from models.base import new_id
from models.database.grants import create_roles, grant_to_existing_roles
from models.messaging.command_ledger import commands
from models.notifications.delivery import deliveries
from models.operations.dead import DeadSelection, discard_dead
from models.operations.holds import place_hold
from models.operations.login_tickets import LoginClaims, use_login_ticket
from models.operations.requeue import start_requeue
from models.refusals import FIELD_REQUIRED
from tests.builders import a_webhook, a_webhook_delivery
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import Gateway, running_gateway
from tests.ops.ledger import accept_comments, advance, bury

API = "/ops/api"
A_HOLD = {"scope": "queue", "target": "bulk", "reason": "a storm"}
SOME_DELIVERY = UUID("01a224b3-4109-77a6-b7e9-0495fba1aaaa")
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "holds/", {"scope": "queue", "target": "bulk"}),
    ("DELETE", "holds/1/", {}),
    ("POST", "dead/requeue/", {"all": True}),
    ("POST", "dead/discard/", {"all": True}),
    ("DELETE", "operations/1/", {}),
    ("POST", f"deliveries/{SOME_DELIVERY}/retry/", {}),
]


def send(
    gateway: Gateway, method: str, path: str, body: Any = None, *, by: str | None = "dev-operator"
) -> httpx.Response:
    with gateway.client(by) as client:
        return client.request(method, f"{API}/{path}", json=body)


def audit(gateway: Gateway) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = gateway.get(f"{API}/audit/", by="dev-viewer").json()
    return entries


def states(harness: Harness, ids: list[UUID]) -> list[str]:
    with harness.engine.connect() as connection:
        rows = connection.execute(select(commands.c.id, commands.c.state).where(commands.c.id.in_(ids)))
        by_id = {row.id: str(row.state) for row in rows}
    return [by_id[id_] for id_ in ids]


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_viewers_and_other_callers_may_not_write(
    gateway: Gateway, method: str, path: str, body: dict[str, Any]
) -> None:
    callers = (None, "dev-mem", "dev-bot", "dev-viewer")

    statuses = [send(gateway, method, path, body | {"reason": "x"}, by=by).status_code for by in callers]

    assert statuses == [401, 403, 403, 403]
    assert audit(gateway) == []


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_every_write_needs_a_reason_of_at_most_500_characters(
    gateway: Gateway, method: str, path: str, body: dict[str, Any]
) -> None:
    for reason in ({}, {"reason": None}, {"reason": "  "}):
        response = send(gateway, method, path, body | reason)
        assert (response.status_code, response.json()) == (400, {"reason": [FIELD_REQUIRED]})
    for bad in ("x" * 501, ["x"], "\ud800"):
        assert list(send_raw(gateway, method, path, body | {"reason": bad}).json()) == ["reason"]
    assert audit(gateway) == []


def send_raw(gateway: Gateway, method: str, path: str, body: Any) -> httpx.Response:
    with gateway.client("dev-operator", Content_Type="application/json") as client:
        return client.request(method, f"{API}/{path}", content=json.dumps(body))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "holds/99/"),
        ("DELETE", "operations/99/"),
        ("GET", "operations/99/"),
        ("POST", f"deliveries/{SOME_DELIVERY}/retry/"),
        ("DELETE", "holds/x/"),
        ("POST", "deliveries/x/retry/"),
    ],
)
def test_what_does_not_exist_is_not_found(gateway: Gateway, method: str, path: str) -> None:
    assert send(gateway, method, path, {"reason": "x"} if method != "GET" else None).status_code == 404


def test_a_hold_is_placed_listed_and_released_with_an_entry_for_each(gateway: Gateway) -> None:
    placed = send(gateway, "POST", "holds/", A_HOLD, by="dev-ops")
    again = send(gateway, "POST", "holds/", A_HOLD)
    listed = gateway.get(f"{API}/holds/", by="dev-viewer").json()
    released = send(gateway, "DELETE", f"holds/{placed.json()['id']}/", {"reason": "it is over"})

    assert (placed.status_code, again.status_code, released.status_code) == (201, 409, 204)
    assert listed == [placed.json()]
    assert (listed[0]["by"], listed[0]["releaseAt"], listed[0]["waiting"]) == ("ada", None, 0)
    assert gateway.get(f"{API}/holds/", by="dev-viewer").json() == []
    entries = [(each["by"], each["action"], each["target"], each["reason"]) for each in audit(gateway)]
    assert entries == [
        ("otto", "hold.released", "queue bulk", "it is over"),
        ("ada", "hold.placed", "queue bulk", "a storm"),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": "fast"}, "target"),
        ({"target": None}, "target"),
        ({"scope": "type", "target": "comment.shout"}, "target"),
        ({"scope": "channel", "target": "inbox"}, "target"),
        ({"scope": "organization", "target": "nobody"}, "target"),
        ({"scope": "planet"}, "scope"),
        ({"releaseAt": "soon"}, "releaseAt"),
        ({"releaseAt": "2020-01-01T00:00:00Z"}, "releaseAt"),
    ],
)
def test_a_hold_that_names_nothing_is_refused(gateway: Gateway, change: dict[str, Any], field: str) -> None:
    response = send(gateway, "POST", "holds/", A_HOLD | change)

    assert (response.status_code, list(response.json())) == (400, [field])
    assert audit(gateway) == []


def test_a_hold_may_say_when_it_ends(gateway: Gateway) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    placed = send(
        gateway, "POST", "holds/", {"scope": "type", "target": "comment.post", "releaseAt": until, "reason": "x"}
    )

    assert placed.json()["releaseAt"] is not None


def test_a_dry_run_says_what_would_be_requeued_and_changes_nothing(
    gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids)

    preview = send(gateway, "POST", "dead/requeue/", {"all": True, "dryRun": True})

    assert (preview.status_code, preview.json()) == (200, {"matching": 3, "subjects": 1})
    assert states(harness, ids) == ["dead"] * 3
    assert audit(gateway) == []
    assert gateway.get(f"{API}/operations/1/", by="dev-viewer").status_code == 404


def test_dead_commands_are_requeued_by_id_and_the_operation_can_be_read(
    gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    ids = accept_comments(harness, 2, **operators.by("mem"))
    bury(harness, ids)

    body = {"ids": [str(ids[0])], "ratePerSecond": 100, "stopAfter": 1, "reason": "fixed"}
    started = send(gateway, "POST", "dead/requeue/", body)
    while advance(harness):
        harness.apply()

    assert started.status_code == 202
    assert (started.json()["state"], started.json()["matching"]) == ("running", 1)
    operation = gateway.get(f"{API}/operations/{started.json()['id']}/", by="dev-viewer").json()
    assert (operation["state"], operation["requeued"], operation["diedAgain"]) == ("done", 1, 0)
    assert states(harness, ids) == ["applied", "dead"]
    assert [(entry["by"], entry["action"]) for entry in audit(gateway)] == [("otto", "dead.requeued")]


def test_a_requeue_is_stopped(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    bury(harness, accept_comments(harness, 2, **operators.by("mem")))
    with harness.engine.begin() as connection:
        operation = start_requeue(connection, DeadSelection(all=True), reason="x", by="otto")

    stopped = send(gateway, "DELETE", f"operations/{operation['id']}/", {"reason": "too early"})

    assert (stopped.status_code, stopped.json()["state"]) == (200, "stopped")
    assert audit(gateway)[0]["action"] == "operation.stopped"


def test_dead_commands_are_discarded_for_good(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids[:2], "KeyError: 1")
    bury(harness, ids[2:], "ValueError: 2")
    [_, group] = gateway.get(f"{API}/dead/?group=1", by="dev-viewer").json()

    done = send(gateway, "POST", "dead/discard/", {"fingerprint": group["fingerprint"], "reason": "noise"})

    assert (done.status_code, done.json()) == (200, {"discarded": 2})
    assert states(harness, ids) == ["discarded", "discarded", "dead"]
    assert gateway.get(f"/api/0/commands/{ids[0]}/").json()["status"] == "discarded"
    [entry] = audit(gateway)
    assert (entry["action"], entry["after"]["discarded"]) == ("dead.discarded", 2)


@pytest.mark.parametrize("path", ["dead/requeue/", "dead/discard/"])
@pytest.mark.parametrize(
    "selection",
    [{}, {"all": False}, {"all": True, "fingerprint": "x"}, {"ids": ["x"]}, {"ids": "x"}, {"ids": [1]}, {"all": 1}],
)
def test_a_selection_must_name_dead_commands_in_one_way(gateway: Gateway, path: str, selection: dict[str, Any]) -> None:
    response = send(gateway, "POST", path, selection | {"reason": "x"})

    field = "all" if selection == {"all": 1} else "ids"
    assert (response.status_code, list(response.json())) == (400, [field])


@pytest.mark.parametrize("value", [None, "yes", 1, "false"])
def test_whether_it_is_a_dry_run_is_not_guessed(gateway: Gateway, value: Any) -> None:
    response = send(gateway, "POST", "dead/requeue/", {"all": True, "dryRun": value, "reason": "x"})

    assert (response.status_code, list(response.json())) == (400, ["dryRun"])


@pytest.mark.parametrize("change", [{"ratePerSecond": 0}, {"stopAfter": "many"}])
def test_the_limits_of_a_requeue_are_checked(gateway: Gateway, change: dict[str, Any]) -> None:
    for more in ({"reason": "x"}, {"dryRun": True}):
        response = send(gateway, "POST", "dead/requeue/", {"all": True, **more} | change)
        assert (response.status_code, list(response.json())) == (400, list(change))


def test_a_delivery_is_retried_unless_it_is_being_sent(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    with harness.engine.begin() as connection:
        webhook = a_webhook(connection, operators.organizations["acme"])
        failed = a_webhook_delivery(connection, webhook, state="failed", finished_at=datetime.now(UTC))

    retried = send(gateway, "POST", f"deliveries/{failed}/retry/", {"reason": "they are back"})
    with harness.engine.begin() as connection:
        connection.execute(update(deliveries).values(claimed_by=new_id()))
    busy = send(gateway, "POST", f"deliveries/{failed}/retry/", {"reason": "again"})

    assert (retried.status_code, retried.json()["state"]) == (202, "pending")
    assert busy.status_code == 409
    assert [entry["action"] for entry in audit(gateway)] == ["delivery.retried"]


def test_unknown_fields_are_refused_on_request_before_anything_is_changed(gateway: Gateway) -> None:
    with gateway.client("dev-operator", Prefer="handling=strict") as client:
        response = client.post(f"{API}/holds/", json=A_HOLD | {"until": "tomorrow"})

    assert (response.status_code, list(response.json())) == (400, ["until"])
    assert audit(gateway) == []


def test_without_a_database_requests_are_answered_with_503(settings: Callable[..., GatewaySettings]) -> None:
    with running_gateway(settings(DATABASE_URL="postgresql://tocsin@/tocsin?host=/nowhere")) as gateway:
        read = gateway.get(f"{API}/overview/", by="dev-viewer")
        written = send(gateway, "POST", "holds/", A_HOLD)

    assert (read.status_code, written.status_code) == (503, 503)
    assert read.headers["retry-after"]


def test_the_gateways_database_role_may_do_all_of_it(harness: Harness, operators: Acme) -> None:
    bury(harness, accept_comments(harness, 2, **operators.by("mem")))
    with harness.engine.begin() as connection:
        create_roles(connection)
        grant_to_existing_roles(connection)
        connection.exec_driver_sql("SET LOCAL ROLE tocsin_gateway")
        everything = DeadSelection(all=True)

        place_hold(connection, scope="queue", target="bulk", reason="x", by="ada", known_types=frozenset())
        start_requeue(connection, everything, reason="x", by="ada")
        done = discard_dead(connection, everything, reason="x", by="ada")
        assert use_login_ticket(connection, LoginClaims("a", 1))
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql("DROP OWNED BY tocsin_gateway")

    assert done == {"discarded": 2}
