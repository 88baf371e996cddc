"""Messages to webhooks: what the receiver gets, and what each kind of answer or failure means."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from models.base import new_id
from models.notifications.webhook import new_secret
from tests.delivery.webhook_receiver import (
    OK,
    ReceivedRequest,
    Stream,
    a_channel,
    a_claimed_delivery,
    answering,
    receiving,
    resolving_to,
    send,
)
from workers.deliver.channel import Outgoing, Verdict
from workers.deliver.channels.webhook import WebhookAddress, signature_headers
from workers.deliver.http_sender import MAX_ANSWER_BYTES, parse_retry_after

# Not canonical JSON on purpose: whoever parses and serializes it again gets other bytes.
BODY = '{"b": 1e2, "a": "Ä \\u00e4 \U0001f600 <é>",  "b": 100, "text": "x\\n"}'.encode()


def verify(request: ReceivedRequest, secret: str) -> None:
    Webhook(secret).verify(request.body, request.headers, json_parse=False)


def test_the_receiver_can_verify_the_message_with_the_python_library() -> None:
    secret, id_ = new_secret(), new_id()

    with receiving() as receiver:
        result = send(receiver.url, body=BODY, secrets=[secret], id=id_)

    [request] = receiver.requests
    assert (result.verdict, result.status, result.error) == (Verdict.DELIVERED, 200, None)
    assert request.body == BODY
    assert request.headers["webhook-id"] == str(id_)
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["user-agent"].startswith("tocsin/")
    verify(request, secret)
    with pytest.raises(WebhookVerificationError):
        verify(request, new_secret())


def test_while_a_secret_is_rotated_both_secrets_verify() -> None:
    new, old = new_secret(), new_secret()

    with receiving() as receiver:
        send(receiver.url, body=BODY, secrets=[new, old])

    [request] = receiver.requests
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    verify(request, new)
    verify(request, old)


def test_the_signature_does_not_depend_on_the_time_zone() -> None:
    secret, at = new_secret(), datetime.now(UTC)
    berlin = at.astimezone(timezone(timedelta(hours=1)))

    headers = signature_headers(str(UUID(int=1)), berlin, BODY, [secret])

    assert headers == signature_headers(str(UUID(int=1)), at, BODY, [secret])
    assert int(headers["webhook-timestamp"]) == int(at.timestamp())
    Webhook(secret).verify(BODY, headers, json_parse=False)


@pytest.mark.parametrize(
    ("status", "verdict", "is_target_fault"),
    [
        (200, Verdict.DELIVERED, False),
        (202, Verdict.DELIVERED, False),
        (204, Verdict.DELIVERED, False),
        (302, Verdict.PASSING, False),
        (400, Verdict.PASSING, False),
        (401, Verdict.PASSING, False),
        (404, Verdict.PASSING, False),
        (410, Verdict.PERMANENT, True),
        (429, Verdict.PASSING, True),
        (500, Verdict.PASSING, True),
        (503, Verdict.PASSING, True),
    ],
)
def test_the_status_decides(status: int, verdict: Verdict, is_target_fault: bool) -> None:
    with receiving(answering(status)) as receiver:
        result = send(receiver.url)

    assert (result.verdict, result.status, result.is_target_fault) == (verdict, status, is_target_fault)


def test_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    now = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
    in_an_hour = format_datetime(now + timedelta(hours=1), usegmt=True)

    waits = [
        parse_retry_after(value, now=now)
        for value in ("120", in_an_hour, " 5 ", "99999999999999999999", "0", "-1", "soon", "", "1.5", None)
    ]

    assert waits == [120, 3600, 5, 24 * 3600, 0, None, None, None, None, None]
    assert parse_retry_after(format_datetime(now - timedelta(hours=1), usegmt=True), now=now) == 0


def test_retry_after_reaches_the_deliverer() -> None:
    with receiving(answering(503, "Retry-After: 77")) as receiver:
        assert send(receiver.url).retry_after_seconds == 77


# --- bounds ----------------------------------------------------------------------------------------------------


async def drip_head(writer: Stream) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Slow: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_body(writer: Stream) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


def test_an_answer_that_drips_is_cut_off_at_the_deadline() -> None:
    with receiving(drip_head) as receiver:
        result = send(receiver.url, total_seconds=0.5)

    assert (result.verdict, result.error, result.is_target_fault) == (
        Verdict.PASSING,
        "There was no answer within 0.5 s.",
        True,
    )


def test_a_body_that_never_ends_does_not_undo_the_status() -> None:
    with receiving(drip_body) as receiver:
        result = send(receiver.url, total_seconds=0.5)

    assert (result.verdict, result.status) == (Verdict.DELIVERED, 200)


def test_only_the_beginning_of_an_endless_answer_is_read() -> None:
    written = 0

    async def flood(writer: Stream) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(high=1)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await writer.drain()
            written += 0x1000

    with receiving(flood) as receiver:
        result = send(receiver.url)

    assert result.verdict is Verdict.DELIVERED
    # The kernel's buffers hold what was sent and not read.
    assert MAX_ANSWER_BYTES <= written < 64 * MAX_ANSWER_BYTES


def test_a_compressed_answer_is_not_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("the answer was expanded")

    monkeypatch.setattr("httpx2._decoders.GZipDecoder.decode", explode)
    body = gzip.compress(bytes(1_000_000))
    with receiving(answering(200, "Content-Encoding: gzip", body=body)) as receiver:
        assert send(receiver.url).verdict is Verdict.DELIVERED
    assert receiver.requests[0].headers["accept-encoding"] == "identity"


# --- what a saved URL can do -----------------------------------------------------------------------------------

WEIRD_URLS = (
    "https://", "https:///x", "https://example.com:0/", "https://example.com:65536/", "https://example.com:99999999/",
    "https://a..example/", "https://.example/", f"https://{'a' * 64}.example/", f"https://{'a.' * 200}example/",
    "https://exa mple.com/", "https://xn--/", "https://xn--a/", "https://-.example/", "https://\u200b.example/",
    "https://\ud800.example/", "https://[::1/", "https://[v1.x]/", "https://example.com\\@x/", "https://u:p@example.com/",
    "ftp://example.com/", "javascript:alert(1)", "", "https://example.com/\x00", "https://%/", "https://a%zz/",
)  # fmt: skip


@pytest.mark.parametrize("url", WEIRD_URLS)
def test_any_saved_url_ends_in_a_failure_with_a_sentence(url: str) -> None:
    result = send(url, resolve=resolving_to("127.0.0.1"), total_seconds=2)

    assert result.verdict in (Verdict.PASSING, Verdict.PERMANENT)
    assert result.error
    assert result.error.endswith(".")


def test_the_query_and_the_path_of_a_url_arrive_unchanged() -> None:
    with receiving() as receiver:
        send(f"{receiver.url}/a%2Fb?token=1&x=%20#part")

    assert receiver.requests[0].line == "POST /hook/a%2Fb?token=1&x=%20 HTTP/1.1"


def test_an_error_contains_neither_the_path_nor_the_query() -> None:
    with receiving() as receiver:
        port = receiver.port

    result = send(f"http://127.0.0.1:{port}/secret-path?token=secret")

    assert (result.verdict, result.error) == (Verdict.PASSING, "No connection could be made.")
    assert "secret" not in repr(WebhookAddress("https://example.com/secret", ("whsec_secret",)))


def test_the_next_address_is_tried_if_the_first_refuses() -> None:
    with receiving() as receiver:
        result = send(f"http://hooks.example:{receiver.port}/", resolve=resolving_to("::1", "127.0.0.2", "127.0.0.1"))

    assert result.verdict is Verdict.DELIVERED
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


def test_cookies_of_an_answer_are_not_sent_to_anyone() -> None:
    with receiving(answering(200, "Set-Cookie: session=1; Path=/")) as receiver:
        channel = a_channel()

        async def run() -> None:
            for _ in range(2):
                await channel.send(a_claimed_delivery(), Outgoing(b"{}", WebhookAddress(receiver.url, (new_secret(),))))
            await channel.close()

        asyncio.run(run())

    assert [("cookie" in each.headers) for each in receiver.requests] == [False, False]
    assert receiver.connections == 2


def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)

        result = send(receiver.url)

    assert result.verdict is Verdict.DELIVERED
    assert (len(receiver.requests), proxy.connections) == (1, 0)


# --- TLS -------------------------------------------------------------------------------------------------------


def tls_receiver(*names: str) -> tuple[trustme.CA, Any]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return authority, receiving(OK, tls=context)


def test_a_private_ca_is_trusted_through_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, server = tls_receiver("hooks.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(tmp_path / "ca.pem"))

    with server as receiver:
        url = f"https://hooks.example:{receiver.port}/"
        result = send(url, resolve=resolving_to("127.0.0.1"))
        for_another_name = send(url.replace("hooks", "other"), resolve=resolving_to("127.0.0.1"))

    assert result.verdict is Verdict.DELIVERED
    assert (for_another_name.verdict, for_another_name.status) == (Verdict.PASSING, None)
    assert for_another_name.error is not None
    assert for_another_name.error.startswith("The TLS connection was refused: Hostname mismatch")
    assert len(receiver.requests) == 1


def test_an_unknown_ca_is_not_trusted() -> None:
    _, server = tls_receiver("hooks.example")

    with server as receiver:
        result = send(f"https://hooks.example:{receiver.port}/", resolve=resolving_to("127.0.0.1"))

    assert (result.verdict, result.is_target_fault) == (Verdict.PASSING, True)
    assert result.error is not None
    assert result.error.startswith("The TLS connection was refused")
    assert receiver.requests == []
