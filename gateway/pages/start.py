"""The first page, which leads on. It needs neither a session nor a secret."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.pages.site import Site


def route(site: Site) -> Route:
    """Return the route of the first page."""

    async def show(_: Request) -> Response:
        page = site.page("start.html")
        return Response(page.body, page.status, page.headers, page.media_type)

    return Route("/", show)
