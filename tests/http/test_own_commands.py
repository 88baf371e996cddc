"""A caller's own commands: the list, cancellation, and what remains readable after a right is lost."""

from __future__ import annotations

import threading
from typing import Any, Final

import httpx
import pytest
from sqlalchemy.engine import Engine

from models.database.grants import create_roles, grant_to_existing_roles
from models.enums import CommandState
from models.messaging.claims import CANCEL_COMMAND
from models.messaging.command_ledger import CommandAlreadyFinished, CommandOutcome, record_outcomes
from tests.handlers.acme import Acme
from tests.harness import lock_subjects
from tests.http.alert_rule_requests import FORBIDDEN, NOT_FOUND, RULES, create_rule
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, Worker
from tests.http.pages import pages
from tests.http.test_refusal_reasons import close_membership
from tests.rule_bodies import RULE
from tests.waiting import eventually

OPENING: Final[dict[str, Any]] = {"title": "Slow", "projects": ["p1"]}


def accept(gateway: Gateway, text: str = "Look.", *, by: str = "dev-mem", **headers: str) -> str:
    """Post a comment without waiting for it; return the command's id."""
    return gateway.post(COMMENTS, {"comment": text}, by=by, Prefer="respond-async", **headers).headers["command-id"]


def cancel(gateway: Gateway, id_: str, *, by: str = "dev-mem", **headers: str) -> httpx.Response:
    return gateway.post(f"/api/0/commands/{id_}/cancel/", by=by, **headers)


def listed(gateway: Gateway, query: str = "", *, by: str = "dev-mem", **headers: str) -> list[str]:
    return [each["id"] for each in gateway.get(f"{COMMANDS}{query}", by=by, **headers).json()]


def events(ledger: Engine) -> list[str]:
    with ledger.connect() as connection:
        return list(connection.exec_driver_sql("SELECT type FROM events").scalars())


# --- the list --------------------------------------------------------------------------------------------------


def test_a_service_lists_the_commands_that_it_posted_newest_first(gateway: Gateway, worker: Worker) -> None:
    opened = gateway.post(f"{ACME}/incidents/", OPENING, by="dev-bot", Prefer="respond-async").headers["command-id"]
    again = gateway.post(f"{ACME}/incidents/", OPENING, by="dev-bot", Prefer="respond-async").headers["command-id"]
    accept(gateway)
    worker.apply()

    resources = gateway.get(COMMANDS, by="dev-bot").json()

    assert [each["id"] for each in resources] == [again, opened]
    assert resources[1]["outcome"]["body"]["title"] == "Slow"
    assert resources[1] == gateway.get(f"/api/0/commands/{opened}/", by="dev-bot").json()


def test_everyone_lists_only_their_own_commands(gateway: Gateway) -> None:
    mine, anas, for_ana = (
        accept(gateway),
        accept(gateway, by="dev-ana"),
        accept(gateway, by="dev-bot", Act_As="user:12"),
    )

    assert listed(gateway) == [mine]
    assert listed(gateway, by="dev-ana") == [anas]
    assert listed(gateway, by="dev-bot") == []
    assert listed(gateway, by="dev-bot", Act_As="user:12") == [for_ana]


def test_the_list_shows_only_commands_of_the_organization_in_the_path(gateway: Gateway) -> None:
    accept(gateway)

    assert gateway.get("/api/0/organizations/closed/commands/").json() == []


def test_the_list_is_paginated(gateway: Gateway) -> None:
    ids = [accept(gateway) for _ in range(5)]

    found = list(pages(gateway, f"{COMMANDS}?per_page=2"))

    assert [[each["id"] for each in page] for page in found] == [ids[4:2:-1], ids[2:0:-1], ids[:1]]


def test_the_list_can_be_filtered_by_state_and_type(gateway: Gateway, worker: Worker) -> None:
    applied = accept(gateway)
    worker.apply()
    waiting = accept(gateway)
    seen = gateway.post(f"{ACME}/incidents/1/seen/", Prefer="respond-async").headers["command-id"]

    assert listed(gateway, "?state=applied") == [applied]
    assert listed(gateway, "?state=accepted&type=comment.post") == [waiting]
    assert listed(gateway, "?type=incident.mark_seen&type=comment.post") == [seen, waiting, applied]


