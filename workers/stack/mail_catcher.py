"""The demo's catcher of mails, webhooks and chat messages, which keeps what it receives in memory.

It receives mail over SMTP, webhooks as POST requests below ``/hook``, and messages to chat rooms as POST requests to
``/chat/NAME``. The page ``/`` shows them all and follows live; a mail is shown as a phone and a desktop would show it.
``/mails``, ``/webhooks`` and ``/chats`` return them as JSON, newest first. The catcher listens only on loopback. It
keeps the last :data:`KEPT` of each kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from workers.runtime.readiness import announce_ready
from workers.stack.caught import (
    ReceivedChat,
    ReceivedMail,
    ReceivedWebhook,
    now,
    read_chat,
    read_mail,
    read_secrets,
)

HOST: Final = "127.0.0.1"

KEPT: Final = 100
MAX_BYTES: Final = 256 * 1024
"""The maximum size of a mail, of a webhook's body, or of a chat message."""

HEARTBEAT_SECONDS: Final = 15

_FILES: Final = Path(__file__).parent / "catcher"
_TABS: Final = ("rendered", "text", "raw")

_SAFE: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_HEADERS: Final = _SAFE | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; frame-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
# A mail is shown in a frame of its own. In a frame with srcdoc, the page's policy would block the mail's styles.
_MAIL_HEADERS: Final = _SAFE | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self'; sandbox"
    )
}

Received = TypeVar("Received", ReceivedMail, ReceivedWebhook, ReceivedChat)


def _kept() -> deque[Any]:
    return deque(maxlen=KEPT)


# No slots: aiosmtpd reads every attribute, and before Python 3.11.3 slots add one that cannot be read.
@dataclass(eq=False)
class Inbox:
    """Holds what was received, newest first, and handles the requests that add and show it.

    ``secrets`` returns the secrets of the webhooks, by path. ``seen`` is the number of messages received so far, and
    ``followers`` holds an event for each page that follows live.
    """

    secrets: Callable[[], Mapping[str, str]] = dict
    mails: deque[ReceivedMail] = field(default_factory=_kept)
    webhooks: deque[ReceivedWebhook] = field(default_factory=_kept)
    chats: deque[ReceivedChat] = field(default_factory=_kept)
    ids: count[int] = field(default_factory=lambda: count(1))
    seen: int = 0
    followers: set[asyncio.Event] = field(default_factory=set)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd
        """Store a mail. aiosmtpd calls this method by its name."""
        self._add(self.mails, read_mail(next(self.ids), envelope))
        return "250 Caught"

    async def receive_webhook(self, request: Request) -> Response:
        """Store a webhook and return it as JSON, or respond with 413 if its body is too large."""
        body = await _body(request)
        webhook = ReceivedWebhook(next(self.ids), now(), request.url.path, list(request.headers.items()), body)
        self._add(self.webhooks, webhook)
        return JSONResponse(asdict(webhook), headers=_HEADERS)

    async def receive_chat(self, request: Request) -> Response:
        """Store a message to a chat room, or respond with 413 if it is too large."""
        body = await _body(request)
        # A Mattermost server's own part of the address, which ends with the key of the hook.
        room = request.path_params["room"].partition("/hooks/")[0]
        self._add(self.chats, read_chat(next(self.ids), room, body))
        # What chat services answer.
        return Response("ok", media_type="text/plain", headers=_HEADERS)

    def _add(self, kept: deque[Received], received: Received) -> None:
        kept.appendleft(received)
        self.seen += 1
        for follower in self.followers:
            follower.set()

    async def show(self, _: Request) -> Response:
        """Return the page that lists everything."""
        secrets = self.secrets()
        calls = [(call, call.signature_state(secrets)) for call in self.webhooks]
        return _page("list.html", mails=self.mails, calls=calls, chats=self.chats, seen=self.seen)

    async def show_mail(self, request: Request) -> Response:
        """Return the page that shows a mail: rendered, as text or as it came."""
        tab = request.path_params.get("tab", _TABS[0])
        if tab not in _TABS:
            raise HTTPException(404)
        return _page("mail.html", mail=_find(self.mails, request), tab=tab, tabs=_TABS)

    async def show_mail_document(self, request: Request) -> Response:
        """Return the mail's HTML alone, for a frame that runs none of it."""
        return HTMLResponse(_find(self.mails, request).html, headers=_MAIL_HEADERS)

    async def show_webhook(self, request: Request) -> Response:
        """Return the page that shows a webhook."""
        call = _find(self.webhooks, request)
        return _page("webhook.html", call=call, state=call.signature_state(self.secrets()))

    async def list_mails(self, _: Request) -> Response:
        """Return the mails as JSON."""
        return JSONResponse([asdict(mail) for mail in self.mails], headers=_HEADERS)

    async def list_webhooks(self, _: Request) -> Response:
        """Return the webhooks as JSON, each with the state of its signature."""
        secrets = self.secrets()
        calls = [asdict(call) | {"signature": call.signature_state(secrets)} for call in self.webhooks]
        return JSONResponse(calls, headers=_HEADERS)

    async def list_chats(self, _: Request) -> Response:
        """Return the messages to chat rooms as JSON."""
        return JSONResponse([asdict(chat) for chat in self.chats], headers=_HEADERS)

    async def follow(self, request: Request) -> Response:
        """Send an event whenever something was received, and at once if the page has not seen everything."""
        seen = request.query_params.get("seen", "")
        stream = self._events(int(seen) if re.fullmatch("[0-9]{1,9}", seen) else -1)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    async def _events(self, seen: int) -> AsyncIterator[str]:
        follower = asyncio.Event()
        self.followers.add(follower)
        try:
            yield "retry: 1000\n\n"
            while True:
                # Before the check, so that nothing that arrives while the event is sent is overlooked.
                follower.clear()
                if self.seen != seen:
                    seen = self.seen
                    yield f"data: {seen}\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(follower.wait(), HEARTBEAT_SECONDS)
                yield ":\n\n"
        finally:
            self.followers.discard(follower)


