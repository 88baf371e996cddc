"""Routes for health checks and scrapers: liveness, readiness, version and metrics."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.container import Container
from gateway.health import HealthStatus, reaches_wake_ups, read_parked, run_checks


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

    async def metrics(request: Request) -> Response:
        numbers, parked, wakes = await asyncio.gather(
            container.operations.ledger_numbers(), read_parked(container), reaches_wake_ups(container)
        )
        container.metrics.set_ledger(numbers)
        container.metrics.set_parked(parked)
        container.metrics.set_servers({"broker": parked is not None} | ({} if wakes is None else {"wake_ups": wakes}))
        body, content_type = container.metrics.render(request.headers.get("Accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/version", read_version),
        Route("/metrics", metrics),
    ]
