"""What the demo's catcher has received: mails, webhooks and chat messages."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from enum import StrEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from aiosmtpd.smtp import Envelope
from standardwebhooks.webhooks import Webhook

from models.types import JSON

_ADDRESS: Final = re.compile(r"""https?://[^\s<>"'`]+""")


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A received mail. ``sender`` and ``to`` come from the SMTP envelope; ``headers`` come from the message."""

    id: int
    at: str
    sender: str
    to: list[str]
    subject: str
    headers: list[tuple[str, str]]
    text: str
    html: str
    raw: str

    @property
    def links(self) -> list[str]:
        """The web addresses in the mail, each once."""
        parser = _Links()
        parser.feed(self.html)
        found = [*parser.links, *_ADDRESS.findall(self.text)]
        return list(dict.fromkeys(each.rstrip(".,)") for each in found if _ADDRESS.fullmatch(each)))


class _Links(HTMLParser):
    """Collects the addresses to which the links of an HTML document lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


class SignatureState(StrEnum):
    """Whether a webhook was signed with the secret of its path (Standard Webhooks 1.0)."""

    VERIFIED = "verified"
    WRONG = "wrong"
    UNSIGNED = "not signed"
    UNKNOWN = "no secret known"


@dataclass(frozen=True, slots=True)
class ReceivedWebhook:
    """A received webhook."""

    id: int
    at: str
    path: str
    headers: list[tuple[str, str]]
    body: str

    @property
    def shown_body(self) -> str:
        """The body, indented if it is JSON."""
        try:
            return json.dumps(json.loads(self.body), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.body

    @property
    def event(self) -> str:
        """The type of the event in the body, or an empty text if there is none."""
        try:
            event = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        return str(event.get("type", "")) if isinstance(event, dict) else ""

    def signature_state(self, secrets: Mapping[str, str]) -> SignatureState:
        """Return whether the signature is right. ``secrets`` holds the secret of each path.

        Its age does not matter here, because the webhook may be looked at long after it came.
        """
        headers = dict(self.headers)
        id_, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        signatures = headers.get("webhook-signature", "")
        if not signatures:
            return SignatureState.UNSIGNED
        if self.path not in secrets:
            return SignatureState.UNKNOWN
        try:
            signed_at = datetime.fromtimestamp(int(at), UTC)
            expected = Webhook(secrets[self.path]).sign(id_, signed_at, self.body)
        except (ValueError, OverflowError, OSError):
            return SignatureState.WRONG
        is_right = any(hmac.compare_digest(expected.encode(), each.encode()) for each in signatures.split())
        return SignatureState.VERIFIED if is_right else SignatureState.WRONG


@dataclass(frozen=True, slots=True)
class ReceivedChat:
    """A message to a chat room. ``room`` is the name in the address to which it was posted."""

    id: int
    at: str
    room: str
    text: str
    body: str


def read_mail(id_: int, envelope: Envelope) -> ReceivedMail:
    """Read a mail as it came over SMTP. A malformed one is shown as well as possible."""
    content = envelope.content or b""
    raw = content.encode() if isinstance(content, str) else content
    message = message_from_bytes(raw, policy=policy.default)
    return ReceivedMail(
        id=id_,
        at=now(),
        sender=envelope.mail_from or "",
        to=[str(address) for address in envelope.rcpt_tos],
        subject=str(message.get("Subject", "")),
        headers=[(name, str(value)) for name, value in message.items()],
        text=_part(message, "plain"),
        html=_part(message, "html"),
        raw=raw.decode(errors="replace"),
    )


def read_chat(id_: int, room: str, body: str) -> ReceivedChat:
    """Read a message to a chat room: plain text, or JSON with the text under one of the usual names."""
    return ReceivedChat(id=id_, at=now(), room=room, text=_chat_text(body), body=body)


def read_secrets(file: Path | None) -> dict[str, str]:
    """Read the secrets of webhooks by path from a JSON file, such as ``{"/hook/mine": "whsec_…"}``.

    A file that is missing or cannot be read holds none.
    """
    try:
        secrets = json.loads(file.read_text()) if file is not None else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(secrets, dict):
        return {}
    return {str(path): str(secret) for path, secret in secrets.items() if _is_secret(secret)}


def now() -> str:
    """Return the current time in UTC."""
    return datetime.now(UTC).isoformat()


def _is_secret(secret: JSON) -> bool:
    try:
        return bool(base64.b64decode(str(secret).removeprefix("whsec_") + "=="))
    except ValueError:
        return False


def _chat_text(body: str) -> str:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(message, dict):
        texts = [str(message[name]) for name in ("title", "text", "message", "content", "body") if message.get(name)]
        return "\n".join(texts) or body
    return body


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except (LookupError, ValueError):
        # Unknown charset: show the bytes as well as possible.
        payload = part.get_payload(decode=True)
        return payload.decode(errors="replace") if isinstance(payload, bytes) else ""
