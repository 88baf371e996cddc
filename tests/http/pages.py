"""Follow the ``Link`` headers of a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.http.gateway_server import Gateway

LINK = re.compile(r'<([^>]+)>; rel="(\w+)"; results="(\w+)"; cursor="([^"]+)"')


def links(answer: Any) -> dict[str, tuple[str, bool]]:
    """Where the neighbours are, and whether they hold anything."""
    return {rel: (url, results == "true") for url, rel, results, _ in LINK.findall(answer.headers["link"])}


def pages(gateway: Gateway, path: str) -> Iterator[list[Any]]:
    """Every page, from the first on."""
    has_more = True
    while has_more:
        answer = gateway.get(path)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        path, has_more = links(answer)["next"]
