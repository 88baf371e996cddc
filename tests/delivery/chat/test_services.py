"""What is posted to each chat service: the whole text, its link, nobody pinged, in one request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from models.base import new_id
from models.enums import IncidentStatus
from models.notifications.chat_url import SERVICES as ALLOWED
from models.notifications.chat_url import URL_PURPOSE, parse_chat_url
from models.notifications.network_guard import NetworkGuard
from models.secrets import SecretBox
from tests.delivery.chat.chat_server import ChatServer, chat_server
from tests.delivery.chat.services import SERVICES, Service
from workers.deliver.channel import AttemptResult, ClaimedDelivery, Outgoing, Verdict
from workers.deliver.channels.chat.channel import ChatAddress, ChatChannel
from workers.deliver.channels.chat.text import MAX_CHARACTERS, READ_ON, compose, defuse

LINK = "https://tocsin.example/organizations/acme/alerts/7/?referrer=a_b&x=1"
PINGS = (
    "@here @channel @all @everyone @room @ana user@here <!channel> <!here|here> <!subteam^S1> <@U1> <@!1> <@&2> <#C1>"
    " <users/all> <at>Ana</at> @**all** @*ops* <https://evil.example|click> [click](https://evil.example)"
)
PING_PATTERNS = (
    "@here",
    "@channel",
    "@all",
    "@everyone",
    "@room",
    "@ana",
    "<!",
    "<@",
    "<#",
    "<users",
    "<at",
    "@*",
    "<http",
    "](",
)


@pytest.fixture(scope="module")
def server_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def server(server_of_module: ChatServer) -> ChatServer:
    server_of_module.requests.clear()
    server_of_module.resolved.clear()
    return server_of_module


@pytest.mark.parametrize("name", SERVICES)
def test_a_message_is_posted_whole_in_one_request_with_its_link(server: ChatServer, name: str) -> None:
    text = compose("[Critical] Checkout is slow (#7)", "Ann commented:\n\nIt is the a_b < c & d case.", LINK)

    result = post(server, SERVICES[name].url, text)

    assert (result.verdict, result.status) == (Verdict.DELIVERED, 200)
    posted = posted_text(server, SERVICES[name])
    assert LINK in posted
    assert "It is the a_b <" in posted.replace("\u200b", "")
    assert "[Critical] Checkout is slow (#7)" in posted
    assert set(server.resolved) == {server.requests[0].host.partition(":")[0]}


@pytest.mark.parametrize("name", SERVICES)
def test_no_text_of_a_person_pings_anyone_or_hides_a_link(server: ChatServer, name: str) -> None:
    text = compose(f"[Open] {defuse(PINGS[:80])} (#7)", f"Ann commented:\n\n{defuse(PINGS)}", LINK)

    post(server, SERVICES[name].url, text)

    posted = posted_text(server, SERVICES[name])
    assert [each for each in PING_PATTERNS if each in posted] == []
    assert "allow_mentions" not in server.messages()[0].body.decode()


@pytest.mark.parametrize("name", SERVICES)
def test_a_long_text_arrives_as_it_was_cut_here(server: ChatServer, name: str) -> None:
    text = compose("[Open] Disk full (#7)", "Ann commented:\n\n" + "word " * 5000, LINK)

    post(server, SERVICES[name].url, text)

    posted = posted_text(server, SERVICES[name])
    assert len(text) <= MAX_CHARACTERS
    assert posted.rstrip().endswith(f"{READ_ON}{LINK}")
    assert len(posted) <= MAX_CHARACTERS


def test_a_message_to_zulip_is_posted_whole(server: ChatServer) -> None:
    url = "zulip://bot@acme/aaaaaaaabbbbbbbbccccccccdddddddd/ops"

    result = post(server, url, compose("[Open] Disk full (#7)", "Ann commented:\n\nOops", LINK))

    assert result.verdict is Verdict.DELIVERED
    (posted,) = server.messages()
    assert parse_qs(posted.body.decode())["content"] == [f"[Open] Disk full (#7)\n\nAnn commented:\n\nOops\n\n{LINK}"]


def test_every_service_of_the_allow_list_is_tested() -> None:
    tested = {parse_chat_url(service.url).service.plugin for service in SERVICES.values()} | {"NotifyZulip"}

    assert {service.plugin for service in ALLOWED.values()} == tested


def test_messages_make_nobody_load_images_from_elsewhere(server: ChatServer) -> None:
    for service in SERVICES.values():
        post(server, service.url, "Hello")

    everything = b" ".join(each.body + str(each.headers).encode() for each in server.requests)
    assert b"github" not in everything
    assert b"image" not in everything


def test_no_keys_of_a_matrix_device_are_replaced(server: ChatServer) -> None:
    post(server, SERVICES["matrix"].url, "Hello")

    assert [each.path for each in server.requests if "/keys/" in each.path] == []


def test_an_incident_becomes_one_pagerduty_incident_that_is_resolved_with_it(server: ChatServer) -> None:
    url = SERVICES["pagerduty"].url

    post(server, url, "It began.", status=IncidentStatus.CRITICAL, incident_id=5)
    post(server, url, "It is over.", status=IncidentStatus.CLOSED, incident_id=5)

    first, second = (each.json() for each in server.messages())
    assert (first["event_action"], second["event_action"]) == ("trigger", "resolve")
    assert first["dedup_key"] == second["dedup_key"] == "tocsin-incident-5"


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_wrong_destination_is_permanent(server: ChatServer, status: int) -> None:
    server.answer(status)

    result = post(server, SERVICES["discord"].url, "Hello")

    assert (result.verdict, result.status, result.is_target_fault) == (Verdict.PERMANENT, status, True)
    assert result.error == f"The service answered {status}."


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_failing_service_is_passing(server: ChatServer, status: int) -> None:
    server.answer(status)

    result = post(server, SERVICES["mattermost"].url, "Hello")

    assert (result.verdict, result.status, result.is_target_fault) == (Verdict.PASSING, status, True)


@pytest.mark.parametrize("name", ["discord", "matrix", "slack", "ntfy"])
def test_a_service_that_asks_for_a_pause_gets_one_request_and_the_pause_is_reported(
    server: ChatServer, name: str
) -> None:
    server.answer(429, {"Retry-After": "77"}, b'{"retry_after": 77, "retry_after_ms": 77000}')

    result = post(server, SERVICES[name].url, "Hello")

    assert (result.verdict, result.status, result.retry_after_seconds) == (Verdict.PASSING, 429, 77)
    assert len(server.requests) == 1


def test_redirects_are_not_followed(server: ChatServer) -> None:
    server.answer(302, {"Location": "https://ntfy.example.org/elsewhere"})

    result = post(server, SERVICES["ntfy"].url, "Hello")

    assert (result.verdict, result.status) == (Verdict.PERMANENT, 302)
    assert len(server.requests) == 1


def test_an_answer_that_refuses_the_message_is_no_success(server: ChatServer) -> None:
    server.answer(200, body=b'{"ok": false, "error": "channel_not_found"}')

    result = post(server, SERVICES["slack bot"].url, "Hello")

    assert (result.verdict, result.status) == (Verdict.PASSING, 200)
    assert result.error == "The service answered 200, but refused the message."


def test_an_address_that_is_not_public_is_never_connected_to(server: ChatServer) -> None:
    result = post(server, SERVICES["mattermost"].url, "Hello", allowed=())

    assert result.verdict is Verdict.PERMANENT
    assert result.error == "This address may not be reached: it is not public."
    assert server.requests == []


def test_without_tls_only_allowed_networks_are_reached(tmp_path: Path) -> None:
    with chat_server(tmp_path, tls=False) as server:
        refused = post(server, "mmost://mm.example.org/3ccdd113474722377935511fc85d3dd4", "Hello", allowed=())
        allowed = post(server, "mmost://mm.example.org/3ccdd113474722377935511fc85d3dd4", "Hello")

    assert (refused.verdict, refused.error) == (Verdict.PERMANENT, "The URL must start with https://.")
    assert allowed.verdict is Verdict.DELIVERED
    assert len(server.requests) == 1


def test_a_certificate_of_an_unknown_authority_is_refused(server: ChatServer) -> None:
    result = post(server, SERVICES["ntfy"].url, "Hello", is_trusted=False)

    assert (result.verdict, result.error) == (Verdict.PASSING, "There was no connection to the service.")
    assert server.requests == []


def test_a_service_that_does_not_answer_is_cut_off_and_the_message_may_have_arrived(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        server.hangs.set()

        result = post(server, SERVICES["ntfy"].url, "Hello", total_seconds=0.2)

        assert result.verdict is Verdict.PASSING
        assert result.error == "There was no answer in time, so the message may have arrived."
        assert len(server.requests) == 1


def test_a_long_answer_is_not_read_to_its_end(server: ChatServer) -> None:
    server.answer(200, body=b"x" * 5_000_000)

    result = post(server, SERVICES["ntfy"].url, "Hello")

    assert result.verdict is Verdict.DELIVERED


def test_neither_errors_nor_logs_contain_a_part_of_the_url(
    server: ChatServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    url = "mmosts://botname@mm.example.org/secretpath/3ccdd113474722377935511fc85d3dd4?channel=secretchannel"

    results = []
    for status in (200, 404, 429, 500):
        server.answer(status)
        results.append(post(server, url, "Hello"))
    results.append(post(server, url, "Hello", allowed=()))

    shown = f"{results} {caplog.text} {capfd.readouterr()} {address_of(url)} {parse_chat_url(url)}"
    for secret in ("botname", "secretpath", "3ccdd11347", "secretchannel"):
        assert secret not in shown


def test_requests_outside_a_message_are_refused(server: ChatServer) -> None:
    import requests

    with running_channel(server), pytest.raises(requests.exceptions.ConnectionError, match="not sending a message"):
        requests.get("https://ntfy.example.org/", timeout=5)

    assert server.requests == []


# --- helpers ---------------------------------------------------------------------------------------------------------


def post(
    server: ChatServer,
    url: str,
    text: str,
    *,
    status: IncidentStatus | None = None,
    incident_id: int | None = None,
    **options: Any,
) -> AttemptResult:
    """Send a text as the deliverer does, and return the result."""
    with running_channel(server, **options) as channel:
        address = address_of(url, status=status, incident_id=incident_id)
        return asyncio.run(channel.send(a_delivery(), Outgoing(text.encode(), address)))


def running_channel(
    server: ChatServer,
    *,
    allowed: tuple[str, ...] = ("127.0.0.0/8",),
    is_trusted: bool = True,
    total_seconds: float = 15,
) -> _Running:
    return _Running(
        ChatChannel(
            SecretBox(("0123456789abcdef",), URL_PURPOSE),
            NetworkGuard(tuple(ip_network(each) for each in allowed)),
            ca_file=str(server.ca_file) if is_trusted else None,
            resolve=server.resolve,
            seconds_between_messages=0,
            total_seconds=total_seconds,
        )
    )


class _Running:
    def __init__(self, channel: ChatChannel) -> None:
        self.channel = channel

    def __enter__(self) -> ChatChannel:
        return self.channel

    def __exit__(self, *_: object) -> None:
        asyncio.run(self.channel.close())


def address_of(url: str, *, status: IncidentStatus | None = None, incident_id: int | None = None) -> ChatAddress:
    parsed = parse_chat_url(url)
    return ChatAddress(parsed.url, parsed.service, destination_id=1, incident_id=incident_id, status=status)


def posted_text(server: ChatServer, service: Service) -> str:
    (posted,) = server.messages()
    return service.unescape(service.text_of(posted))


def a_delivery() -> ClaimedDelivery:
    none = dict.fromkeys(ClaimedDelivery._fields)
    values = none | {"id": new_id(), "organization_id": 1, "channel": "chat", "target_key": "chat:1:1", "attempts": 0}
    return ClaimedDelivery(**values | {"is_merged": False, "merged": ()})  # type: ignore[arg-type]
