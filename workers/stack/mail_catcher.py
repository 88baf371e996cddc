"""The demo's mail catcher and webhook echo, which keep what they receive in memory.

The catcher receives mail over SMTP, and webhooks as POST requests below ``/hook``. The page ``/`` shows both, and
``/mails`` and ``/webhooks`` return them as JSON, newest first. The catcher listens only on loopback. It keeps the last
:data:`KEPT` mails and the last :data:`KEPT` webhooks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from workers.runtime.readiness import announce_ready

HOST: Final = "127.0.0.1"

KEPT: Final = 100
MAX_BYTES: Final = 256 * 1024
"""The maximum size of a mail or of a webhook's body."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A received mail. ``sender`` and ``to`` come from the SMTP envelope; ``headers`` come from the message."""

    at: str
    sender: str
    to: list[str]
    subject: str
    headers: list[tuple[str, str]]
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class ReceivedWebhook:
    """A received webhook."""

    at: str
    path: str
    headers: list[tuple[str, str]]
    body: str


# No slots: aiosmtpd reads every attribute, and before Python 3.11.3 slots add one that cannot be read.
@dataclass(frozen=True)
class Inbox:
    """Holds the received mails and webhooks, newest first, and handles the requests that add and show them."""

    mails: deque[ReceivedMail] = field(default_factory=lambda: deque(maxlen=KEPT))
    webhooks: deque[ReceivedWebhook] = field(default_factory=lambda: deque(maxlen=KEPT))

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd
        """Store a mail. aiosmtpd calls this method by its name."""
        self.mails.appendleft(_mail(envelope))
        return "250 Caught"

    async def receive_webhook(self, request: Request) -> Response:
        """Store a webhook and return it as JSON, or respond with 413 if its body is too large."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BYTES:
                return JSONResponse({"detail": f"A body may have at most {MAX_BYTES} bytes."}, 413, _HEADERS)
        webhook = ReceivedWebhook(
            _now(), request.url.path, list(request.headers.items()), body.decode(errors="replace")
        )
        self.webhooks.appendleft(webhook)
        return JSONResponse(asdict(webhook), headers=_HEADERS)

    async def show(self, _: Request) -> Response:
        """Return the page that shows the mails and webhooks."""
        return HTMLResponse(
            _PAGES.get_template("caught.html").render(mails=self.mails, calls=self.webhooks), 200, _HEADERS
        )

    async def list_mails(self, _: Request) -> Response:
        """Return the mails as JSON."""
        return JSONResponse([asdict(mail) for mail in self.mails], headers=_HEADERS)

    async def list_webhooks(self, _: Request) -> Response:
        """Return the webhooks as JSON."""
        return JSONResponse([asdict(webhook) for webhook in self.webhooks], headers=_HEADERS)


_PAGES: Final = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


def run(*, smtp_port: int, http_port: int) -> None:
    """Receive mail and webhooks until SIGTERM or Ctrl-C."""
    # uvloop has been seen to lose the SMTP port: docs/decisions/0019-gateway-watchdog.md.
    config = uvicorn.Config(
        _application(Inbox(), smtp_port),
        host=HOST,
        port=http_port,
        loop="asyncio",
        log_config=None,
        access_log=False,
        lifespan="on",
    )
    _Server(config).run()


def _application(inbox: Inbox, smtp_port: int) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            return SMTP(inbox, data_size_limit=MAX_BYTES, enable_SMTPUTF8=True, hostname="localhost", loop=loop)

        async with await loop.create_server(protocol, HOST, smtp_port):
            yield

    return Starlette(
        routes=[
            Route("/", inbox.show),
            Route("/mails", inbox.list_mails),
            Route("/webhooks", inbox.list_webhooks),
            Route("/hook{rest:path}", inbox.receive_webhook, methods=["POST"]),
        ],
        # Otherwise a web page whose host name resolves to loopback could read the mails.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """A uvicorn server that announces when it is ready."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            announce_ready()


def _mail(envelope: Envelope) -> ReceivedMail:
    content = envelope.content or b""
    message = message_from_bytes(content.encode() if isinstance(content, str) else content, policy=policy.default)
    return ReceivedMail(
        at=_now(),
        sender=envelope.mail_from or "",
        to=[str(address) for address in envelope.rcpt_tos],
        subject=str(message.get("Subject", "")),
        headers=[(name, str(value)) for name, value in message.items()],
        text=_part(message, "plain"),
        html=_part(message, "html"),
    )


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


def _now() -> str:
    return datetime.now(UTC).isoformat()
