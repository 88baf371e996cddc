"""The flows that read resources: incidents, activities, the inbox, commands, preferences and decisions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

from tocsin_client._protocol import Flow, HttpProtocol, Request, checked_body, new_key
from tocsin_client.resources import Incident
from tocsin_client.results import Decision, Outcome, Preferences

PAGE_SIZE: Final = 100
"""The number of items to read in one request, the most that the server returns."""

_PREFERENCES_PATH: Final = "/api/0/users/me/preferences/"

_NEXT: Final = re.compile(r'rel="next"; results="true"; cursor="([^"]*)"')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PagedRead(Generic[T]):
    """A list to read page by page: its path, its query, and the function that parses an item.

    Query parameters that are ``None`` are left out, and those with several values are repeated.
    """

    path: str
    query: Mapping[str, Any]
    parse: Callable[[Mapping[str, Any]], T]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The items of a page, and the cursor of the next one, or ``None`` if there is none."""

    items: list[T]
    next_cursor: str | None


def read(protocol: HttpProtocol, path: str, query: Mapping[str, Any]) -> Flow[Any]:
    """Read one of the organization's resources and return its JSON."""
    return checked_body((yield from protocol.send(_get(protocol, path, query))))


def read_page(protocol: HttpProtocol, paged: PagedRead[T], cursor: str | None) -> Flow[Page[T]]:
    """Read the page of a list that begins at a cursor, or the first one."""
    query = {**paged.query, "per_page": PAGE_SIZE, "cursor": cursor}
    response = yield from protocol.send(_get(protocol, paged.path, query))
    items = [paged.parse(each) for each in checked_body(response)]
    following = _NEXT.search(response.headers.get("link", ""))
    return Page(items, following[1] if following else None)


def incident(protocol: HttpProtocol, number: str) -> Flow[Incident]:
    """Read an incident."""
    return Incident.from_json((yield from read(protocol, f"incidents/{quote(number, safe='')}/", {})))


def explain(protocol: HttpProtocol, notification: str) -> Flow[list[Decision]]:
    """Read the decisions behind a notification."""
    body = yield from read(protocol, f"notifications/{quote(notification, safe='')}/explain/", {})
    return [Decision.from_json(each) for each in body["decisions"]]


def explain_incident(protocol: HttpProtocol, number: str, *, user: int | None) -> Flow[list[Decision]]:
    """Read the decisions about a person and an incident."""
    body = yield from read(protocol, f"incidents/{quote(number, safe='')}/explain/", {"user": user})
    return [Decision.from_json(each) for each in body["decisions"]]


def preferences(protocol: HttpProtocol) -> Flow[Preferences]:
    """Read the caller's preferences for messages."""
    response = yield from protocol.send(protocol.request("GET", _PREFERENCES_PATH))
    return Preferences(checked_body(response), response.headers["etag"])


def replace_preferences(
    protocol: HttpProtocol, document: Mapping[str, Any], *, version: str | None, key: str | None, wait: float
) -> Flow[Outcome]:
    """Replace the caller's preferences and wait up to ``wait`` seconds for the outcome."""
    request = protocol.request("PUT", _PREFERENCES_PATH, dict(document), key=key or new_key())
    if version is not None:
        request = replace(request, headers={**request.headers, "If-Match": version})
    return (yield from protocol.post_request(request, wait=wait))


def _get(protocol: HttpProtocol, path: str, query: Mapping[str, Any]) -> Request:
    given = {name: value for name, value in query.items() if value is not None}
    parameters = urlencode(given, doseq=True)
    return protocol.request("GET", protocol.path(path) + (f"?{parameters}" if parameters else ""))
