"""Unknown body fields and query parameters: ignored and named by default, refused with ``Prefer: handling=strict``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.engine import Engine

from gateway.api.endpoint import Endpoint
from gateway.http.prefer import parse_prefer
from gateway.http.responses import MAX_NAMES_LENGTH, list_of_names
from gateway.main import ENDPOINTS
from models.notifications.delivery import deliveries
from models.operations.dead import DeadSelection
from models.operations.requeue import start_requeue
from tests.alertmanager import payload
from tests.builders import a_chat_destination, a_webhook, a_webhook_delivery
from tests.http.alert_rule_requests import RULES, accepted_count
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, Worker
from tests.http.test_alertmanager import ALERTS
from tests.http.test_notifications import a_notification
from tests.rule_bodies import RULE

STRICT: Final = "handling=strict"
UNKNOWN_FIELD: Final = ["Unknown field."]
UNKNOWN_PARAMETER: Final = ["Unknown query parameter."]
CALLERS: Final = {
    "directory": "dev-ops",
    "integrations": "dev-bot",
    "notifications": "dev-ana",
    "operations": "dev-ops",
}
"""The token for the endpoints of each tag. The others are called by an owner."""

EXISTING: Final = {"organization": "acme", "identifier": "1", "comment": "1", "project": "p1", "rule": "1",
                   "trigger": "1001", "action": "1002", "webhook": "1", "destination": "1",
                   "hold": "1", "operation": "1"}  # fmt: skip
A_TRIGGER: Final = {"label": "critical", "alertThreshold": 100}
AN_ACTION: Final = {"type": "email", "targetType": "user", "targetIdentifier": "11"}


def operations() -> Iterator[Any]:
    for endpoint in ENDPOINTS:
        for method, operation in endpoint.operations.items():
            yield pytest.param(endpoint, method, id=operation.handle.__name__)


@pytest.mark.parametrize(("endpoint", "method"), list(operations()))
def test_every_route_refuses_an_unknown_query_parameter_in_strict_mode(
    gateway: Gateway, rules: None, ledger: Engine, endpoint: Endpoint, method: str
) -> None:
    a_notification(ledger, comment="new")
    with ledger.begin() as connection:
        organization = connection.exec_driver_sql("SELECT id FROM organizations WHERE slug = 'acme'").scalar_one()
        a_webhook(connection, organization, id=1)
        a_chat_destination(connection, organization, id=1)
        delivery = a_webhook_delivery(connection, 1)
        if "destination" in endpoint.path:
            connection.execute(update(deliveries).values(channel="chat"))
        start_requeue(connection, DeadSelection(all=True), reason="x", by="ops")
    notification = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()[0]["id"]
    command = gateway.post(COMMENTS, A_COMMENT, by="dev-own", Prefer="respond-async").headers["command-id"]
    path = endpoint.path.format_map(EXISTING | {"notification": notification, "command": command, "delivery": delivery})
    accepted = accepted_count(ledger)

    with gateway.client(CALLERS.get(endpoint.tag, "dev-own"), Prefer=STRICT) as client:
        body = valid_body(path, method)
        response = client.request(method, f"{path}?colour=red", json=body)

    assert (response.status_code, response.json()["colour"]) == (400, UNKNOWN_PARAMETER)
    assert response.headers["preference-applied"] == STRICT
    assert accepted_count(ledger) == accepted


def valid_body(path: str, method: str) -> Any:
    if "integrations" in path:
        return payload()
    if path == COMMANDS and method == "POST":
        return {"commands": [{"type": "comment.post", "incident": 1, "comment": "x"}]}
    return None


def test_an_unknown_field_is_ignored_and_named_in_the_response(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(f"{COMMENTS}?colour=red", A_COMMENT | {"mention": ["user:12"], "incident": 7})

    assert response.status_code == 201
    assert response.headers["tocsin-ignored"] == "mention, incident, colour"
    assert "preference-applied" not in response.headers


def test_an_unknown_parameter_of_a_read_is_ignored_and_named_in_the_response(gateway: Gateway) -> None:
    response = gateway.get(f"{ACME}/incidents/?statsu=open&per_page=5")

    assert (response.status_code, response.headers["tocsin-ignored"]) == (200, "statsu")


def test_a_request_with_known_names_has_no_list_of_ignored_ones(gateway: Gateway, busy_worker: Worker) -> None:
    posted = gateway.post(COMMENTS, A_COMMENT | {"external_id": "a", "mentions": []}, Prefer="handling=strict, wait=9")
    listed = gateway.get(f"{ACME}/incidents/?status=open&cursor=&per_page=5", Prefer=STRICT)

    assert (posted.status_code, listed.status_code) == (201, 200)
    assert "tocsin-ignored" not in [*posted.headers, *listed.headers]
    assert (posted.headers["preference-applied"], listed.headers["preference-applied"]) == (f"wait=9, {STRICT}", STRICT)


def test_in_strict_mode_unknown_fields_are_refused_beside_invalid_ones(gateway: Gateway, ledger: Engine) -> None:
    response = gateway.post(
        f"{COMMENTS}?colour=red", {"comment": "", "incident": 7, "mention": [], "\N{GRINNING FACE}": 1}, Prefer=STRICT
    )

    assert response.status_code == 400
    assert response.json() == {
        "comment": ["This field may not be blank."],
        "incident": UNKNOWN_FIELD,
        "mention": UNKNOWN_FIELD,
        "\N{GRINNING FACE}": UNKNOWN_FIELD,
        "colour": UNKNOWN_PARAMETER,
    }
    assert accepted_count(ledger) == 0


def test_a_name_with_a_lone_surrogate_is_refused_or_named_like_any_other(gateway: Gateway, busy_worker: Worker) -> None:
    content = json.dumps(A_COMMENT | {"\ud800": 1})
    headers = {"Content-Type": "application/json"}

    with gateway.client() as client:
        lenient = client.post(COMMENTS, content=content, headers=headers)
        strict = client.post(COMMENTS, content=content, headers=headers | {"Prefer": STRICT})
        item = '{"commands": [{"type": "comment.post", "incident": 1, "comment": "x", "\\ud800": 1}]}'
        bulk = client.post(COMMANDS, content=item, headers=headers)

    assert (lenient.status_code, lenient.headers["tocsin-ignored"]) == (201, "%3F")
    assert (strict.status_code, strict.json()) == (400, {"?": UNKNOWN_FIELD})
    assert (bulk.status_code, bulk.json()) == (400, {"commands": {"0": {"?": UNKNOWN_FIELD}}})


def test_only_a_caller_with_access_learns_which_fields_are_unknown(gateway: Gateway) -> None:
    unknown = gateway.post(f"{ACME}/incidents/99/comments/", A_COMMENT | {"x": 1}, Prefer=STRICT)
    unreadable = gateway.get(f"{ACME}/incidents/99/?x=1", Prefer=STRICT)

    assert (unknown.status_code, unreadable.status_code) == (404, 404)


def test_a_route_without_fields_refuses_every_field_in_strict_mode(gateway: Gateway, busy_worker: Worker) -> None:
    strict = gateway.post(f"{ACME}/incidents/1/seen/", {"incident": 1}, Prefer=STRICT)
    lenient = gateway.post(f"{ACME}/incidents/1/seen/", {"incident": 1})

    assert (strict.status_code, strict.json()) == (400, {"incident": UNKNOWN_FIELD})
    assert (lenient.status_code, lenient.headers["tocsin-ignored"]) == (201, "incident")


# --- nested fields ---------------------------------------------------------------------------------------------


def test_nested_fields_are_named_by_their_path(gateway: Gateway, busy_worker: Worker) -> None:
    trigger = A_TRIGGER | {"colour": 1, "actions": [AN_ACTION, AN_ACTION | {"sound": 1}]}

    response = gateway.post(RULES, RULE | {"triggers": [trigger], "alert_rule": 9, "time_window": 10})

    assert response.status_code == 201
    assert response.headers["tocsin-ignored"] == "alert_rule, triggers/0/colour, triggers/0/actions/1/sound"


def test_nested_unknown_fields_are_refused_in_strict_mode(gateway: Gateway, ledger: Engine) -> None:
    trigger = A_TRIGGER | {"actions": [AN_ACTION | {"sound": 1}]}

    response = gateway.post(RULES, RULE | {"triggers": [trigger], "colour": 1}, Prefer=STRICT)

    assert (response.status_code, response.json()) == (400, {"colour": UNKNOWN_FIELD, "sound": UNKNOWN_FIELD})
    assert accepted_count(ledger) == 0


def test_the_fields_of_an_action_that_is_the_whole_body_are_examined(
    gateway: Gateway, rules: None, busy_worker: Worker
) -> None:
    path = f"{RULES}1/triggers/1001/actions/"

    strict = gateway.post(path, AN_ACTION | {"sound": 1}, Prefer=STRICT)
    lenient = gateway.post(path, AN_ACTION | {"sound": 1})

    assert (strict.status_code, strict.json()) == (400, {"sound": UNKNOWN_FIELD})
    assert (lenient.status_code, lenient.headers["tocsin-ignored"]) == (201, "sound")


def test_the_fields_beside_the_items_of_a_bulk_request_are_examined(gateway: Gateway) -> None:
    body = {"commands": [{"type": "comment.post", "incident": 1, "comment": "x"}], "command": []}

    strict = gateway.post(COMMANDS, body, Prefer=STRICT)
    lenient = gateway.post(COMMANDS, body)

    assert (strict.status_code, strict.json()) == (400, {"command": UNKNOWN_FIELD})
    assert (lenient.status_code, lenient.headers["tocsin-ignored"]) == (202, "command")


def test_everything_that_alertmanager_sends_is_known(gateway: Gateway) -> None:
    response = gateway.post(ALERTS, payload(), by="dev-bot", Prefer=STRICT)
    other = gateway.post(ALERTS, payload(shard=1), by="dev-bot")

    assert (response.status_code, "tocsin-ignored" in response.headers) == (202, False)
    assert (other.status_code, other.headers["tocsin-ignored"]) == (202, "shard")


# --- the header ------------------------------------------------------------------------------------------------


def test_a_refused_stream_is_closed(gateway: Gateway) -> None:
    response = gateway.get(f"{ACME}/events/?incidnet=1", Prefer=STRICT)

    assert (response.status_code, response.json()) == (400, {"incidnet": UNKNOWN_PARAMETER})
    assert gateway.app.state.container.broadcaster.stream_count == 0


def test_names_cannot_end_the_header_or_each_other() -> None:
    assert list_of_names(["a, b", "a%2C", "x\r\ny", "é", "a, b"]) == "a%2C%20b, a%252C, x%0D%0Ay, %C3%A9"


def test_a_long_list_of_names_is_cut() -> None:
    listed = list_of_names([f"field{number}" for number in range(500)])

    assert len(listed) < MAX_NAMES_LENGTH + 10
    assert listed.endswith(", ...")
    assert list_of_names(["x" * 5000]) == "x" * 100 + "..."


@pytest.mark.parametrize(("header", "is_strict"), [("handling=strict", True), ('Handling="strict"; a=b, wait=1', True),
                                                   ("handling=lenient", False), ("strict", False)])  # fmt: skip
def test_strict_handling_is_a_preference_of_rfc_7240(header: str, is_strict: bool) -> None:
    assert parse_prefer(header).is_strict is is_strict


def test_scripts_of_other_sites_may_read_the_ignored_names(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, headers={"Authorization": "Bearer dev-mem", "Origin": gateway.url}) as own:
        response = own.get(f"{ACME}/incidents/?x=1")

    assert "Tocsin-Ignored" in response.headers["access-control-expose-headers"]
