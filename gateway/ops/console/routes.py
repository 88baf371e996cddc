"""The routes of the operators' pages, and of their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.container import Container
from gateway.ops.console import audit, commands, dead, deliveries, explain, holds, overview, processes, queues
from gateway.ops.console.formats import FILTERS
from gateway.ops.console.operator import ConsoleHandler, for_operators
from gateway.pages.page import Page
from gateway.pages.site import Site

STATIC: Final = Path(__file__).parent / "static"
FILES_PATH: Final = "/ops/files"

PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {
    **overview.PAGES,
    **queues.PAGES,
    **processes.PAGES,
    **holds.PAGES,
    **commands.PAGES,
    **dead.PAGES,
    **deliveries.PAGES,
    **explain.PAGES,
    **audit.PAGES,
}


def routes(container: Container, site: Site) -> list[Route | Mount]:
    """Return the routes of the console. Each page needs an operator's session."""
    site.add_filters(FILTERS)
    return [
        *(
            Route(
                path,
                Page(path, {method: for_operators(handle) for method, handle in handlers.items()}, container, site),
            )
            for path, handlers in PAGES.items()
        ),
        Mount(FILES_PATH, StaticFiles(directory=STATIC)),
    ]
