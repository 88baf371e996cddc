"""Builds the application, and runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.endpoint import Endpoint
from gateway.api.pipeline import EndpointPipeline
from gateway.container import Container, Timeouts
from gateway.http.request_log import RequestLog
from gateway.http.responses import error_answer, wants_problem
from gateway.routes import (
    alert_rules,
    commands,
    comments,
    directory,
    documentation,
    health,
    incidents,
    integrations,
    notifications,
    observations,
    organizations,
    snoozes,
    stream,
    subscriptions,
    triggers,
)
from gateway.settings import GatewaySettings
from gateway.watchdog import is_unresponsive
from models.refusals import MethodNotAllowed, NotFound
from models.settings import SettingsError, check_setting_names
from tasks.log_config import ProcessKind, configure_logging, log_process_started, log_process_stopped
from tasks.server_check import check_servers
from tasks.startup import StartupError, free_port
from tasks.watchdog import CHECKS_PER_TIMEOUT, Watchdog, exit_stuck_process

STOP_SECONDS: Final = 5
"""How long requests in flight may take once the process is asked to end."""

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    # The busiest first: routes are tried in this order.
    *comments.ADDRESSES,
    *commands.ADDRESSES,
    *observations.ADDRESSES,
    *incidents.ADDRESSES,
    *integrations.ADDRESSES,
    *subscriptions.ADDRESSES,
    *notifications.ADDRESSES,
    *alert_rules.ADDRESSES,
    *triggers.ADDRESSES,
    *snoozes.ADDRESSES,
    *organizations.ADDRESSES,
    *directory.ADDRESSES,
    *stream.ADDRESSES,
)


def create_app(settings: GatewaySettings, patience: Timeouts | None = None) -> FastAPI:
    """The gateway as an ASGI application; it starts whether or not its servers are there."""
    services = Container(settings, patience or Timeouts())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.start()
        yield
        await services.stop()

    app = FastAPI(
        title="tocsin",
        version=version("tocsin"),
        lifespan=lifespan,
        # The file describes what the doors check, in their order; FastAPI would check bodies first.
        openapi_url=None,
        exception_handlers={404: _not_found, 405: _not_allowed},
    )
    app.add_middleware(RequestLog)
    app.state.services = services
    app.router.routes.extend(Route(address.path, EndpointPipeline(address, services)) for address in ENDPOINTS)
    app.router.routes.extend(health.routes(services))
    app.router.routes.extend(documentation.routes(ENDPOINTS))
    return app


def run(host: str, port: int, *, patience_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C; a configuration that does not fit ends the process with one sentence.

    After ``patience_seconds`` without an answer at its own door it ends itself: see :mod:`gateway.watchdog`.
    """
    try:
        check_setting_names(os.environ, dotenv=Path(".env"))
        settings = GatewaySettings.from_environment()
        configure_logging(settings.log_level)
        # uvicorn would start the application first, and log more than one sentence.
        free_port(host, port)
        check_servers(settings)
    except (SettingsError, StartupError) as error:
        sys.exit(str(error))
    log_process_started(ProcessKind.GATEWAY)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    watch = Watchdog(
        partial(is_unresponsive, host, port, within_seconds=patience_seconds / CHECKS_PER_TIMEOUT),
        partial(exit_stuck_process, patience_seconds),
        patience_seconds=patience_seconds,
    )
    GatewayServer(config, app.state.services, watch).run()


class GatewayServer(uvicorn.Server):
    """uvicorn, which on its way out tells those who wait for an outcome or read a stream that it ends here.

    While it serves, a ``watch`` looks after it.
    """

    def __init__(self, config: uvicorn.Config, services: Container, watch: Watchdog | None = None) -> None:
        super().__init__(config)
        self._services = services
        self._watch = watch

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Open the door."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self._watch and self.started:
            self._watch.start()

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Let requests in flight end, then stop."""
        if self._watch:
            self._watch.stop()
        self._services.release()
        await super().shutdown(sockets)  # type: ignore[arg-type]
        log_process_stopped(ProcessKind.GATEWAY)


async def _not_found(request: Request, _: Exception) -> Response:
    return _refused(request, NotFound())


async def _not_allowed(request: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow", "GET") if isinstance(error, HTTPException) else "GET"
    return _refused(request, MethodNotAllowed(request.method, tuple(allowed.split(", "))))


def _refused(request: Request, refusal: NotFound | MethodNotAllowed) -> Response:
    problem = wants_problem(request.headers.get("accept"))
    answered = error_answer(refusal.status, refusal.body, refusal.headers, problem=problem)
    return Response(answered.body, answered.status, answered.headers, answered.media_type)
