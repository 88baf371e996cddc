"""Limits on the size, the duration and the number of parts of a request, and on the errors in a response."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from gateway.container import Timeouts
from gateway.http.bounded_protocol import HEAD_LIMIT_BYTES, TOO_LARGE, TOO_SLOW, BoundedProtocol
from gateway.settings import GatewaySettings
from tasks.commands.comments import MAX_MENTIONS
from tasks.commands.field_errors import cut_errors
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, running_gateway

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
UNKNOWN = ["Unknown field."]


def exchange(gateway: Gateway, *parts: bytes) -> bytes:
    """Send these bytes over a new connection, and return what is received until the gateway closes it."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def answer(received: bytes) -> tuple[int, str]:
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["detail"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests must send their head within a fraction of a second."""
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.1)


# --- the head --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"X: " + b"x" * HEAD_LIMIT_BYTES + b"\r\n\r\n",),
        (HEAD + b"X: ", b"x" * (HEAD_LIMIT_BYTES + 1)),
        (HEAD, b"X: y\r\n" * (HEAD_LIMIT_BYTES // 6 + 1)),
        (b"GET /" + b"x" * HEAD_LIMIT_BYTES,),
    ],
    ids=["complete", "one endless header", "endless headers", "an endless request line"],
)
def test_a_head_over_64_kib_is_refused_and_the_connection_closed(gateway: Gateway, parts: tuple[bytes, ...]) -> None:
    assert answer(exchange(gateway, *parts)) == (431, TOO_LARGE)


def test_a_head_of_almost_64_kib_is_accepted(gateway: Gateway) -> None:
    padding = b"X: " + b"x" * (HEAD_LIMIT_BYTES - 1000) + b"\r\n"

    received = exchange(gateway, HEAD + padding + b"Connection: close\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 200 ")


def test_each_request_of_a_connection_has_its_own_limit(gateway: Gateway) -> None:
    padding = b"X: " + b"x" * (HEAD_LIMIT_BYTES // 2) + b"\r\n"

    received = exchange(gateway, *[HEAD + padding + b"\r\n"] * 4, HEAD + b"Connection: close\r\n\r\n")

    assert received.count(b"HTTP/1.1 200 ") == 5


def test_a_body_does_not_count_as_a_head(gateway: Gateway) -> None:
    body = json.dumps({"comment": "x", "padding": "y" * 60_000}).encode()
    head = f"POST {COMMENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dev-mem\r\nConnection: close\r\n".encode()

    received = exchange(
        gateway, head + b"Prefer: respond-async\r\nContent-Length: %d\r\n\r\n" % len(body), body[:30_000], body[30_000:]
    )

    assert received.startswith(b"HTTP/1.1 202 ")


def test_a_head_that_does_not_arrive_in_time_is_refused(impatient: None, gateway: Gateway) -> None:
    assert answer(exchange(gateway, HEAD)) == (408, TOO_SLOW)


def test_the_next_head_on_a_connection_must_arrive_in_time_too(impatient: None, gateway: Gateway) -> None:
    received = exchange(gateway, HEAD + b"\r\n", HEAD)

    assert received.startswith(b"HTTP/1.1 200 ")
    assert answer(received[received.index(b"HTTP/1.1 408 ") :]) == (408, TOO_SLOW)


@pytest.mark.parametrize("parts", [(), (HEAD + b"\r\n",)], ids=["new", "after a response"])
def test_an_idle_connection_is_closed_without_an_answer(
    acme: Acme, settings: Callable[..., GatewaySettings], parts: tuple[bytes, ...]
) -> None:
    with running_gateway(settings(keep_alive=0)) as gateway:
        received = exchange(gateway, *parts)

    assert received.count(b"HTTP/1.1 ") == len(parts)


# --- the body --------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_patience(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that waits only a moment for each part of a body."""
    with running_gateway(settings(), Timeouts(60, 60, 60, 60, body_part_seconds=0.1)) as gateway:
        yield gateway


def test_a_body_whose_next_part_does_not_arrive_in_time_is_refused(short_of_patience: Gateway) -> None:
    head = f"POST {COMMENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dev-mem\r\nContent-Length: 90\r\n\r\n"

    received = exchange(short_of_patience, head.encode(), b'{"comment": ')

    assert answer(received)[0] == 408
    assert b"connection: close" in received.lower()


# --- the query -------------------------------------------------------------------------------------------------


def test_a_query_over_8_kib_is_refused(gateway: Gateway) -> None:
    responses = [gateway.get(f"{ACME}/incidents/?title={'x' * length}") for length in (8186, 8187)]

    assert [response.status_code for response in responses] == [200, 414]


@pytest.mark.parametrize("name", ["expand", "team", "projectSlug", "status"])
def test_a_query_parameter_may_have_at_most_100_values(gateway: Gateway, name: str) -> None:
    query = "&".join([f"{name}=1"] * 101)

    response = gateway.get(f"{ACME}/incidents/?{query}")

    assert (response.status_code, response.json()) == (400, {name: ["At most 100 values are allowed."]})


# --- mentions and errors ---------------------------------------------------------------------------------------


def test_a_comment_may_have_at_most_100_mentions(gateway: Gateway) -> None:
    mentions = ["user:12"] * (MAX_MENTIONS + 1)
    item = {"type": "comment.post", "incident": 1, **A_COMMENT, "mentions": mentions}

    allowed = gateway.post(COMMENTS, A_COMMENT | {"mentions": mentions[1:]}, Prefer="respond-async")
    alone = gateway.post(COMMENTS, A_COMMENT | {"mentions": mentions})
    in_bulk = gateway.post(COMMANDS, {"commands": [item]})

    errors = {"mentions": ["Ensure this field has no more than 100 elements."]}
    assert allowed.status_code == 202
    assert (alone.status_code, alone.json()) == (400, errors)
    assert (in_bulk.status_code, in_bulk.json()) == (400, {"commands": {"0": errors}})


def test_at_most_20_field_errors_are_listed_with_the_number_of_the_others(gateway: Gateway) -> None:
    items = [{"type": "comment.post", "incident": 1, "x": 1, "y": 2}] * 30

    plain = gateway.post(COMMANDS, {"commands": items})
    problem = gateway.post(COMMANDS, {"commands": items}, Accept="application/problem+json")

    # Each item also lacks its text.
    assert list(plain.json()["commands"]) == [str(number) for number in range(7)]
    assert plain.json()["non_field_errors"] == ["70 more errors are not listed."]
    assert len(problem.json()["errors"]) == 21
    assert problem.json()["errors"][-1] == {"pointer": "#", "detail": "70 more errors are not listed."}


def test_20_field_errors_are_all_listed() -> None:
    errors = {"a": {str(number): UNKNOWN for number in range(19)}, "b": UNKNOWN}

    assert cut_errors(errors) == errors
    assert cut_errors({**errors, "non_field_errors": ["c"]})["non_field_errors"] == ["1 more errors are not listed."]
