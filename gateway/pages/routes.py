"""The routes of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.container import Container
from gateway.pages import inbox, incident, login, start, unsubscribe
from gateway.pages.page import Page
from gateway.pages.request import PageHandler
from gateway.pages.site import FILES_PATH, STATIC, Site

PAGES: Final[Mapping[str, Mapping[str, PageHandler]]] = {
    incident.PATH: {"GET": incident.show_incident, "POST": incident.change_incident},
    inbox.PATH: {"GET": inbox.show_inbox, "POST": inbox.read_all},
    unsubscribe.PATH: {"GET": unsubscribe.ask_to_unsubscribe, "POST": unsubscribe.unsubscribe},
    login.LOGIN_PATH: {"GET": login.show_login, "POST": login.log_in},
    login.LOGOUT_PATH: {"POST": login.log_out},
}


def routes(container: Container, site: Site) -> list[Route | Mount]:
    """Return the routes of the pages and of their files."""
    return [
        *(Route(path, Page(path, handlers, container, site)) for path, handlers in PAGES.items()),
        start.route(site),
        Mount(FILES_PATH, StaticFiles(directory=STATIC)),
    ]
