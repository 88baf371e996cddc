"""Writes to an incident: closing, marking as seen, subscriptions and comments, with the required permissions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, Worker

INCIDENT = f"{ACME}/incidents/1/"
SEEN = f"{INCIDENT}seen/"
SUBSCRIPTIONS = f"{INCIDENT}subscriptions/"
CLOSE = {"status": 2}
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "The requested resource does not exist"}
STALE = {"detail": "The resource has changed since you read it."}
FORBIDDEN_TO_API_KEYS = {"detail": "Key doesn't have permission to delete Note"}
INTEGER = ["A valid integer is required."]
CHOICES = ["Invalid value for status. Valid values: [1, 2, 10, 20]"]


def send(gateway: Gateway, method: str, path: str, *, by: str | None = "dev-mem", **request: Any) -> httpx.Response:
    with gateway.client(by, **request.pop("headers", {})) as client:
        return client.request(method, path, **request)


def accepted_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM commands")).scalar_one())


def post_comment(gateway: Gateway, by: str = "dev-mem") -> str:
    return f"{COMMENTS}{gateway.post(COMMENTS, A_COMMENT, by=by).json()['id']}/"


# --- closing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [2, 2.0, "2", " 2 ", "+2", "2.0"])
def test_put_closes_an_incident(gateway: Gateway, busy_worker: Worker, status: Any) -> None:
    response = send(gateway, "PUT", INCIDENT, json={"status": status, "comment": "Done"})

    assert response.status_code == 200
    assert (response.json()["status"], response.json()["isSubscribed"]) == (2, True)
    assert response.json() == gateway.get(INCIDENT).json()


def test_closing_an_incident_twice_succeeds_both_times_and_is_applied_once(
    gateway: Gateway, busy_worker: Worker
) -> None:
    first, second = (send(gateway, "PUT", INCIDENT, json=CLOSE) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 200)
    assert [each["type"] for each in gateway.get(f"{INCIDENT}activity/").json()] == [2]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"status": ["This field is required."]}),
        ({"status": None}, {"status": ["This field may not be null."]}),
        ({"status": True}, {"status": INTEGER}),
        ({"status": "open"}, {"status": INTEGER}),
        ({"status": 2.5}, {"status": INTEGER}),
        ({"status": "2.5"}, {"status": INTEGER}),
        ({"status": []}, {"status": INTEGER}),
        ({"status": 3}, {"status": CHOICES}),
        ({"status": "99999999999999999999999"}, {"status": CHOICES}),
        ({"status": 1}, "Status cannot be changed."),
        ({"status": 10}, "Status cannot be changed."),
        ({"status": "20"}, "Status cannot be changed."),
        ({"status": 2, "comment": " "}, {"comment": ["This field may not be blank."]}),
        ({"status": 2, "comment": True}, {"comment": ["Not a valid string."]}),
        ({"status": 2, "comment": ["a"]}, {"comment": ["Not a valid string."]}),
        ({"status": 2, "comment": "a\0b"}, {"comment": ["Null characters are not allowed."]}),
        ({"status": 2, "comment": "\ud800"}, {"comment": ["Surrogate characters are not allowed: U+D800."]}),
        (
            {"status": 7, "comment": ""},
            {"status": CHOICES, "comment": ["This field may not be blank."]},
        ),
        ([], {"non_field_errors": ["Invalid data. Expected a dictionary, but got list."]}),
        ("close", {"non_field_errors": ["Invalid data. Expected a dictionary, but got str."]}),
    ],
)
def test_an_invalid_closing_body_is_400_and_creates_no_command(
    gateway: Gateway, ledger: Engine, body: Any, errors: Any
) -> None:
    response = send(
        gateway, "PUT", INCIDENT, content=json.dumps(body).encode(), headers={"Content_Type": "application/json"}
    )

    assert (response.status_code, response.json()) == (400, errors)
    assert accepted_count(ledger) == 0


def test_a_numeric_comment_is_stored_as_text(gateway: Gateway, busy_worker: Worker) -> None:
    send(gateway, "PUT", INCIDENT, json={"status": 2, "comment": 42})

    assert gateway.get(f"{INCIDENT}activity/").json()[0]["comment"] == "42"


def test_a_null_comment_means_no_comment(gateway: Gateway, busy_worker: Worker) -> None:
    send(gateway, "PUT", INCIDENT, json={"status": 2, "comment": None})

    assert gateway.get(f"{INCIDENT}activity/").json()[0]["comment"] is None


def test_statuses_other_than_closed_are_set_by_a_separate_command(gateway: Gateway, busy_worker: Worker) -> None:
    items = [{"type": "incident.set_status", "incident": 1, "status": number} for number in (20, 3)]

    malformed = gateway.post(COMMANDS, {"commands": items}, by="dev-ben")
    [worse] = gateway.post(COMMANDS, {"commands": items[:1]}, by="dev-ben", Prefer="wait=10").json()["commands"]
    [denied] = gateway.post(COMMANDS, {"commands": items[:1]}, Prefer="wait=10").json()["commands"]

    assert malformed.json() == {"commands": {"1": {"status": CHOICES}}}
    assert (worse["status"], worse["outcome"]["body"]["status"]) == ("applied", 20)
    assert (denied["status"], denied["outcome"]) == ("rejected", {"status": 403, "body": FORBIDDEN})


# --- seen and subscriptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", SEEN, 201), ("POST", SUBSCRIPTIONS, 201), ("DELETE", SUBSCRIPTIONS, 200)]
)
@pytest.mark.parametrize("body", [None, {}, {"status": 7}, [], "anything"])
def test_endpoints_that_take_no_body_ignore_any_body(
    gateway: Gateway, busy_worker: Worker, method: str, path: str, status: int, body: Any
) -> None:
    response = send(gateway, method, path, **({} if body is None else {"json": body}))

    assert (response.status_code, response.json()) == (status, {})


def test_marking_an_incident_as_seen_appears_in_its_details(gateway: Gateway, busy_worker: Worker) -> None:
    before = gateway.get(INCIDENT).json()
    send(gateway, "POST", SEEN)
    after = gateway.get(INCIDENT).json()

    assert (before["hasSeen"], before["seenBy"]) == (False, [])
    assert (after["hasSeen"], [each["username"] for each in after["seenBy"]]) == (True, ["mem"])
    assert gateway.get(INCIDENT, by="dev-ana").json()["hasSeen"] is False


def test_a_subscription_appears_in_the_details_but_cannot_be_read_on_its_own(
    gateway: Gateway, busy_worker: Worker
) -> None:
    send(gateway, "POST", SUBSCRIPTIONS)
    subscribed = gateway.get(INCIDENT).json()["isSubscribed"]
    send(gateway, "DELETE", SUBSCRIPTIONS)

    assert subscribed is True
    assert gateway.get(INCIDENT).json()["isSubscribed"] is False
    assert send(gateway, "GET", SUBSCRIPTIONS).status_code == 405


# --- comments ----------------------------------------------------------------------------------------------------


def test_an_edited_comment_is_returned_as_an_activity(gateway: Gateway, busy_worker: Worker) -> None:
    path = post_comment(gateway)

    response = send(gateway, "PUT", path, json={"comment": " Look there. ", "external_id": "ignored"})

    assert response.status_code == 200
    assert (response.json()["comment"], response.json()["version"]) == ("Look there.", 2)
    assert gateway.get(f"{INCIDENT}activity/").json() == [response.json()]


def test_deleting_a_comment_returns_204_without_a_body(gateway: Gateway, busy_worker: Worker) -> None:
    path = post_comment(gateway)

    first, second = send(gateway, "DELETE", path), send(gateway, "DELETE", path)

    assert (first.status_code, first.content) == (204, b"")
    assert (second.status_code, second.json()) == (404, NOT_FOUND)
    assert gateway.get(f"{INCIDENT}activity/").json() == []


def test_the_command_resource_of_a_deletion_has_status_204_and_a_null_body(
    gateway: Gateway, busy_worker: Worker
) -> None:
    deleted = send(gateway, "DELETE", post_comment(gateway))

    resource = gateway.get(f"/api/0/commands/{deleted.headers['Command-Id']}/").json()

    assert (resource["status"], resource["outcome"]) == ("applied", {"status": 204, "body": None})


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_comment_may_be_changed_only_by_its_author_and_others_get_404(
    gateway: Gateway, busy_worker: Worker, method: str
) -> None:
    path = post_comment(gateway)

    for by in ("dev-ana", "dev-own", "dev-ben"):
        response = send(gateway, method, path, by=by, json={"comment": "mine now"})
        assert (response.status_code, response.json()) == (404, NOT_FOUND)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("organization", ["acme", "nowhere"])
def test_an_api_key_is_refused_with_a_specific_message_before_the_organization_is_looked_up(
    gateway: Gateway, ledger: Engine, method: str, organization: str
) -> None:
    path = f"/api/0/organizations/{organization}/incidents/1/comments/1/"

    response = send(gateway, method, path, by="dev-key", json={"comment": ""})

    assert (response.status_code, response.json()) == (403, FORBIDDEN_TO_API_KEYS)
    assert accepted_count(ledger) == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_service_that_acts_for_nobody_is_refused_with_the_general_message(gateway: Gateway, method: str) -> None:
    response = send(gateway, method, f"{COMMENTS}1/", by="dev-bot", json={"comment": "x"})

    assert (response.status_code, response.json()) == (403, FORBIDDEN)


@pytest.mark.parametrize(("method", "path"), [("PUT", f"{COMMENTS}1/"), ("DELETE", f"{COMMENTS}1/")])
def test_a_token_without_the_scope_is_refused_with_the_general_message(
    gateway: Gateway, method: str, path: str
) -> None:
    response = send(gateway, method, path, by="dev-mem-read", json={"comment": "x"})

    assert (response.status_code, response.json()) == (403, FORBIDDEN)


def test_a_single_comment_cannot_be_read(gateway: Gateway) -> None:
    response = send(gateway, "GET", f"{COMMENTS}1/")

    assert (response.status_code, response.json()) == (405, {"detail": 'Method "GET" not allowed.'})


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"comment": ["This field is required."]}),
        ({"comment": None}, {"comment": ["This field may not be null."]}),
        ({"comment": "\t\n"}, {"comment": ["This field may not be blank."]}),
        ({"comment": "x", "mentions": None}, {"mentions": ["This field may not be null."]}),
        ({"comment": "x", "mentions": "ana"}, {"mentions": ['Expected a list of items but got type "str".']}),
    ],
)
def test_an_invalid_edit_is_400_and_creates_no_command(
    gateway: Gateway, ledger: Engine, body: Any, errors: Any
) -> None:
    response = send(gateway, "PUT", f"{COMMENTS}1/", json=body)

    assert (response.status_code, response.json()) == (400, errors)
    assert accepted_count(ledger) == 0


# --- permissions and versions ------------------------------------------------------------------------------------

WRITES = [
    ("PUT", INCIDENT, CLOSE),
    ("POST", SEEN, None),
    ("POST", SUBSCRIPTIONS, None),
    ("DELETE", SUBSCRIPTIONS, None),
    ("PUT", f"{COMMENTS}1/", {"comment": "x"}),
    ("DELETE", f"{COMMENTS}1/", None),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
@pytest.mark.parametrize(
    ("by", "organization", "number", "status"),
    [
        ("dev-mem-read", "acme", 1, 403),
        ("dev-mem-alerts", "acme", 1, 403),
        ("dev-out", "acme", 1, 403),
        ("dev-mem", "plain", 1, 404),
        ("dev-mem", "plain", 99, 404),
        ("dev-out", "plain", 1, 403),
        ("dev-mem", "closed", 1, 403),
        ("dev-mem", "closed", 99, 404),
        ("dev-mem", "acme", 99, 404),
    ],
)
def test_every_write_checks_scope_feature_incident_and_project(
    gateway: Gateway, busy_worker: Worker, method: str, path: str, body: Any,
    by: str, organization: str, number: int, status: int,
) -> None:  # fmt: skip
    other_path = path.replace("/acme/incidents/1/", f"/{organization}/incidents/{number}/")

    response = send(gateway, method, other_path, by=by, json=body)

    assert response.status_code == status
    assert response.json() == (FORBIDDEN if status == 403 else NOT_FOUND)


@pytest.mark.parametrize(("method", "path", "body"), WRITES[:4])
def test_api_keys_and_services_that_act_for_nobody_cannot_write(
    gateway: Gateway, ledger: Engine, method: str, path: str, body: Any
) -> None:
    for by in ("dev-key", "dev-bot"):
        response = send(gateway, method, path, by=by, json=body)
        assert (response.status_code, response.json()) == (403, FORBIDDEN)
    assert accepted_count(ledger) == 0


def test_if_match_accepts_an_etag(gateway: Gateway, busy_worker: Worker) -> None:
    read = gateway.get(INCIDENT).headers["ETag"]
    gateway.post(COMMENTS, A_COMMENT)

    stale = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": read})
    fresh = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": gateway.get(INCIDENT).headers["ETag"]})

    assert (stale.status_code, stale.json()) == (412, STALE)
    assert fresh.status_code == 200


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        *((tag, 200) for tag in ('"1"', "*", 'W/"1"', '"1-ab-gzip"', '"1;gzip"', '"x", "1"', '"1", "2"', '"0", "1"')),
        *((tag, 412) for tag in ('"2"', f'"{"9" * 19}"', f'"{"9" * 20}"', '"x"', '""', '"2", "3"', '"1x"', '"-1"')),
        ("1", 400),
    ],
)
def test_if_match_passes_if_one_of_its_tags_has_the_version(
    gateway: Gateway, busy_worker: Worker, condition: str, status: int
) -> None:
    response = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": condition})

    assert response.status_code == status


@pytest.mark.parametrize(("version", "status"), [(1, 200), ("1", 200), (2, 412), (-7, 412), (2**70, 412)])
def test_a_bulk_item_can_require_a_version(gateway: Gateway, busy_worker: Worker, version: Any, status: int) -> None:
    item = {"type": "incident.set_status", "incident": 1, "status": 2, "ifVersion": version}

    [command] = gateway.post(COMMANDS, {"commands": [item]}, Prefer="wait=10").json()["commands"]

    assert command["outcome"]["status"] == status


def test_the_version_of_a_bulk_item_is_an_integer_and_only_for_conditional_commands(gateway: Gateway) -> None:
    closing = {"type": "incident.set_status", "incident": 1, "status": 2}
    items = [
        closing | {"ifVersion": "x"},
        closing | {"ifVersion": None},
        {"type": "incident.mark_seen", "incident": 1, "ifVersion": 1},
    ]

    response = gateway.post(COMMANDS, {"commands": items})

    assert (response.status_code, response.json()) == (400, {"commands": {
        "0": {"ifVersion": INTEGER},
        "1": {"ifVersion": ["This field may not be null."]},
        "2": {"ifVersion": ["Unknown field."]},
    }})  # fmt: skip


@pytest.mark.parametrize(("method", "status"), [("PUT", 200), ("DELETE", 204)])
def test_with_if_match_a_comment_is_changed_only_if_its_version_is_current(
    gateway: Gateway, busy_worker: Worker, method: str, status: int
) -> None:
    path = post_comment(gateway)
    send(gateway, "PUT", path, json={"comment": "second"})

    stale = send(gateway, method, path, json={"comment": "third"}, headers={"If_Match": '"1"'})
    fresh = send(gateway, method, path, json={"comment": "third"}, headers={"If_Match": '"2"'})

    assert (stale.status_code, fresh.status_code) == (412, status)


def test_an_idempotency_key_reused_with_another_if_match_is_refused(gateway: Gateway, busy_worker: Worker) -> None:
    first = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": '"1"', "Idempotency_Key": "k"})
    again = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": '"1"', "Idempotency_Key": "k"})
    other = send(gateway, "PUT", INCIDENT, json=CLOSE, headers={"If_Match": "*", "Idempotency_Key": "k"})

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()


def test_concurrent_requests_to_close_an_incident_are_applied_once(gateway: Gateway, busy_worker: Worker) -> None:
    responses = gateway.concurrently(8, lambda: send(gateway, "PUT", INCIDENT, json={"status": 2, "comment": "Done"}))

    assert [(response.status_code, response.json()["status"]) for response in responses] == [(200, 2)] * 8
    assert [each["type"] for each in gateway.get(f"{INCIDENT}activity/").json()] == [2]


def test_editing_a_deleted_comment_is_404(gateway: Gateway, busy_worker: Worker) -> None:
    path = post_comment(gateway)
    send(gateway, "DELETE", path)

    response = send(gateway, "PUT", path, json={"comment": "Too late"})

    assert (response.status_code, response.json()) == (404, NOT_FOUND)
