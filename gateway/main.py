"""The gateway's application factory, server and entry point."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

from gateway.api.endpoint import Endpoint
from gateway.api.pipeline import EndpointPipeline
from gateway.container import Container, Timeouts
from gateway.http.bounded_protocol import BoundedProtocol
from gateway.http.parsing import Headers
from gateway.http.request_log import RequestLog
from gateway.http.request_target import RequestTarget
from gateway.http.responses import HttpResponse, accepts_problem_json, error_response
from gateway.ops import api as ops_api
from gateway.ops import login as ops_login
from gateway.ops.console import routes as ops_console
from gateway.ops.sessions import OpsSessions
from gateway.pages.routes import routes as page_routes
from gateway.pages.site import Site
from gateway.routes import (
    alert_rules,
    chat_destinations,
    commands,
    comments,
    directory_document,
    documentation,
    health,
    incidents,
    integrations,
    mutes,
    notifications,
    observations,
    organizations,
    preferences,
    snoozes,
    stream,
    subscriptions,
    triggers,
    webhooks,
)
from gateway.settings import GatewaySettings
from gateway.watchdog import is_unresponsive
from models.known_secrets import is_loopback, settings_with_known_secrets
from models.refusals import MethodNotAllowed, NotFound
from models.settings import SettingsError, check_setting_names
from tasks.log_config import ProcessKind, configure_logging, log_process_started, log_process_stopped
from tasks.server_check import check_servers
from tasks.startup import StartupError, free_port
from tasks.tracing import configure_tracing, stop_tracing
from tasks.watchdog import CHECKS_PER_TIMEOUT, Watchdog, exit_stuck_process

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 5
"""How long requests in flight may still take after the process has received SIGTERM."""

NEW_OBJECTS_PER_COLLECTION: Final = 10_000
"""How many new objects start a garbage collection.

64 requests in flight hold about 4,000, which at Python's default of 700 would be examined again and again: that took a
tenth of the CPU time per accepted command. Reference counts free nearly all of them, because they form no cycles.
"""

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    # Busiest first: Starlette tries routes in this order.
    *comments.ENDPOINTS,
    *commands.ENDPOINTS,
    *observations.ENDPOINTS,
    *incidents.ENDPOINTS,
    *integrations.ENDPOINTS,
    *subscriptions.ENDPOINTS,
    *mutes.ENDPOINTS,
    *notifications.ENDPOINTS,
    *alert_rules.ENDPOINTS,
    *triggers.ENDPOINTS,
    *snoozes.ENDPOINTS,
    *organizations.ENDPOINTS,
    *preferences.ENDPOINTS,
    *webhooks.ENDPOINTS,
    *chat_destinations.ENDPOINTS,
    *directory_document.ENDPOINTS,
    *stream.ENDPOINTS,
    *ops_api.ENDPOINTS,
)


def create_app(settings: GatewaySettings, timeouts: Timeouts | None = None) -> Starlette:
    """Return the gateway as an ASGI application, which starts even if the database and the broker are unavailable."""
    container = Container(settings, timeouts or Timeouts())
    site = Site(settings)
    sessions = OpsSessions(container)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        container.start()
        yield
        await container.stop()

    app = Starlette(
        routes=[
            *(
                Route(endpoint.path, EndpointPipeline(endpoint, container, sessions if endpoint.has_sessions else None))
                for endpoint in ENDPOINTS
            ),
            *health.routes(container),
            *documentation.routes(ENDPOINTS),
            *page_routes(container, site),
            *ops_login.routes(container, site),
            *ops_console.routes(container, site),
        ],
        middleware=[Middleware(RequestLog), Middleware(RequestTarget)],
        exception_handlers={404: partial(_not_found, site), 405: partial(_not_allowed, site)},
        lifespan=lifespan,
    )
    # Starlette would build the URLs of redirects from the Host header.
    app.router.redirect_slashes = False
    app.state.container = container
    return app


def run(host: str, port: int, *, patience_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C. If the gateway cannot start, exit with a one-sentence error.

    If the process gets no response on its own port for ``patience_seconds``, it ends itself (:mod:`gateway.watchdog`).
    """
    try:
        check_setting_names(os.environ, dotenv=Path(".env"))
        settings = GatewaySettings.from_environment()
        configure_logging(settings.log_level)
        configure_tracing(ProcessKind.GATEWAY)
        # uvicorn would start the application first, and log more than one sentence.
        free_port(host, port)
        check_servers(settings)
    except (SettingsError, StartupError) as error:
        sys.exit(str(error))
    log_process_started(ProcessKind.GATEWAY)
    if not is_loopback(host) and (names := settings_with_known_secrets(settings.with_secrets)):
        log.warning("settings.known_secrets", settings=names, host=host, fix="choose secrets that nobody else knows")
    app = create_app(settings)
    config = server_config(app, settings, host=host, port=port)
    watch = Watchdog(
        partial(is_unresponsive, host, port, within_seconds=patience_seconds / CHECKS_PER_TIMEOUT),
        partial(exit_stuck_process, patience_seconds),
        patience_seconds=patience_seconds,
    )
    server = GatewayServer(config, app.state.container, watch)
    tune_garbage_collection()
    server.run()
    stop_tracing()


