"""The operators' first page: whether anything is wrong, since when, and how the queues are doing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.routing import Route

from gateway.container import Container
from gateway.http.responses import HttpResponse
from gateway.ops.login import LOGIN_PATH, START, token_id_of
from gateway.ops.sessions import OpsSessions
from gateway.pages.page import Page
from gateway.pages.request import PageHandler, PageRequest
from gateway.pages.site import Site
from models.refusals import Unauthenticated

REFRESH_SECONDS: Final = 10
"""After how many seconds the page loads itself again. It works without JavaScript."""


async def show_overview(request: PageRequest) -> HttpResponse:
    """Show the overview to anyone with an operators' session; others are sent to the login."""
    try:
        session = await OpsSessions(request.container).credential(request.headers, "GET")
    except Unauthenticated:
        session = None
    if session is None or await token_id_of(request, session.credential) is None:
        return request.site.redirect(LOGIN_PATH)
    snapshot = await request.container.operations.snapshot()
    return request.site.page(
        "ops_overview.html", 200, None, overview=snapshot.overview, queues=snapshot.queues, refresh=REFRESH_SECONDS
    )


PAGES: Final[Mapping[str, Mapping[str, PageHandler]]] = {START: {"GET": show_overview}}


def routes(container: Container, site: Site) -> list[Route]:
    """Return the route of the page."""
    return [Route(path, Page(path, handlers, container, site)) for path, handlers in PAGES.items()]
