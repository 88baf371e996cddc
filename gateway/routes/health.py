"""Routes for health checks and scrapers: liveness, readiness, version and metrics."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.container import Container
from gateway.health import HealthStatus, read_canaries, read_parked, run_checks


def routes(container: Container) -> list[Route]:
    """Return the health routes, which require no token."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        verbose = "verbose" in request.query_params
        results = await run_checks(container, with_broker=verbose)
        is_ready = all(check.status is not HealthStatus.FAILED for check in results)
        body: dict[str, object] = {"status": "ready" if is_ready else "unready"}
        if verbose:
            body["checks"] = {check.name: {"status": check.status, "detail": check.detail} for check in results}
        return JSONResponse(body, 200 if is_ready else 503)

    async def read_version(_: Request) -> Response:
        return JSONResponse({"name": "tocsin", "version": version("tocsin")})

    async def metrics(_: Request) -> Response:
        canaries, parked = await asyncio.gather(read_canaries(container), read_parked(container))
        container.metrics.set_canaries(canaries)
        container.metrics.set_parked(parked)
        return Response(container.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/version", read_version),
        Route("/metrics", metrics),
    ]
