"""Idempotency keys: a repeated request returns the command that was accepted first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.messaging.command_ledger import commands, idempotency_keys
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, Worker, running_gateway

REUSED = {"detail": "Idempotency-Key was already used with a different request."}


def count(ledger: Engine, table: Any = commands) -> int:
    with ledger.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def an_item(**facts: Any) -> dict[str, Any]:
    return {"type": "comment.post", "incident": 1, "comment": "x"} | facts


def test_the_same_request_with_the_same_key_returns_the_same_command(
    gateway: Gateway, worker: Worker, ledger: Engine
) -> None:
    first = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async")
    second = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async")

    worker.apply()
    third = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one")

    assert (second.status_code, second.json()) == (first.status_code, first.json())
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == third.headers["idempotent-replayed"] == "true"
    assert (third.status_code, third.headers["command-id"]) == (201, first.headers["command-id"])
    assert count(ledger) == 1


def test_equal_json_in_another_notation_counts_as_the_same_request(gateway: Gateway, ledger: Engine) -> None:
    with gateway.client(Idempotency_Key="one", Prefer="respond-async", Content_Type="application/json") as client:
        first = client.post(COMMENTS, content=b'{"comment": "\\u0041", "mentions": []}')
        second = client.post(COMMENTS, content=b'{ "mentions":[],"comment":"A" }')

    assert first.headers["command-id"] == second.headers["command-id"]
    assert count(ledger) == 1


@pytest.mark.parametrize("number", [b"2", b"2.0", b"0.2e1"])
def test_equal_numbers_in_another_notation_count_as_the_same_request(
    gateway: Gateway, ledger: Engine, number: bytes
) -> None:
    bodies = [b'{"status": 2}', b'{"status": %b}' % number]

    with gateway.client(Idempotency_Key="one", Prefer="respond-async", Content_Type="application/json") as client:
        first, second = (client.put(f"{ACME}/incidents/1/", content=body) for body in bodies)

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["command-id"] == second.headers["command-id"]
    assert count(ledger) == 1


def test_numbers_that_are_equal_only_as_floats_are_different_requests(gateway: Gateway, ledger: Engine) -> None:
    bodies = [b'{"comment": "A", "x": 9007199254740993.0}', b'{"comment": "A", "x": 9007199254740992.0}']

    with gateway.client(Idempotency_Key="one", Prefer="respond-async", Content_Type="application/json") as client:
        first, second = (client.post(COMMENTS, content=body) for body in bodies)

    assert (first.status_code, second.status_code) == (202, 422)


def test_a_huge_exponent_in_a_request_with_a_key_is_not_expanded(gateway: Gateway, ledger: Engine) -> None:
    bodies = [b'{"comment": "A", "x": 1e999999999}', b'{"comment": "A", "x": 10e999999998}']

    with gateway.client(Idempotency_Key="one", Prefer="respond-async", Content_Type="application/json") as client:
        first, second = (client.post(COMMENTS, content=body) for body in bodies)

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["command-id"] == second.headers["command-id"]


@pytest.mark.parametrize(
    "other",
    [
        {"path": f"{ACME}/incidents/2/comments/"},
        {"json": {"comment": "Something else."}},
        {"If_Match": '"1"'},
    ],
    ids=["another path", "another body", "another If-Match"],
)
def test_another_request_with_a_used_key_is_refused(gateway: Gateway, ledger: Engine, other: dict[str, Any]) -> None:
    gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async")

    request = {"path": COMMENTS, "json": A_COMMENT} | other
    response = gateway.post(**request, Idempotency_Key="one", Prefer="respond-async")

    assert (response.status_code, response.json()) == (422, REUSED)
    assert "command-id" not in response.headers
    assert count(ledger) == 1


def test_different_callers_can_use_the_same_key(gateway: Gateway, ledger: Engine) -> None:
    callers: list[dict[str, Any]] = [
        {"by": "dev-mem"},
        {"by": "dev-ana"},
        {"by": "dev-bot", "Act_As": "user:12"},
        {"by": "dev-bot", "Act_As": "user:13"},
    ]

    responses = [
        gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async", **who) for who in callers
    ]

    assert [response.status_code for response in responses] == [202] * 4
    assert count(ledger) == 4


def test_a_key_survives_token_rotation(gateway: Gateway, ledger: Engine) -> None:
    first = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async")
    document = {"tokens": [{"token": "dev-mem-new", "user": "mem"}]}
    with gateway.client("dev-ops") as client:
        assert client.put("/api/0/directory/", json=document).status_code == 200

    second = gateway.post(COMMENTS, A_COMMENT, by="dev-mem-new", Idempotency_Key="one", Prefer="respond-async")

    assert second.headers["command-id"] == first.headers["command-id"]


def test_a_refused_request_does_not_consume_its_key(gateway: Gateway, ledger: Engine) -> None:
    refused = gateway.post(COMMENTS, {"comment": ""}, Idempotency_Key="one")
    accepted = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one", Prefer="respond-async")

    assert (refused.status_code, accepted.status_code) == (400, 202)


@pytest.mark.parametrize("key", ["", "has a space", "x" * 256, "caf\u00e9"])
def test_a_key_must_be_visible_ascii(gateway: Gateway, key: str) -> None:
    with gateway.client() as client:
        response = client.post(COMMENTS, json=A_COMMENT, headers=[(b"Idempotency-Key", key.encode("latin-1"))])

    assert response.status_code == 400
    assert response.json() == {"detail": "Idempotency-Key must be 1 to 255 visible ASCII characters."}


def test_two_keys_on_one_request_are_refused(gateway: Gateway) -> None:
    with gateway.client() as client:
        response = client.post(COMMENTS, json=A_COMMENT, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])

    assert (response.status_code, response.json()) == (400, {"detail": "Idempotency-Key may be sent only once."})


def test_fifty_identical_concurrent_posts_create_one_command(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    responses = gateway.concurrently(50, lambda: gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="one"))

    assert {response.status_code for response in responses} == {201}
    assert len({response.headers["command-id"] for response in responses}) == 1
    assert sum("idempotent-replayed" not in response.headers for response in responses) == 1
    assert count(ledger) == 1


def test_different_concurrent_requests_with_one_key_create_one_command(gateway: Gateway, ledger: Engine) -> None:
    numbers = itertools.count()

    responses = gateway.concurrently(
        20,
        lambda: gateway.post(COMMENTS, {"comment": str(next(numbers))}, Idempotency_Key="one", Prefer="respond-async"),
    )

    assert sorted(response.status_code for response in responses) == [202] + [422] * 19
    assert count(ledger) == 1


def test_two_gateways_agree_on_which_request_came_first(
    gateway: Gateway, settings: Callable[..., GatewaySettings], ledger: Engine
) -> None:
    keys = [f"key-{number}" for number in range(30)]
    items = [an_item(comment=key, idempotencyKey=key) for key in keys]
    with running_gateway(settings()) as other, ThreadPoolExecutor(8) as pool:
        forwards = [pool.submit(gateway.post, COMMANDS, {"commands": items}) for _ in range(4)]
        backwards = [pool.submit(other.post, COMMANDS, {"commands": items[::-1]}) for _ in range(4)]

        responses = [each.result() for each in [*forwards, *backwards]]

    assert {response.status_code for response in responses} == {202}
    ids = {tuple(sorted(each["id"] for each in response.json()["commands"])) for response in responses}
    assert len(ids) == 1
    assert count(ledger) == count(ledger, idempotency_keys) == 30


def test_a_bulk_item_with_a_used_key_returns_the_earlier_command(gateway: Gateway, ledger: Engine) -> None:
    first = gateway.post(COMMANDS, {"commands": [an_item(idempotencyKey="a")]}).json()["commands"]

    response = gateway.post(COMMANDS, {"commands": [an_item(comment="new"), an_item(idempotencyKey="a")]})

    assert response.status_code == 202
    assert response.json()["commands"][1] == first[0]
    assert "idempotent-replayed" not in response.headers
    assert count(ledger) == 2


def test_identical_items_with_one_key_create_one_command(gateway: Gateway, ledger: Engine) -> None:
    response = gateway.post(COMMANDS, {"commands": [an_item(idempotencyKey="a"), an_item(idempotencyKey="a")]})

    first, second = response.json()["commands"]
    assert first == second
    assert count(ledger) == 1


def test_bulk_items_with_equal_numbers_and_one_key_create_one_command(gateway: Gateway, ledger: Engine) -> None:
    item = b'{"type": "incident.set_status", "incident": 1, "status": %b, "idempotencyKey": "a"}'
    bodies = [b'{"commands": [%b, %b]}' % (item % b"2", item % b"2.0"), b'{"commands": [%b]}' % (item % b"0.2e1")]

    with gateway.client(Content_Type="application/json") as client:
        first, second = (client.post(COMMANDS, content=body).json()["commands"] for body in bodies)

    assert first == [*second, *second]
    assert count(ledger) == 1


def test_a_header_key_covers_a_bulk_request_in_another_notation(gateway: Gateway, ledger: Engine) -> None:
    body = b'{"commands": [{"type": "incident.set_status", "incident": %b, "status": %b}]}'

    with gateway.client(Idempotency_Key="whole", Content_Type="application/json") as client:
        first, second = (client.post(COMMANDS, content=body % each) for each in [(b"1", b"2"), (b"1.0", b"2.0")])

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert count(ledger) == 1


def test_nothing_in_a_bulk_request_is_accepted_if_one_key_conflicts(gateway: Gateway, ledger: Engine) -> None:
    gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="used", Prefer="respond-async")

    response = gateway.post(
        COMMANDS,
        {"commands": [an_item(idempotencyKey="fresh"), an_item(idempotencyKey="used")]},
        Idempotency_Key="whole",
    )

    assert (response.status_code, response.json()) == (422, REUSED)
    assert count(ledger) == count(ledger, idempotency_keys) == 1


def test_different_items_with_one_key_are_refused(gateway: Gateway, ledger: Engine) -> None:
    items = [an_item(idempotencyKey="a"), an_item(idempotencyKey="a", comment="y")]

    response = gateway.post(COMMANDS, {"commands": items})

    assert (response.status_code, count(ledger)) == (422, 0)


def test_a_key_in_the_header_covers_the_whole_bulk_request(gateway: Gateway, ledger: Engine) -> None:
    items = {"commands": [an_item(), an_item(idempotencyKey="a")]}

    first = gateway.post(COMMANDS, items, Idempotency_Key="whole")
    second = gateway.post(COMMANDS, items, Idempotency_Key="whole")

    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert count(ledger) == 2


def test_a_header_key_also_replays_a_bulk_request_that_contained_replayed_items(
    gateway: Gateway, ledger: Engine
) -> None:
    gateway.post(COMMANDS, {"commands": [an_item(idempotencyKey="a")]})
    items = {"commands": [an_item(comment="new"), an_item(idempotencyKey="a")]}

    first = gateway.post(COMMANDS, items, Idempotency_Key="whole")
    second = gateway.post(COMMANDS, items, Idempotency_Key="whole")

    assert first.json() == second.json()
    assert count(ledger) == 2
