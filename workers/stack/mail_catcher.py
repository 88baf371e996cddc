"""The demo's mail catcher and webhook echo: whatever is sent to them is kept in memory, to be looked at.

Mails come in by SMTP, webhooks by POST below ``/hook``. ``/`` shows both to people, ``/mails`` and ``/webhooks`` to
programs, newest first. It listens on this machine alone and keeps the last :data:`KEPT` of each.
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
"""How large a mail or a webhook's body may be; larger ones are refused."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail as it came: ``sender`` and ``to`` are the envelope's, ``headers`` its own in their order."""

    at: str
    sender: str
    to: list[str]
    subject: str
    headers: list[tuple[str, str]]
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class ReceivedWebhook:
    """A webhook as it came."""

    at: str
    path: str
    headers: list[tuple[str, str]]
    body: str


# Without slots: aiosmtpd looks at every attribute, and before Python 3.11.3 one of those of slots could not be read.
@dataclass(frozen=True)
class Inbox:
    """What was caught, newest first."""

    mails: deque[ReceivedMail] = field(default_factory=lambda: deque(maxlen=KEPT))
    calls: deque[ReceivedWebhook] = field(default_factory=lambda: deque(maxlen=KEPT))

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd
        """Take a mail; the name is what aiosmtpd calls."""
        self.mails.appendleft(_mail(envelope))
        return "250 Caught"

    async def take(self, request: Request) -> Response:
        """Take a webhook, and say back what was taken."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BYTES:
                return JSONResponse({"detail": f"A body may have {MAX_BYTES} bytes."}, 413, _HEADERS)
        call = ReceivedWebhook(_now(), request.url.path, list(request.headers.items()), body.decode(errors="replace"))
        self.calls.appendleft(call)
        return JSONResponse(asdict(call), headers=_HEADERS)

    async def show(self, _: Request) -> Response:
        """A page for people."""
        return HTMLResponse(
            _PAGES.get_template("caught.html").render(mails=self.mails, calls=self.calls), 200, _HEADERS
        )

    async def list_mails(self, _: Request) -> Response:
        """The mails, for programs."""
        return JSONResponse([asdict(mail) for mail in self.mails], headers=_HEADERS)

    async def list_calls(self, _: Request) -> Response:
        """The webhooks, for programs."""
        return JSONResponse([asdict(call) for call in self.calls], headers=_HEADERS)


_PAGES: Final = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


def run(*, smtp_port: int, http_port: int) -> None:
    """Catch until SIGTERM or Ctrl-C."""
    # uvloop was seen to lose its SMTP port: docs/decisions/0019-a-gateway-watches-its-door.md.
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


def _application(catch: Inbox, smtp_port: int) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            return SMTP(catch, data_size_limit=MAX_BYTES, enable_SMTPUTF8=True, hostname="localhost", loop=loop)

        async with await loop.create_server(protocol, HOST, smtp_port):
            yield

    return Starlette(
        routes=[
            Route("/", catch.show),
            Route("/mails", catch.list_mails),
            Route("/webhooks", catch.list_calls),
            Route("/hook{rest:path}", catch.take, methods=["POST"]),
        ],
        # A page elsewhere that leads its own name here would read the mails.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """uvicorn, which says when it listens."""

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
        # A charset that nobody knows; what came is shown as well as it can be.
        payload = part.get_payload(decode=True)
        return payload.decode(errors="replace") if isinstance(payload, bytes) else ""


def _now() -> str:
    return datetime.now(UTC).isoformat()
