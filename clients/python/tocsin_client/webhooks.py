"""Verification of the messages that tocsin sends to webhooks (Standard Webhooks 1.0)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tocsin_client.errors import TocsinError
from tocsin_client.results import Event

DEFAULT_TOLERANCE_SECONDS: Final = 300

_PREFIX: Final = "whsec_"


class InvalidWebhook(TocsinError):
    """Raised when a message does not come from tocsin, was changed on its way, or is too old. Answer it with 400."""


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secrets: str | Iterable[str],
    *,
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS,
    now: float | None = None,
) -> Event:
    """Return the event in a message to a webhook, after verifying the message's signature and age.

    :param headers: the request's headers, with names in any case.
    :param body: the request's body, exactly as it arrived. Parsed and serialized again, it would have other bytes.
    :param secrets: the webhook's secret or, while it is being rotated, both secrets.
    :param tolerance_seconds: how far the message's timestamp may be from the present time.
    :param now: the present time as a Unix timestamp; by default, that of this host's clock.
    :raises InvalidWebhook: if the message is not valid.
    :raises ValueError: if a secret is malformed, or if there is none.
    """
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ValueError("verify_webhook needs at least one secret")
    by_name = {name.lower(): value for name, value in headers.items()}
    id_, timestamp = _required(by_name, "webhook-id"), _required(by_name, "webhook-timestamp")
    signatures = _signatures(_required(by_name, "webhook-signature"))
    if not timestamp.isascii() or not timestamp.isdigit():
        raise InvalidWebhook(f"webhook-timestamp is not a Unix timestamp: {timestamp[:40]!r}")

    message = f"{id_}.{timestamp}.".encode() + body
    expected = [hmac.digest(key, message, hashlib.sha256) for key in keys]
    if not any(hmac.compare_digest(theirs, ours) for theirs in signatures for ours in expected):
        raise InvalidWebhook("no signature matches: the secret is another one, or the body was changed on its way")
    difference = (time.time() if now is None else now) - int(timestamp)
    if abs(difference) > tolerance_seconds:
        age = "old" if difference > 0 else "far ahead"
        raise InvalidWebhook(f"the message is too {age}: {abs(difference):.0f} s; compare the hosts' clocks")
    return _event(body)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"a webhook's secret is {_PREFIX} followed by standard base64")
    return key


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise InvalidWebhook(f"the header {name} is missing")
    return value


def _signatures(header: str) -> list[bytes]:
    found = []
    for each in header.split():
        version, _, signature = each.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(signature, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found


def _event(body: bytes) -> Event:
    try:
        parsed: Any = json.loads(body)
        return Event.from_json(parsed)
    except (ValueError, TypeError, KeyError):
        raise InvalidWebhook("the body is signed, but it is no event") from None