@pytest.mark.parametrize("query", ["state=waiting", "type=comment", "state=applied&state="])
def test_an_unknown_filter_value_is_refused(gateway: Gateway, query: str) -> None:
    response = gateway.get(f"{COMMANDS}?{query}")

    assert response.status_code == 400
    assert response.json()[query.partition("=")[0]][0].startswith("Valid values: ")


# --- cancellation ----------------------------------------------------------------------------------------------


def test_a_waiting_command_can_be_cancelled(gateway: Gateway, ledger: Engine, worker: Worker) -> None:
    id_ = accept(gateway)

    response = cancel(gateway, id_)
    worker.apply()

    assert (response.status_code, response.json()["status"], response.json()["outcome"]) == (200, "discarded", None)
    assert response.json()["finishedAt"] is not None
    assert gateway.get(f"/api/0/commands/{id_}/").json() == response.json()
    assert gateway.get(f"{ACME}/incidents/1/activity/").json() == []
    assert events(ledger) == []


def test_a_caller_who_waits_for_a_cancelled_command_is_answered(gateway: Gateway) -> None:
    posted: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: posted.append(gateway.post(COMMENTS, A_COMMENT, Prefer="wait=30")))
    waiting.start()
    [id_] = eventually(lambda: listed(gateway))
    polled: list[httpx.Response] = []
    polling = threading.Thread(target=lambda: polled.append(gateway.get(f"/api/0/commands/{id_}/", Prefer="wait=30")))
    polling.start()

    cancel(gateway, id_)
    waiting.join()
    polling.join()

    assert (posted[0].status_code, posted[0].json()) == (
        409, {"detail": "The command was discarded before it was applied."},
    )  # fmt: skip
    assert polled[0].json()["status"] == "discarded"


def test_later_commands_of_the_subject_are_applied_after_a_cancellation(gateway: Gateway, worker: Worker) -> None:
    first, second = accept(gateway, "first"), accept(gateway, "second")

    cancel(gateway, first)
    worker.apply()

    assert gateway.get(f"/api/0/commands/{second}/").json()["status"] == "applied"


def test_a_finished_command_cannot_be_cancelled(gateway: Gateway, worker: Worker) -> None:
    applied, cancelled = accept(gateway), None
    worker.apply()
    cancelled = accept(gateway)
    cancel(gateway, cancelled)

    responses = [cancel(gateway, id_) for id_ in (applied, cancelled)]

    assert [response.status_code for response in responses] == [409, 409]
    assert [response.json()["detail"] for response in responses] == [
        "The command has already been applied.",
        "The command has already been discarded.",
    ]


def test_a_command_cannot_be_cancelled_while_a_worker_applies_it(
    gateway: Gateway, ledger: Engine, worker: Worker
) -> None:
    id_ = accept(gateway)
    with ledger.begin() as connection:
        subject = connection.exec_driver_sql("SELECT subject FROM commands").scalar_one()
        lock_subjects(connection, [subject])
        refused = cancel(gateway, id_)
    worker.apply()

    assert refused.status_code == 409
    assert refused.json()["detail"] == "A worker is applying this command, or others before it, at this moment."
    assert gateway.get(f"/api/0/commands/{id_}/").json()["status"] == "applied"


def test_cancellation_does_not_overwrite_an_outcome_that_is_committed_in_between(
    gateway: Gateway, ledger: Engine
) -> None:
    id_ = accept(gateway)
    with ledger.begin() as worker:
        # The row is locked, but not the subject: as if the worker had committed between the snapshot and the lock.
        record_outcomes(worker, [CommandOutcome(_uuid(ledger), CommandState.APPLIED, 201, "{}")])
        responses: list[httpx.Response] = []
        cancelling = threading.Thread(target=lambda: responses.append(cancel(gateway, id_)))
        cancelling.start()
        eventually(lambda: _waits_for_a_lock(ledger))
    cancelling.join()

    assert responses[0].status_code == 409
    assert gateway.get(f"/api/0/commands/{id_}/").json()["status"] == "applied"


