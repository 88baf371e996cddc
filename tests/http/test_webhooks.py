"""Webhooks over HTTP: who may manage them, what they accept, and where their secrets appear."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.base import new_id
from models.notifications.delivery import deliveries, delivery_attempts
from models.notifications.network_guard import NetworkGuard, Resolve, parse_networks
from models.notifications.webhook import MAX_WEBHOOKS, SECRET_PURPOSE, webhooks
from models.secrets import SecretBox
from tests.builders import a_webhook, a_webhook_delivery
from tests.delivery.webhook_receiver import resolving_to
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMANDS, SECRET, Gateway, Worker, running_gateway

WEBHOOKS: Final = f"{ACME}/webhooks/"
BOX: Final = SecretBox((SECRET,), SECRET_PURPOSE)
URL: Final = "https://hooks.example.com/tocsin"
BODY: Final[dict[str, Any]] = {"url": URL, "events": ["incident.*", "command.dead"], "description": "Chat bridge"}
FORBIDDEN: Final = {"detail": "You do not have permission to perform this action."}
NOT_FOUND: Final = {"detail": "The requested resource does not exist"}


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that has a secret, and to which every name resolves to a public address."""
    with running_gateway(settings()) as gateway:
        resolve_to(gateway, resolving_to("93.184.215.14"))
        yield gateway


def resolve_to(gateway: Gateway, resolve: Resolve, *, allow: str = "") -> None:
    checker = type(gateway.app.state.container.target_checker)
    gateway.app.state.container.target_checker = checker(NetworkGuard(parse_networks(allow)), resolve)


def send(
    gateway: Gateway, method: str, path: str, body: Any = None, *, by: str = "dev-own", **headers: str
) -> httpx.Response:
    with gateway.client(by, **headers) as client:
        return client.request(method, path, json=body)


def create(gateway: Gateway, **changes: Any) -> dict[str, Any]:
    response = send(gateway, "POST", WEBHOOKS, BODY | changes)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


def stored_secret(ledger: Engine, webhook: str, column: str = "secret") -> str:
    with ledger.connect() as connection:
        sealed = connection.execute(select(webhooks.c[column]).where(webhooks.c.id == int(webhook))).scalar_one()
    return BOX.decrypt(sealed)


def everything_stored(ledger: Engine) -> str:
    """Return every row of every table as text."""
    with ledger.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT quote_ident(table_name) AS name FROM information_schema.tables WHERE table_schema = 'public'"
        ).scalars()
        return "\n".join(
            row
            for table in tables.all()
            for row in connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars()
        )


# --- the webhook -----------------------------------------------------------------------------------------------