def server_config(app: Starlette, settings: GatewaySettings, **options: Any) -> uvicorn.Config:
    """Return the configuration of the HTTP server. ``options`` are further ones, such as ``host`` and ``port``."""
    return uvicorn.Config(
        app,
        **{"timeout_graceful_shutdown": STOP_SECONDS, **options},
        loop="uvloop",
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        # Headers of proxies are read in gateway.http.public_url, which asks whom to trust.
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive,
    )


def tune_garbage_collection() -> None:
    """Let garbage collections skip the objects that exist already, and be rarer, for the life of the process."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)


class GatewayServer(uvicorn.Server):
    """A uvicorn server that runs a watchdog while it serves, and ends all waits and streams before it shuts down."""

    def __init__(self, config: uvicorn.Config, container: Container, watch: Watchdog | None = None) -> None:
        super().__init__(config)
        self._container = container
        self._watch = watch

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start listening, then start the watchdog."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self._watch and self.started:
            self._watch.start()

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Stop the watchdog, end all waits and streams, and finish the requests in flight."""
        if self._watch:
            self._watch.stop()
        self._container.release()
        await super().shutdown(sockets)  # type: ignore[arg-type]
        log_process_stopped(ProcessKind.GATEWAY)


async def _not_found(site: Site, request: Request, _: Exception) -> Response:
    path = request.url.path
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    if _has_route(request, other):
        base_url = request.app.state.container.public_url.of_request(request.scope, Headers(request.scope["headers"]))
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{base_url}{other}{query}", 307)
    return _page(site.not_found()) if _wants_page(request) else _refusal(request, NotFound())


def _has_route(request: Request, path: str) -> bool:
    # Not those of static files, which match every path below theirs.
    scope = {**request.scope, "path": unquote(path)}
    routes = (route for route in request.app.routes if isinstance(route, Route))
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)


async def _not_allowed(site: Site, request: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow", "GET") if isinstance(error, HTTPException) else "GET"
    if _wants_page(request):
        return _page(site.not_allowed(allowed))
    return _refusal(request, MethodNotAllowed(request.method, tuple(allowed.split(", "))))


def _wants_page(request: Request) -> bool:
    # People who follow a wrong link see a page, programs that call a wrong path see JSON.
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(("/api/", "/ops/api/"))


def _page(page: HttpResponse) -> Response:
    return Response(page.body, page.status, page.headers, page.media_type)


def _refusal(request: Request, refusal: NotFound | MethodNotAllowed) -> Response:
    problem = accepts_problem_json(request.headers.get("accept"))
    response = error_response(refusal.status, refusal.body, refusal.headers, problem=problem)
    return Response(response.body, response.status, response.headers, response.media_type)
