"""Chat destinations over HTTP: who may manage them, what they accept, and that their URLs are secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.notifications.chat_destination import MAX_DESTINATIONS, chat_destinations
from models.notifications.chat_url import URL_PURPOSE
from models.notifications.delivery import deliveries
from models.notifications.network_guard import NetworkGuard
from models.secrets import SecretBox
from tests.builders import a_chat_destination
from tests.delivery.webhook_receiver import resolving_to
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMANDS, Gateway, Worker, running_gateway

DESTINATIONS: Final = f"{ACME}/chat-destinations/"
SECRET: Final = "a secret for these tests"
BOX: Final = SecretBox((SECRET,), URL_PURPOSE)
TOKEN: Final = "3ccdd113474722377935511fc85d3dd4"
URL: Final = f"mmosts://botname@mm.example.com/secretpath/{TOKEN}"
BODY: Final[dict[str, Any]] = {"name": "Operations", "url": URL, "events": ["incident.*"]}
FORBIDDEN: Final = {"detail": "You do not have permission to perform this action."}


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that has a secret, and to which every name resolves to a public address."""
    with running_gateway(settings(secret=SECRET)) as gateway:
        resolve_to(gateway, "93.184.215.14")
        yield gateway


def resolve_to(gateway: Gateway, address: str) -> None:
    container = gateway.app.state.container
    container.target_checker = type(container.target_checker)(NetworkGuard(), resolving_to(address))


def send(
    gateway: Gateway, method: str, path: str, body: Any = None, *, by: str = "dev-own", **headers: str
) -> httpx.Response:
    with gateway.client(by, **headers) as client:
        return client.request(method, path, json=body)


def create(gateway: Gateway, **changes: Any) -> dict[str, Any]:
    response = send(gateway, "POST", DESTINATIONS, BODY | changes)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


def refused(gateway: Gateway, **changes: Any) -> Any:
    response = send(gateway, "POST", DESTINATIONS, BODY | changes)
    assert response.status_code == 400, response.text
    return response.json()


def stored_url(ledger: Engine, destination: str) -> str:
    with ledger.connect() as connection:
        query = select(chat_destinations.c.url).where(chat_destinations.c.id == int(destination))
        return BOX.decrypt(connection.execute(query).scalar_one())