def test_a_worker_does_not_overwrite_a_cancellation(gateway: Gateway, ledger: Engine) -> None:
    id_ = accept(gateway)
    cancel(gateway, id_)

    with ledger.begin() as connection, pytest.raises(CommandAlreadyFinished):
        record_outcomes(connection, [CommandOutcome(_uuid(ledger), CommandState.APPLIED, 201, "{}")])

    assert gateway.get(f"/api/0/commands/{id_}/").json()["status"] == "discarded"


def test_of_cancellations_beside_a_busy_worker_each_command_ends_once(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    statuses = [cancel(gateway, accept(gateway, str(number))).status_code for number in range(40)]

    resources = eventually(lambda: _all_final(gateway))
    texts = {each["comment"] for each in gateway.get(f"{ACME}/incidents/1/activity/").json()}
    states = {each["id"]: each["status"] for each in resources}
    assert set(statuses) <= {200, 409}
    assert list(states.values()).count("discarded") == statuses.count(200)
    assert len(texts) == list(states.values()).count("applied") == 40 - statuses.count(200)


@pytest.mark.parametrize("by", ["dev-ana", "dev-own", "dev-plain-bot"])
def test_nobody_can_cancel_another_callers_command(gateway: Gateway, by: str) -> None:
    id_ = accept(gateway)

    response = cancel(gateway, id_, by=by)

    assert (response.status_code, response.json()) == (404, NOT_FOUND)
    assert gateway.get(f"/api/0/commands/{id_}/").json()["status"] == "accepted"


@pytest.mark.parametrize("by", ["dev-mem-read", "dev-ops"])
def test_a_token_that_could_not_post_the_command_cannot_cancel_it(gateway: Gateway, by: str) -> None:
    response = cancel(gateway, accept(gateway), by=by)

    assert (response.status_code, response.json()) == (403, FORBIDDEN)


def test_an_unknown_command_cannot_be_cancelled(gateway: Gateway) -> None:
    assert cancel(gateway, "nothing").status_code == 404
    assert cancel(gateway, "0199a0a0-0000-7000-8000-000000000000").status_code == 404


def test_the_gateways_database_role_may_cancel_a_command(gateway: Gateway, ledger: Engine) -> None:
    id_ = accept(gateway)
    with ledger.begin() as connection:
        create_roles(connection)
        grant_to_existing_roles(connection)
        connection.exec_driver_sql("SET LOCAL ROLE tocsin_gateway")
        cancelled = connection.exec_driver_sql(CANCEL_COMMAND, {"id": id_}).rowcount
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql("DROP OWNED BY tocsin_gateway")
        assert cancelled == 1
        connection.rollback()


# --- what a right lost takes away ------------------------------------------------------------------------------


def outcome_of(gateway: Gateway, id_: str, **headers: str) -> Any:
    return gateway.get(f"/api/0/commands/{id_}/", **headers).json()["outcome"]


def test_the_outcome_of_a_command_is_hidden_once_its_incident_is_out_of_reach(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    id_ = gateway.post(COMMENTS, A_COMMENT).headers["command-id"]
    before = outcome_of(gateway, id_)["body"]

    close_membership(ledger)

    assert before["comment"] == A_COMMENT["comment"]
    assert outcome_of(gateway, id_) == {"status": 201, "body": None}
    assert [each["outcome"]["body"] for each in gateway.get(COMMANDS).json()] == [None]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE organizations SET features = '{}' WHERE slug = 'acme'",
        "DELETE FROM members WHERE user_id = 11",
    ],
)
def test_the_outcome_of_a_command_is_hidden_once_the_caller_may_not_read_incidents(
    gateway: Gateway, ledger: Engine, busy_worker: Worker, change: str
) -> None:
    id_ = gateway.post(COMMENTS, A_COMMENT).headers["command-id"]

    with ledger.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM team_members; {change}")

    assert outcome_of(gateway, id_) == {"status": 201, "body": None}


