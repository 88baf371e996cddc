"""Routes for the OpenAPI and the AsyncAPI document, and for a Swagger UI page that needs no internet access."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.api.endpoint import Endpoint
from gateway.http.parsing import Headers
from gateway.http.public_url import PublicUrl
from gateway.http.responses import encode_json
from gateway.openapi.document import build_document
from gateway.openapi.event_document import build_event_document

_STATIC: Final = Path(__file__).parent.parent / "static"

# Swagger UI sets styles from its script. Everything else is loaded from this server only.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# The paths are relative, so that they hold under a proxy's prefix, too.
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>tocsin API</title>
    <link rel="stylesheet" href="docs/files/swagger-ui.css">
    <link rel="icon" type="image/png" href="docs/files/favicon-32x32.png">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="docs/files/swagger-ui-bundle.js"></script>
    <script src="docs/files/start.js"></script>
  </body>
</html>
"""


def routes(endpoints: Sequence[Endpoint]) -> list[Route | Mount]:
    """Return the documentation routes. The OpenAPI document is built when it is first requested.

    Both documents name the URL under which the caller reaches the gateway: generated clients take it as their default.
    """

    @cache
    def document() -> Mapping[str, Any]:
        return build_document(endpoints)

    async def openapi(request: Request) -> Response:
        described = await asyncio.to_thread(document)
        servers = [{"url": _base_url(request)}]
        return Response(encode_json({**described, "servers": servers}), media_type="application/json")

    async def asyncapi(request: Request) -> Response:
        described = await asyncio.to_thread(build_event_document, _base_url(request))
        return Response(encode_json(described), media_type="application/json")

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    return [
        Route("/openapi.json", openapi),
        Route("/asyncapi.json", asyncapi),
        Route("/docs", page),
        Mount("/docs/files", StaticFiles(directory=_STATIC)),
    ]


def _base_url(request: Request) -> str:
    public_url: PublicUrl = request.app.state.container.public_url
    return public_url.of_request(request.scope, Headers(request.scope["headers"]))