def test_a_destination_is_registered_and_shown_with_its_schema_and_host(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    created = create(gateway)

    assert created == {
        "id": created["id"],
        "name": "Operations",
        "shownUrl": "mmosts://mm.example.com",
        "events": ["incident.*"],
        "user": None,
        "status": "active",
        "failingSince": None,
        "version": 1,
        "dateCreated": created["dateCreated"],
    }
    assert stored_url(ledger, created["id"]) == URL
    assert send(gateway, "GET", f"{DESTINATIONS}{created['id']}/").json() == created
    assert send(gateway, "GET", DESTINATIONS).json() == [created]


def test_no_part_of_the_url_is_in_an_answer_the_ledger_or_a_table(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    url = f"{URL}?channel=secretchannel&optional=yes"
    response = send(gateway, "POST", DESTINATIONS, BODY | {"url": url}, Idempotency_Key="one")
    path = f"{DESTINATIONS}{response.json()['id']}/"
    bulk = send(
        gateway,
        "POST",
        COMMANDS,
        {"commands": [{"type": "chat_destination.create", "name": "Other", "url": url}]},
        Prefer="wait=20",
    )
    answers = [
        response,
        bulk,
        send(gateway, "PUT", path, {"url": url, "name": "New"}),
        send(gateway, "POST", f"{path}test/"),
        send(gateway, "GET", f"/api/0/commands/{response.headers['Command-Id']}/"),
        send(gateway, "GET", path),
        send(gateway, "GET", DESTINATIONS),
        send(gateway, "POST", DESTINATIONS, BODY | {"url": f"{URL},{URL}"}),
        send(gateway, "POST", DESTINATIONS, BODY | {"url": f"json://{TOKEN}/secretpath"}),
    ]

    shown = "".join(each.text for each in answers) + everything_stored(ledger)
    assert bulk.json()["commands"][0]["outcome"]["status"] == 201
    for secret in ("botname", "secretpath", TOKEN, "secretchannel"):
        assert secret not in shown


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


def test_parameters_that_control_apprise_are_not_stored(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    created = create(gateway, url=f"{URL}?optional=yes&retry=5&format=markdown&channel=ops")

    assert stored_url(ledger, created["id"]) == f"{URL}?channel=ops"


@pytest.mark.parametrize("by", ["dev-mem", "dev-ben", "dev-key"])
def test_only_managers_and_owners_see_or_change_destinations(gateway: Gateway, by: str) -> None:
    answers = [
        send(gateway, "POST", DESTINATIONS, BODY, by=by),
        send(gateway, "GET", DESTINATIONS, by=by),
        send(gateway, "DELETE", f"{DESTINATIONS}1/", by=by),
        send(gateway, "POST", f"{DESTINATIONS}1/test/", by=by),
    ]

    assert [(each.status_code, each.json()) for each in answers] == [(403, FORBIDDEN)] * 4


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("url", "json://mm.example.com/", "This service is not supported."),
        ("url", f"{URL},{URL}", "The URL must name exactly one destination."),
        ("url", f"sealed:{TOKEN}", "Apprise cannot read this URL."),
        ("url", "x" * 3000, "Ensure this field has no more than 2000 characters."),
        ("url", "", "This field may not be blank."),
        ("url", None, "This field may not be null."),
        ("url", 5, "This service is not supported."),
        ("name", " ", "This field may not be blank."),
        ("name", "x" * 101, "Ensure this field has no more than 100 characters."),
    ],
)
def test_a_wrong_field_is_refused_before_acceptance(
    gateway: Gateway, ledger: Engine, field: str, value: Any, error: str
) -> None:
    errors = refused(gateway, **{field: value})

    assert list(errors) == [field]
    assert errors[field][0].startswith(error)
    with ledger.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM commands").scalar_one() == 0


@pytest.mark.parametrize("field", ["name", "url"])
def test_name_and_url_are_required(gateway: Gateway, field: str) -> None:
    body = {name: value for name, value in BODY.items() if name != field}

    response = send(gateway, "POST", DESTINATIONS, body)

    assert (response.status_code, response.json()) == (400, {field: ["This field is required."]})


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1"])
def test_a_server_that_may_not_be_reached_is_refused(gateway: Gateway, address: str) -> None:
    resolve_to(gateway, address)

    assert refused(gateway) == {"url": ["This address may not be reached: it is not public."]}


def test_an_insecure_server_is_refused(gateway: Gateway) -> None:
    assert refused(gateway, url=f"mmost://mm.example.com/{TOKEN}") == {"url": ["The URL must start with https://."]}


def test_a_pattern_that_matches_no_event_is_refused(gateway: Gateway, busy_worker: Worker) -> None:
    assert refused(gateway, events=["incident.closed"]) == {"events": {"0": ['No event matches "incident.closed".']}}


def test_names_are_unique_whatever_their_case(gateway: Gateway, busy_worker: Worker) -> None:
    first = create(gateway, name="On call")
    other = create(gateway, name="Other")

    error = {"name": ["A chat destination with this name exists."]}
    assert refused(gateway, name=" ON  CALL ") == error
    response = send(gateway, "PUT", f"{DESTINATIONS}{other['id']}/", {"name": "on call"})
    assert (response.status_code, response.json()) == (400, error)
    assert send(gateway, "PUT", f"{DESTINATIONS}{first['id']}/", {"name": "ON CALL"}).status_code == 200


def test_a_person_has_at_most_one_destination_which_gets_no_events(gateway: Gateway, busy_worker: Worker) -> None:
    created = create(gateway, user="11", events=[])

    assert created["user"] == "11"
    again = send(gateway, "POST", DESTINATIONS, BODY | {"name": "Again", "user": "11", "events": []})
    assert (again.status_code, again.json()) == (409, {"detail": "This person already has a chat destination."})
    own = {"events": ["A person's own destination gets only this person's notifications."]}
    assert refused(gateway, user="12") == own
    response = send(gateway, "PUT", f"{DESTINATIONS}{created['id']}/", {"events": ["*"]})
    assert (response.status_code, response.json()) == (400, own)


@pytest.mark.parametrize("user", ["14", "16", "999999"])
def test_only_an_active_member_can_have_a_destination(gateway: Gateway, busy_worker: Worker, user: str) -> None:
    assert refused(gateway, user=user, events=[]) == {"user": ["User does not exist"]}


def test_a_change_without_a_url_keeps_it(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    created = create(gateway)
    path = f"{DESTINATIONS}{created['id']}/"

    changed = send(gateway, "PUT", path, {"name": "On call", "events": ["*"], "status": "disabled"}).json()
    same = send(gateway, "PUT", path, {"name": "On call"}).json()

    assert (changed["name"], changed["events"], changed["status"], changed["version"]) == (
        "On call", ["*"], "disabled", 2,
    )  # fmt: skip
    assert same == changed
    assert stored_url(ledger, created["id"]) == URL


def test_a_new_url_replaces_the_old_one(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    created = create(gateway)
    url = "discord://123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz"

    changed = send(gateway, "PUT", f"{DESTINATIONS}{created['id']}/", {"url": url}).json()

    assert (changed["shownUrl"], changed["version"]) == ("discord://discord.com", 2)
    assert stored_url(ledger, created["id"]) == url


def test_a_stale_version_changes_nothing(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{DESTINATIONS}{create(gateway)['id']}/"
    send(gateway, "PUT", path, {"name": "On call"})

    answers = [
        send(gateway, "PUT", path, {"name": "New"}, If_Match='"1"'),
        send(gateway, "DELETE", path, If_Match='"1"'),
    ]

    assert [each.status_code for each in answers] == [412, 412]
    assert send(gateway, "GET", path).json()["name"] == "On call"


def test_a_deleted_destination_is_gone_and_its_name_is_free(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{DESTINATIONS}{create(gateway)['id']}/"

    assert send(gateway, "DELETE", path).status_code == 204
    assert [send(gateway, method, path).status_code for method in ("GET", "DELETE")] == [404, 404]
    create(gateway)


def test_a_test_message_is_a_delivery_that_can_be_followed(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    path = f"{DESTINATIONS}{create(gateway)['id']}/"

    response = send(gateway, "POST", f"{path}test/")

    delivery = response.json()
    assert (response.status_code, delivery["status"], delivery["event"]["type"]) == (
        202, "pending", "chat_destination.test",
    )  # fmt: skip
    assert send(gateway, "GET", f"{path}deliveries/{delivery['id']}/").json() == delivery
    assert send(gateway, "GET", f"{path}deliveries/").json() == [delivery]
    with ledger.connect() as connection:
        assert connection.execute(select(deliveries.c.channel)).scalars().all() == ["chat"]


def test_a_destination_of_another_organization_is_unknown(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine
) -> None:
    with ledger.begin() as connection:
        foreign = a_chat_destination(connection, acme.organizations["closed"])

    answers = [
        send(gateway, "GET", f"{DESTINATIONS}{foreign}/"),
        send(gateway, "PUT", f"{DESTINATIONS}{foreign}/", {"name": "x"}),
        send(gateway, "DELETE", f"{DESTINATIONS}{foreign}/"),
        send(gateway, "POST", f"{DESTINATIONS}{foreign}/test/"),
        send(gateway, "GET", f"{DESTINATIONS}{foreign}/deliveries/"),
        send(gateway, "GET", f"{DESTINATIONS}x/"),
    ]

    assert [each.status_code for each in answers] == [404] * 6


def test_an_organization_has_a_limited_number_of_destinations(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine
) -> None:
    with ledger.begin() as connection:
        for _ in range(MAX_DESTINATIONS):
            a_chat_destination(connection, acme.organizations["acme"])

    response = send(gateway, "POST", DESTINATIONS, BODY)

    assert (response.status_code, response.json()) == (
        409, {"detail": f"An organization may have at most {MAX_DESTINATIONS} chat destinations."},
    )  # fmt: skip


def test_without_a_secret_nothing_is_registered(settings: Callable[..., GatewaySettings], acme: Acme) -> None:
    with running_gateway(settings(secret=None)) as gateway:
        resolve_to(gateway, "93.184.215.14")

        response = send(gateway, "POST", DESTINATIONS, BODY)

    assert response.status_code == 400
    assert "TOCSIN_SECRET" in response.json()["detail"]
