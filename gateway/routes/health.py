"""For those who watch: is it alive, is it ready, what is it, how is it doing."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.container import Container
from gateway.health import canaries, checks


def routes(services: Container) -> list[Route]:
    """The addresses that need no token."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        verbose = "verbose" in request.query_params
        found = await checks(services, with_broker=verbose)
        is_ready = all(check.is_well for check in found if check.is_needed)
        body: dict[str, object] = {"status": "ready" if is_ready else "unready"}
        if verbose:
            body["checks"] = {
                check.name: {
                    "status": "ok" if check.is_well else "failed" if check.is_needed else "degraded",
                    "detail": check.detail,
                }
                for check in found
            }
        return JSONResponse(body, 200 if is_ready else 503)

    async def tell_version(_: Request) -> Response:
        return JSONResponse({"name": "tocsin", "version": version("tocsin")})

    async def metrics(_: Request) -> Response:
        services.metrics.set_canaries(await canaries(services))
        return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/version", tell_version),
        Route("/metrics", metrics),
    ]
