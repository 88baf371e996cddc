"""Routes for the OpenAPI document, and for a Swagger UI page that needs no internet access."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.api.endpoint import Endpoint
from gateway.http.responses import encode_json
from gateway.openapi.document import build_document

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
    """Return the documentation routes. The OpenAPI document is built when it is first requested."""

    @cache
    def document() -> bytes:
        return encode_json(build_document(endpoints))

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    return [
        Route("/openapi.json", openapi),
        Route("/docs", page),
        Mount("/docs/files", StaticFiles(directory=_STATIC)),
    ]
