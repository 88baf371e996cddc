"""The client verifies the messages that tocsin sends to webhooks, and refuses all others."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from tocsin_client import InvalidWebhook, TocsinError, verify_webhook

from models.notifications.webhook import new_secret
from tests.delivery.webhook_receiver import receiving, send
from workers.deliver.channels.webhook import signature_headers

EVENT: Final[dict[str, Any]] = {
    "specversion": "1.0", "id": "01a20830-fc2a-777a-930b-7054e159c667", "source": "/organizations/acme",
    "subject": "incidents/1", "type": "incident.comment_posted", "time": "2026-11-23T11:35:57.754598Z",
    "sequence": "00000000000000000003", "partitionkey": "incidents/1", "datacontenttype": "application/json",
    "data": {"activity": {"id": "7", "comment": "Größe"}},
}  # fmt: skip
BODY: Final = json.dumps(EVENT, ensure_ascii=False).encode()
NOW: Final = 1_790_000_000


def signed(*secrets: str, body: bytes = BODY, at: int = NOW) -> dict[str, str]:
    return signature_headers("message-1", datetime.fromtimestamp(at, UTC), body, secrets)


def test_a_message_that_tocsin_has_sent_is_verified() -> None:
    secret = new_secret()
    with receiving() as receiver:
        send(receiver.url, body=BODY, secrets=[secret])
    [request] = receiver.requests

    event = verify_webhook(request.headers, request.body, secret)

    assert (event.id, event.type, event.sequence) == (EVENT["id"], EVENT["type"], 3)
    assert event.data == EVENT["data"]


def test_while_rotating_either_side_may_have_both_secrets() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()

    for headers, secrets in (
        (signed(new, old), old),
        (signed(new, old), new),
        (signed(old), [new, old]),
        (signed(new), (new, old)),
    ):
        assert verify_webhook(headers, BODY, secrets, now=NOW).type == EVENT["type"]
    with pytest.raises(InvalidWebhook, match="no signature matches"):
        verify_webhook(signed(new, old), BODY, other, now=NOW)


@pytest.mark.parametrize(
    ("changes", "body", "message"),
    [
        ({}, BODY + b" ", "no signature matches"),
        ({"webhook-id": "message-2"}, BODY, "no signature matches"),
        ({"webhook-timestamp": str(NOW + 1)}, BODY, "no signature matches"),
        ({"webhook-signature": "v1,"}, BODY, "no signature matches"),
        ({"webhook-signature": "v2,AAAA v1a,AAAA v1 ,,"}, BODY, "no signature matches"),
        ({"webhook-signature": "v1,\u00e4"}, BODY, "no signature matches"),
        ({"webhook-id": ""}, BODY, "webhook-id is missing"),
        ({"webhook-signature": ""}, BODY, "webhook-signature is missing"),
        ({"webhook-timestamp": "yesterday"}, BODY, "not a Unix timestamp"),
        ({"webhook-timestamp": "1e9"}, BODY, "not a Unix timestamp"),
        ({"webhook-timestamp": "\u0661"}, BODY, "not a Unix timestamp"),
    ],
)
def test_a_message_that_was_changed_is_refused(changes: dict[str, str], body: bytes, message: str) -> None:
    secret = new_secret()

    with pytest.raises(InvalidWebhook, match=message):
        verify_webhook(signed(secret) | changes, body, secret, now=NOW)


def test_a_message_is_valid_for_five_minutes() -> None:
    secret = new_secret()

    for difference in (-300, 0, 300):
        assert verify_webhook(signed(secret), BODY, secret, now=NOW + difference)
    for difference, message in ((301, "too old"), (-301, "too far ahead")):
        with pytest.raises(InvalidWebhook, match=message):
            verify_webhook(signed(secret), BODY, secret, now=NOW + difference)


def test_the_tolerance_can_be_chosen() -> None:
    secret = new_secret()

    assert verify_webhook(signed(secret), BODY, secret, now=NOW + 3600, tolerance_seconds=3600)


def test_names_of_headers_are_compared_without_case() -> None:
    secret = new_secret()
    headers = {name.title(): value for name, value in signed(secret).items()}

    assert verify_webhook(headers, BODY, secret, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_-_-_", "whsec_ä", "whsec_a"])
def test_a_malformed_secret_is_an_error_of_the_program(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify_webhook(signed(new_secret()), BODY, secret)


def test_no_secret_at_all_verifies_nothing() -> None:
    with pytest.raises(ValueError, match="at least one secret"):
        verify_webhook(signed(new_secret()), BODY, [])


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'"text"'])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    secret = new_secret()
    valid = body if body != b"\xff" else b"null"

    with pytest.raises(InvalidWebhook, match="no event"):
        verify_webhook(signed(secret, body=valid), valid, secret, now=NOW)


def test_an_invalid_message_is_an_error_of_this_package() -> None:
    assert issubclass(InvalidWebhook, TocsinError)