_PAGES: Final = Environment(
    loader=FileSystemLoader(_FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def _page(template: str, **facts: Any) -> Response:
    return HTMLResponse(_PAGES.get_template(template).render(facts), headers=_HEADERS)


def _find(kept: deque[Received], request: Request) -> Received:
    for received in kept:
        if received.id == request.path_params["id"]:
            return received
    raise HTTPException(404)


async def _body(request: Request) -> str:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"A body may have at most {MAX_BYTES} bytes.", _HEADERS)
    return body.decode(errors="replace")


def run(*, smtp_port: int, http_port: int, secrets_file: Path | None = None) -> None:
    """Receive mails, webhooks and chat messages until SIGTERM or Ctrl-C.

    ``secrets_file`` holds the secrets of the webhooks (:func:`~workers.stack.caught.read_secrets`). It is read again
    whenever webhooks are shown.
    """
    # uvloop has been seen to lose the SMTP port: docs/decisions/0019-gateway-watchdog.md.
    config = uvicorn.Config(
        _application(Inbox(lambda: read_secrets(secrets_file)), smtp_port),
        host=HOST,
        port=http_port,
        loop="asyncio",
        log_config=None,
        access_log=False,
        lifespan="on",
        # Pages that follow live never end their requests.
        timeout_graceful_shutdown=1,
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
            Route("/events", inbox.follow),
            Route("/mails", inbox.list_mails),
            Route("/mails/{id:int}", inbox.show_mail),
            Route("/mails/{id:int}/document", inbox.show_mail_document),
            Route("/mails/{id:int}/{tab}", inbox.show_mail),
            Route("/webhooks", inbox.list_webhooks),
            Route("/webhooks/{id:int}", inbox.show_webhook),
            Route("/chats", inbox.list_chats),
            Route("/hook{rest:path}", inbox.receive_webhook, methods=["POST"]),
            Route("/chat/{room:path}", inbox.receive_chat, methods=["POST"]),
            Mount("/files", StaticFiles(directory=_FILES)),
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
