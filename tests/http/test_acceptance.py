"""A request becomes an accepted command, and the gateway waits for the command's outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.messaging.command_ledger import commands
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually


def accepted_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return connection.execute(select(func.count()).select_from(commands)).scalar_one()


def test_a_write_waits_for_the_outcome_and_returns_it(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(COMMENTS, {"comment": "  Look.  ", "mentions": ["ana"], "unknown": [1]})

    assert (response.status_code, response.json()["comment"]) == (201, "Look.")
    command = gateway.get(f"/api/0/commands/{response.headers['command-id']}/").json()
    assert (command["status"], command["attempts"]) == ("applied", 1)
    assert command["outcome"] == {"status": 201, "body": response.json()}


def test_a_refusal_by_the_worker_is_returned_with_its_command(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(f"{ACME}/incidents/77/comments/", A_COMMENT)

    assert (response.status_code, response.json()) == (404, {"detail": "The requested resource does not exist"})
    command = gateway.get(f"/api/0/commands/{response.headers['command-id']}/").json()
    assert command["status"] == "rejected"
    assert command["outcome"] == {"status": 404, "body": response.json()}


def test_respond_async_returns_the_accepted_command(gateway: Gateway) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")

    command = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"{gateway.url}/api/0/commands/{command['id']}/"
    assert response.headers["retry-after"] == "1"
    assert response.headers["command-id"] == command["id"]
    assert response.headers["preference-applied"] == "respond-async"
    assert command | {"id": "", "acceptedAt": ""} == {
        "id": "", "type": "comment.post", "status": "accepted", "organization": "acme", "acceptedAt": "",
        "finishedAt": None, "attempts": 0, "heldBy": None, "outcome": None, "error": None,
    }  # fmt: skip
    assert gateway.get(response.headers["location"]).json() == command


@pytest.mark.parametrize(
    ("preference", "applied"),
    [
        ("wait=0", "wait=0"),
        ("wait=1", "wait=1"),
        ('Wait="1" ; x=y, handling=lenient', "wait=1"),
        ("respond-async, wait=1", "respond-async, wait=1"),
        ("wait=1, wait=30", "wait=1"),
    ],
)
def test_applied_preferences_are_echoed(gateway: Gateway, preference: str, applied: str) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Prefer=preference)

    assert (response.status_code, response.headers["preference-applied"]) == (202, applied)


def test_waits_are_capped_at_thirty_seconds(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Prefer="wait=900")

    assert (response.status_code, response.headers["preference-applied"]) == (201, "wait=30")


@pytest.mark.parametrize("preference", ["wait=soon", "wait=-1", "respond-async=no", ""])
def test_a_malformed_preference_is_ignored(gateway: Gateway, busy_worker: Worker, preference: str) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Prefer=preference)

    assert response.status_code == 201
    assert "preference-applied" not in response.headers


def test_the_outcome_is_returned_even_without_pubsub(
    acme: object, settings: Callable[..., GatewaySettings], busy_worker: Worker
) -> None:
    with running_gateway(settings(REDIS_URL="redis://127.0.0.1:9/0")) as gateway:
        assert gateway.post(COMMENTS, A_COMMENT).status_code == 201


def test_a_command_can_be_waited_for_later(gateway: Gateway, worker: Worker) -> None:
    location = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").headers["location"]
    responses: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: responses.append(gateway.get(location, Prefer="wait=20")))

    waiting.start()
    worker.apply()
    waiting.join()

    assert responses[0].json()["status"] == "applied"
    assert responses[0].headers["preference-applied"] == "wait=20"


def test_a_command_may_be_read_only_by_its_caller_and_by_operators(gateway: Gateway) -> None:
    location = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").headers["location"]

    seen = {by: gateway.get(location, by=by).status_code for by in ("dev-mem", "dev-mem-read", "dev-own", "dev-ops")}

    assert seen == {"dev-mem": 200, "dev-mem-read": 200, "dev-own": 404, "dev-ops": 200}
    assert gateway.get(location, by="dev-viewer").status_code == 200
    assert gateway.get(location.upper().replace("/API/0/COMMANDS", "/api/0/commands")).status_code == 200


def test_a_service_and_the_person_it_acts_for_may_both_read_the_command(gateway: Gateway, worker: Worker) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, by="dev-bot", Act_As="user:12", Prefer="respond-async")
    location = response.headers["location"]

    worker.apply()

    seen = {by: gateway.get(location, by=by).status_code for by in ("dev-bot", "dev-ana", "dev-mem", "dev-plain-bot")}
    assert seen == {"dev-bot": 200, "dev-ana": 200, "dev-mem": 404, "dev-plain-bot": 404}
    assert gateway.get(location, by="dev-ana").json()["outcome"]["body"]["user"]["username"] == "ana"


def test_a_service_that_acts_as_itself_can_open_incidents(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(f"{ACME}/incidents/", {"title": "Slow", "projects": ["p1"]}, by="dev-bot")

    assert (response.status_code, response.json()["title"]) == (201, "Slow")


def test_a_dead_command_returns_an_internal_error_with_the_command_id(gateway: Gateway, ledger: Engine) -> None:
    responses: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: responses.append(gateway.post(COMMENTS, A_COMMENT)))
    waiting.start()
    eventually(lambda: accepted_count(ledger))

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE commands SET state = 'dead', error = 'it broke', finished_at = now()")
    waiting.join()

    command = responses[0].headers["command-id"]
    assert (responses[0].status_code, responses[0].json()) == (500, {"detail": "Internal Error", "errorId": command})
    resource = gateway.get(f"/api/0/commands/{command}/").json()
    assert (resource["status"], resource["outcome"], resource["error"]) == ("dead", None, "it broke")


def test_a_client_that_disconnects_does_not_cancel_its_command(
    gateway: Gateway, ledger: Engine, worker: Worker
) -> None:
    with gateway.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(COMMENTS, json=A_COMMENT, timeout=0.3)

    eventually(lambda: accepted_count(ledger) == 1)
    worker.apply()

    with ledger.connect() as connection:
        assert connection.execute(select(commands.c.state)).scalar_one() == "applied"


def test_a_gateway_that_is_shutting_down_answers_waiting_requests_with_202(
    acme: object, settings: Callable[..., GatewaySettings], ledger: Engine
) -> None:
    responses: list[httpx.Response] = []
    with running_gateway(settings()) as gateway:
        waiting = threading.Thread(target=lambda: responses.append(gateway.post(COMMENTS, A_COMMENT)))
        waiting.start()
        eventually(lambda: accepted_count(ledger))
    waiting.join()

    assert responses[0].status_code == 202


def test_concurrent_commands_are_all_accepted(gateway: Gateway, ledger: Engine) -> None:
    responses = gateway.concurrently(40, lambda: gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async"))

    assert {response.status_code for response in responses} == {202}
    assert len({response.headers["command-id"] for response in responses}) == accepted_count(ledger) == 40


def test_commands_above_the_rate_limit_are_refused_with_429(
    acme: object, settings: Callable[..., GatewaySettings]
) -> None:
    with running_gateway(settings(rate=1)) as gateway:
        responses = [gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async") for _ in range(5)]
        bulk = gateway.post(
            f"{ACME}/commands/", {"commands": [{"type": "comment.post", "incident": 1, "comment": "x"}] * 5}
        )
        of_another = gateway.post(COMMENTS, A_COMMENT, by="dev-ana", Prefer="respond-async")

    assert [response.status_code for response in responses] == [202] * 5
    assert (bulk.status_code, bulk.json()["detail"][:24]) == (429, "Request was throttled. E")
    assert 1 <= int(bulk.headers["retry-after"]) <= 5
    assert of_another.status_code == 202