def test_the_outcome_of_a_command_on_a_rule_is_hidden_with_the_rule(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    created = gateway.post(RULES, RULE)
    id_ = created.headers["command-id"]
    before = outcome_of(gateway, id_)["body"]

    close_membership(ledger)

    assert before["id"] == created.json()["id"]
    assert outcome_of(gateway, id_) == {"status": 201, "body": None}


def test_an_operator_who_only_views_sees_no_outcome_body(gateway: Gateway, busy_worker: Worker) -> None:
    id_ = gateway.post(COMMENTS, A_COMMENT).headers["command-id"]

    assert outcome_of(gateway, id_, by="dev-viewer") == {"status": 201, "body": None}
    assert outcome_of(gateway, id_, by="dev-ops")["body"]["comment"] == A_COMMENT["comment"]


def test_a_replay_is_answered_as_the_read_would_be(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> None:
    first = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="k")
    replay = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="k")

    close_membership(ledger)
    hidden = gateway.post(COMMENTS, A_COMMENT, Idempotency_Key="k")

    assert (replay.status_code, replay.json()) == (201, first.json())
    assert (hidden.status_code, hidden.json()) == (403, FORBIDDEN)


def test_a_replay_in_bulk_hides_the_outcome(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> None:
    body = {"commands": [{"type": "comment.post", "incident": 1, "comment": "Look."}]}
    headers = {"Prefer": "wait=20", "Idempotency_Key": "k"}
    first = gateway.post(COMMANDS, body, **headers).json()["commands"][0]

    close_membership(ledger)
    replay = gateway.post(COMMANDS, body, **headers).json()["commands"][0]

    assert first["outcome"]["body"]["comment"] == "Look."
    assert replay == first | {"outcome": {"status": 201, "body": None}}


def test_a_replay_of_a_deletion_is_answered_as_before(gateway: Gateway, busy_worker: Worker) -> None:
    rule = create_rule(gateway)["id"]

    with gateway.client(Idempotency_Key="k") as client:
        statuses = [client.delete(f"{RULES}{rule}/").status_code for _ in range(2)]

    assert statuses == [204, 204]


def test_a_replay_of_a_creation_is_404_once_the_rule_is_deleted(gateway: Gateway, busy_worker: Worker) -> None:
    created = gateway.post(RULES, RULE, Idempotency_Key="k")
    with gateway.client() as client:
        client.delete(f"{RULES}{created.json()['id']}/")

    replay = gateway.post(RULES, RULE, Idempotency_Key="k")

    assert (created.status_code, replay.status_code) == (201, 404)


def test_a_command_that_names_a_key_of_an_incident_out_of_reach_is_not_found(
    gateway: Gateway, ledger: Engine, acme: Acme, busy_worker: Worker
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET dedup_key = 'disk' WHERE identifier = 1")
    close_membership(ledger)
    items = [{"type": "comment.post", "incident": f"dedup:{key}", "comment": "x"} for key in ("disk", "unknown")]

    response = gateway.post(COMMANDS, {"commands": items}, Prefer="wait=20")

    outcomes = [each["outcome"] for each in response.json()["commands"]]
    assert outcomes == [{"status": 404, "body": NOT_FOUND}] * 2


def _uuid(ledger: Engine) -> Any:
    with ledger.connect() as connection:
        return connection.exec_driver_sql("SELECT id FROM commands").scalar_one()


def _waits_for_a_lock(ledger: Engine) -> bool:
    with ledger.connect() as connection:
        waiting = connection.exec_driver_sql(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return waiting.rowcount > 0


def _all_final(gateway: Gateway) -> list[Any]:
    resources: list[Any] = gateway.get(COMMANDS).json()
    return [] if any(each["status"] == "accepted" for each in resources) else resources