def test_a_webhook_is_created_with_a_secret_that_all_libraries_accept(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    created = create(gateway)

    secret = created.pop("secret")
    assert created == {
        "id": created["id"],
        "url": URL,
        "events": ["incident.*", "command.dead"],
        "description": "Chat bridge",
        "status": "active",
        "disabledReason": None,
        "failingSince": None,
        "version": 1,
        "dateCreated": created["dateCreated"],
    }
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert stored_secret(ledger, created["id"]) == secret
    assert send(gateway, "GET", f"{WEBHOOKS}{created['id']}/").json() == created
    assert send(gateway, "GET", WEBHOOKS).json() == [created]


def test_the_secret_appears_in_no_other_answer_and_is_stored_nowhere_in_plain(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    response = send(gateway, "POST", WEBHOOKS, BODY)
    webhook, secret = response.json()["id"], response.json()["secret"]
    rotated = send(gateway, "POST", f"{WEBHOOKS}{webhook}/rotate/")
    bulk = send(gateway, "POST", COMMANDS, {"commands": [BODY | {"type": "webhook.create"}]}, Prefer="wait=20")

    others = [
        bulk,
        *(send(gateway, "GET", f"/api/0/commands/{each.headers['Command-Id']}/") for each in (response, rotated)),
        send(gateway, "GET", f"/api/0/commands/{bulk.json()['commands'][0]['id']}/"),
        send(gateway, "GET", WEBHOOKS),
        send(gateway, "GET", f"{WEBHOOKS}{webhook}/"),
        send(gateway, "PUT", f"{WEBHOOKS}{webhook}/", {"description": ""}),
    ]

    assert [each.status_code for each in others] == [200] * 7
    assert bulk.json()["commands"][0]["outcome"]["status"] == 201
    stored = everything_stored(ledger)
    for each in (*(other.text for other in others), stored):
        assert "whsec_" not in each
        assert secret not in each
        assert "sealed" not in each or each is stored


def test_a_repeated_request_gets_the_same_secret_even_after_a_rotation(gateway: Gateway, busy_worker: Worker) -> None:
    first = send(gateway, "POST", WEBHOOKS, BODY, Idempotency_Key="once")
    rotate = f"{WEBHOOKS}{first.json()['id']}/rotate/"
    rotated = send(gateway, "POST", rotate, Idempotency_Key="twice")

    again = send(gateway, "POST", WEBHOOKS, BODY, Idempotency_Key="once")
    rotated_again = send(gateway, "POST", rotate, Idempotency_Key="twice")

    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert rotated_again.json() == rotated.json()
    assert rotated.json()["secret"] != first.json()["secret"]


def test_a_request_that_did_not_wait_gets_the_secret_when_it_is_repeated(gateway: Gateway, worker: Worker) -> None:
    accepted = send(gateway, "POST", WEBHOOKS, BODY, Idempotency_Key="once", Prefer="respond-async")
    worker.apply()

    again = send(gateway, "POST", WEBHOOKS, BODY, Idempotency_Key="once")

    assert (accepted.status_code, "secret" in accepted.json()) == (202, False)
    assert again.json()["secret"].startswith("whsec_")


def test_rotating_keeps_the_previous_secret_for_a_day(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    created = create(gateway)

    rotated = send(gateway, "POST", f"{WEBHOOKS}{created['id']}/rotate/")

    assert (rotated.status_code, rotated.json()["version"]) == (200, 2)
    assert stored_secret(ledger, created["id"]) == rotated.json()["secret"]
    assert stored_secret(ledger, created["id"], "previous_secret") == created["secret"]
    with ledger.connect() as connection:
        hours = connection.exec_driver_sql(
            "SELECT extract(epoch FROM previous_secret_until - date_modified) / 3600 FROM webhooks"
        ).scalar_one()
    assert hours == 24


def test_without_a_secret_for_encryption_no_webhook_is_created(
    acme: Acme, settings: Callable[..., GatewaySettings], ledger: Engine
) -> None:
    with running_gateway(settings(secret=None)) as gateway:
        response = send(gateway, "POST", WEBHOOKS, BODY | {"url": "https://93.184.215.14/"})

    assert response.status_code == 400
    assert "TOCSIN_SECRET" in response.json()["detail"]
    with ledger.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM commands").scalar_one() == 0


def test_a_webhook_is_changed_disabled_and_enabled_again(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    webhook = create(gateway)
    path = f"{WEBHOOKS}{webhook['id']}/"
    etag = send(gateway, "GET", path).headers["ETag"]

    changed = send(gateway, "PUT", path, {"events": ["*"], "status": "disabled"}, If_Match=etag)
    stale = send(gateway, "PUT", path, {"events": ["incident.*"]}, If_Match=etag)
    nothing = send(gateway, "PUT", path, {"events": ["*"]})
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE webhooks SET failing_since = now()")
    enabled = send(gateway, "PUT", path, {"status": "active"})

    assert (changed.status_code, stale.status_code, nothing.status_code) == (200, 412, 200)
    shown = {name: changed.json()[name] for name in ("url", "events", "status", "disabledReason", "version")}
    assert shown == {"url": URL, "events": ["*"], "status": "disabled", "disabledReason": "manual", "version": 2}
    assert nothing.json()["version"] == 2
    assert (enabled.json()["status"], enabled.json()["disabledReason"]) == ("active", None)
    assert (enabled.json()["failingSince"], enabled.json()["version"]) == (None, 3)


def test_a_deleted_webhook_is_gone(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{WEBHOOKS}{create(gateway)['id']}/"

    deleted = send(gateway, "DELETE", path)

    assert (deleted.status_code, deleted.content) == (204, b"")
    requests = [
        ("GET", path), ("PUT", path), ("DELETE", path), ("POST", f"{path}rotate/"), ("POST", f"{path}test/"),
        ("GET", f"{path}deliveries/"), ("GET", f"{path}deliveries/{new_id()}/"),
        ("POST", f"{path}deliveries/{new_id()}/redeliver/"), ("GET", f"{WEBHOOKS}x/"), ("GET", f"{WEBHOOKS}0/"),
    ]  # fmt: skip
    for method, url in requests:
        response = send(gateway, method, url, {} if method == "PUT" else None)
        assert (response.status_code, response.json()) == (404, NOT_FOUND), (method, url)


def test_the_commands_of_one_batch_see_each_other(gateway: Gateway, worker: Worker, ledger: Engine) -> None:
    with ledger.begin() as connection:
        for number in range(MAX_WEBHOOKS - 1):
            a_webhook(connection, 1, id=1_000 + number)
    items = [
        BODY | {"type": "webhook.create"},
        BODY | {"type": "webhook.create"},
        {"type": "webhook.update", "id": 1_000, "description": "first"},
        {"type": "webhook.update", "id": 1_000, "description": "second", "ifVersion": 2},
        {"type": "webhook.delete", "id": "1000"},
        {"type": "webhook.rotate", "id": 1_000},
        BODY | {"type": "webhook.create"},
    ]
    accepted = send(gateway, "POST", COMMANDS, {"commands": items}).json()["commands"]

    worker.apply()

    outcomes = [send(gateway, "GET", f"/api/0/commands/{each['id']}/").json()["outcome"] for each in accepted]
    assert [each["status"] for each in outcomes] == [201, 409, 200, 200, 204, 404, 201]
    assert outcomes[1]["body"] == {"detail": f"An organization may have at most {MAX_WEBHOOKS} webhooks."}
    assert outcomes[3]["body"]["version"] == 3


# --- who -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["dev-mem", "dev-ben", "dev-bot", "dev-key", "dev-reader"])
def test_only_managers_owners_and_services_with_their_scopes_see_or_change_webhooks(
    gateway: Gateway, ledger: Engine, by: str
) -> None:
    with ledger.begin() as connection:
        path = f"{WEBHOOKS}{a_webhook(connection, 1)}/"

    requests = [
        ("GET", WEBHOOKS), ("POST", WEBHOOKS), ("GET", path), ("PUT", path), ("DELETE", path),
        ("POST", f"{path}rotate/"), ("POST", f"{path}test/"), ("GET", f"{path}deliveries/"),
        ("GET", f"{path}deliveries/{new_id()}/"), ("POST", f"{path}deliveries/{new_id()}/redeliver/"),
    ]  # fmt: skip
    for method, url in requests:
        response = send(gateway, method, url, BODY if method in ("POST", "PUT") else None, by=by)
        assert (response.status_code, response.json()) == (403, FORBIDDEN), (method, url)


def test_a_manager_and_a_service_with_the_scope_manage_webhooks(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE members SET role = 'manager' WHERE user_id = 12")
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{org:write}' WHERE kind = 'service'")

    created = [send(gateway, "POST", WEBHOOKS, BODY, by=by) for by in ("dev-ana", "dev-bot")]

    assert [each.status_code for each in created] == [201, 201]
    with ledger.connect() as connection:
        authors = connection.exec_driver_sql("SELECT created_by FROM webhooks ORDER BY id").scalars().all()
    assert authors == [12, None]


def test_another_organizations_webhook_is_unknown(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    with ledger.begin() as connection:
        path = f"{WEBHOOKS}{a_webhook(connection, 2)}/"

    statuses = [
        send(gateway, method, path, {} if method == "PUT" else None).status_code for method in ("GET", "PUT", "DELETE")
    ]

    assert statuses == [404, 404, 404]


# --- what ------------------------------------------------------------------------------------------------------

NOT_PUBLIC: Final = ["This address may not be reached: it is not public."]
NO_URL: Final = ["Enter a valid URL."]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"url": ["This field is required."], "events": ["This field is required."]}),
        (BODY | {"url": None}, {"url": ["This field may not be null."]}),
        (BODY | {"url": "hooks"}, {"url": ["The URL must start with https://."]}),
        (BODY | {"url": "http://hooks.example.com/"}, {"url": ["The URL must start with https://."]}),
        (BODY | {"url": "https://hooks.example.com:0/"}, {"url": ["The port must be between 1 and 65535."]}),
        (BODY | {"url": "https://u:p@hooks.example.com/"},
         {"url": ["The URL may not contain a user name or a password."]}),
        (BODY | {"url": "https://hooks.example.com\\@x/"}, {"url": NO_URL}),
        (BODY | {"url": "https://" + "a" * 2000}, {"url": ["Ensure this field has no more than 2000 characters."]}),
        (BODY | {"events": []}, {"events": ["This list may not be empty."]}),
        (BODY | {"events": "*"}, {"events": ['Expected a list of items but got type "str".']}),
        (BODY | {"events": ["*", "incident"]},
         {"events": {"1": ["Enter an event type, a family such as incident.*, or *."]}}),
        (BODY | {"events": ["*"] * 51}, {"events": ["Ensure this field has no more than 50 elements."]}),
        (BODY | {"description": "x" * 201}, {"description": ["Ensure this field has no more than 200 characters."]}),
    ],
)  # fmt: skip
def test_a_malformed_webhook_is_refused_before_acceptance(gateway: Gateway, body: Any, errors: Any) -> None:
    response = send(gateway, "POST", WEBHOOKS, body)

    assert (response.status_code, response.json()) == (400, errors)
    assert "Command-Id" not in response.headers


def test_a_change_has_the_same_limits(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        path = f"{WEBHOOKS}{a_webhook(connection, 1)}/"

    response = send(gateway, "PUT", path, {"url": "hooks", "events": [], "description": "x" * 201, "status": "off"})

    assert (response.status_code, response.json()) == (
        400,
        {
            "url": ["The URL must start with https://."],
            "events": ["This list may not be empty."],
            "description": ["Ensure this field has no more than 200 characters."],
            "status": ['"off" is not a valid choice.'],
        },
    )


@pytest.mark.parametrize("pattern", ["incident.unknown", "unknown.*", "webhook.test", "webhook.*", "notification.*"])
def test_a_pattern_that_matches_no_event_is_refused(gateway: Gateway, busy_worker: Worker, pattern: str) -> None:
    response = send(gateway, "POST", WEBHOOKS, BODY | {"events": ["*", pattern]})

    assert (response.status_code, response.json()) == (400, {"events": {"1": [f'No event matches "{pattern}".']}})


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("93.184.215.14", "10.0.0.1"), ("::ffff:127.0.0.1",), ("64:ff9b::7f00:1",)]
)
def test_a_target_that_may_not_be_reached_is_refused_everywhere(
    gateway: Gateway, ledger: Engine, addresses: tuple[str, ...]
) -> None:
    with ledger.begin() as connection:
        webhook = a_webhook(connection, 1)
    resolve_to(gateway, resolving_to(*addresses))

    created = send(gateway, "POST", WEBHOOKS, BODY)
    changed = send(gateway, "PUT", f"{WEBHOOKS}{webhook}/", {"url": URL})
    items = [{"type": "webhook.delete", "id": webhook}, BODY | {"type": "webhook.create"}]
    bulk = send(gateway, "POST", COMMANDS, {"commands": items})

    assert [each.status_code for each in (created, changed, bulk)] == [400, 400, 400]
    assert created.json() == changed.json() == {"url": NOT_PUBLIC}
    assert bulk.json() == {"commands": {"1": {"url": NOT_PUBLIC}}}


def test_a_change_without_a_url_resolves_nothing(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{WEBHOOKS}{create(gateway)['id']}/"
    resolve_to(gateway, resolving_to("127.0.0.1"))

    assert send(gateway, "PUT", path, {"description": "x"}).status_code == 200


def test_a_name_that_cannot_be_resolved_is_accepted(gateway: Gateway, busy_worker: Worker) -> None:
    async def fail(host: str, port: int) -> list[str]:
        raise OSError

    resolve_to(gateway, fail)

    assert create(gateway)["status"] == "active"


def test_http_is_accepted_for_allowed_networks_only(gateway: Gateway, busy_worker: Worker) -> None:
    resolve_to(gateway, resolving_to("10.1.2.3"), allow="10.1.0.0/16")
    allowed = send(gateway, "POST", WEBHOOKS, BODY | {"url": "http://inside.example/"})
    resolve_to(gateway, resolving_to("93.184.215.14"), allow="10.1.0.0/16")

    refused = send(gateway, "POST", WEBHOOKS, BODY | {"url": "http://outside.example/"})

    assert allowed.status_code == 201
    assert (refused.status_code, refused.json()) == (
        400,
        {"url": ["This address may only be reached by https."]},
    )


# --- deliveries ------------------------------------------------------------------------------------------------


def test_a_test_call_queues_a_cloud_event(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    webhook = create(gateway)["id"]

    response = send(gateway, "POST", f"{WEBHOOKS}{webhook}/test/")

    delivery = response.json()
    assert response.status_code == 202
    assert (delivery["status"], delivery["attempts"], delivery["event"]["type"]) == ("pending", [], "webhook.test")
    with ledger.connect() as connection:
        row = connection.execute(select(deliveries)).one()
    body = json.loads(row.body)
    assert (str(row.id), row.channel, row.destination_id) == (delivery["id"], "webhook", int(webhook))
    assert row.target_key == f"webhook:1:{webhook}"
    assert (body["type"], body["id"], body["source"]) == (
        "webhook.test",
        delivery["event"]["id"],
        "/organizations/acme",
    )
    assert (body["specversion"], body["subject"]) == ("1.0", f"webhooks/{webhook}")
    assert body["data"]["webhook"] == {"id": webhook}
    assert body["data"]["actor"]["name"] == "Own"
    path = f"{WEBHOOKS}{webhook}/deliveries/{delivery['id']}/"
    assert send(gateway, "GET", path).json() == delivery | {
        "dateCreated": send(gateway, "GET", path).json()["dateCreated"]
    }


def test_the_log_of_deliveries_is_paged_newest_first_with_every_attempt(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        webhook, other = a_webhook(connection, 1), a_webhook(connection, 1)
        a_webhook_delivery(connection, other)
        oldest = a_webhook_delivery(connection, webhook, state="delivered", attempts=2)
        for number, status, error in ((2, 200, None), (1, 503, "The server answered 503.")):
            connection.execute(
                delivery_attempts.insert().values(
                    delivery_id=oldest, number=number, status=status, duration_ms=10 * number, error=error
                )
            )
        withheld = a_webhook_delivery(connection, webhook, state="suppressed", detail="webhook_disabled")
        pending = a_webhook_delivery(connection, webhook)
    path = f"{WEBHOOKS}{webhook}/deliveries/"

    first = send(gateway, "GET", f"{path}?per_page=2")
    second = send(gateway, "GET", httpx.URL(first.headers["Link"].split("<")[2].split(">")[0]).raw_path.decode())

    listed = [*first.json(), *second.json()]
    assert [each["id"] for each in listed] == [str(pending), str(withheld), str(oldest)]
    assert [each["status"] for each in listed] == ["pending", "failed", "delivered"]
    assert listed[0]["nextAttemptAt"] is not None
    assert (listed[1]["nextAttemptAt"], listed[1]["detail"]) == (None, "webhook_disabled")
    assert [(each["status"], each["durationMs"], each["error"]) for each in listed[2]["attempts"]] == [
        (503, 10, "The server answered 503."),
        (200, 20, None),
    ]
    assert listed[2]["attempts"][0]["at"].endswith("Z")


def test_a_delivery_is_sent_again_with_the_same_id_and_the_same_bytes(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    body = b'{"b": 1e2, "a": "\xc3\x84",  "b": 100}'
    with ledger.begin() as connection:
        webhook = a_webhook(connection, 1)
        delivery = a_webhook_delivery(
            connection, webhook, state="dead", attempts=10, body=body, detail="The server answered 500."
        )

    response = send(gateway, "POST", f"{WEBHOOKS}{webhook}/deliveries/{delivery}/redeliver/")

    assert (response.status_code, response.json()["id"], response.json()["status"]) == (202, str(delivery), "pending")
    with ledger.connect() as connection:
        row = connection.execute(select(deliveries)).one()
    assert (row.id, row.state, bytes(row.body)) == (delivery, "pending", body)
    assert (row.finished_at, row.detail, row.claimed_by) == (None, None, None)


def test_a_delivery_that_is_being_sent_stays_claimed(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    claimed_by = new_id()
    with ledger.begin() as connection:
        webhook = a_webhook(connection, 1)
        delivery = a_webhook_delivery(connection, webhook, claimed_by=claimed_by)

    send(gateway, "POST", f"{WEBHOOKS}{webhook}/deliveries/{delivery}/redeliver/")

    with ledger.connect() as connection:
        assert connection.execute(select(deliveries.c.claimed_by)).scalar_one() == claimed_by


def test_a_disabled_webhook_gets_tests_and_no_redeliveries(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    with ledger.begin() as connection:
        webhook = a_webhook(connection, 1, status="disabled")
        delivery = a_webhook_delivery(connection, webhook, state="dead")

    tested = send(gateway, "POST", f"{WEBHOOKS}{webhook}/test/")
    again = send(gateway, "POST", f"{WEBHOOKS}{webhook}/deliveries/{delivery}/redeliver/")

    assert tested.status_code == 202
    assert (again.status_code, again.json()) == (
        409,
        {"detail": "The webhook is disabled. Set its status to active first."},
    )


def test_a_delivery_of_another_webhook_is_not_sent_again(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    with ledger.begin() as connection:
        webhook, other = a_webhook(connection, 1), a_webhook(connection, 1)
        delivery = a_webhook_delivery(connection, other, state="dead")

    response = send(gateway, "POST", f"{WEBHOOKS}{webhook}/deliveries/{delivery}/redeliver/")

    assert (response.status_code, response.json()) == (404, NOT_FOUND)
    assert send(gateway, "POST", f"{WEBHOOKS}{webhook}/deliveries/x/redeliver/").status_code == 404
