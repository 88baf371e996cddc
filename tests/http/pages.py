"""Helpers that follow the ``Link`` headers of a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.http.gateway_server import Gateway

LINK = re.compile(r'<([^>]+)>; rel="(\w+)"; results="(\w+)"; cursor="([^"]+)"')


def links(response: Any) -> dict[str, tuple[str, bool]]:
    """Return each linked page's URL and whether the page has results, by the link's relation."""
    return {rel: (url, results == "true") for url, rel, results, _ in LINK.findall(response.headers["link"])}


def pages(gateway: Gateway, path: str) -> Iterator[list[Any]]:
    """Yield every page of a list, following the links to the next page."""
    has_more = True
    while has_more:
        response = gateway.get(path)
        assert response.status_code == 200, response.text
        yield response.json()
        path, has_more = links(response)["next"]
