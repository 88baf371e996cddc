"""Keyset pagination in the ``Link`` header format that Sentry's API uses.

A cursor holds a row's sort key, so a page costs the same however far it is from the start.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import orjson
from starlette.datastructures import QueryParams

from gateway.http.responses import HttpResponse, json_response
from models.refusals import MalformedRequest
from models.types import JSON, MAX_ID

MAX_PER_PAGE: Final = 100

Key = tuple[Any, ...]
"""A row's sort key: the values of the sort columns, the last of which is unique."""

Serializer = Callable[[Any], JSON]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a list, with a reading direction.

    A cursor without a key stands for the start of the list in that direction. If ``includes`` is true, the page also
    contains the row with the cursor's key.
    """

    key: Key | None = None
    backwards: bool = False
    includes: bool = False

    def encode(self) -> str:
        """Return the cursor as the opaque text that callers receive."""
        parts = [int(self.backwards), int(self.includes), None if self.key is None else list(self.key)]
        return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Page:
    """A requested page, which holds at most ``size`` rows, starting at the cursor."""

    cursor: Cursor
    size: int

    @property
    def limit(self) -> int:
        """The number of rows to read: one more than the page shows, to tell whether another page follows."""
        return self.size + 1


def cursor_int(value: JSON) -> int:
    """Return a value from a cursor's key unchanged, after checking that it is an integer.

    :raises ValueError: if the value is not an integer that PostgreSQL can store.
    """
    if type(value) is not int or abs(value) > MAX_ID:
        raise ValueError
    return value


def cursor_text(value: JSON) -> str:
    """Return a value from a cursor's key unchanged, after checking that it is text.

    :raises ValueError: if the value is not text that PostgreSQL can store.
    """
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def cursor_uuid(value: JSON) -> UUID:
    """Parse a UUID from a cursor's key.

    :raises ValueError: if the value is not a UUID.
    """
    return UUID(cursor_text(value))


def cursor_time(value: JSON) -> datetime:
    """Parse a timestamp from a cursor's key. A timestamp without an offset is taken as UTC.

    :raises ValueError: if the value is not an ISO 8601 timestamp.
    """
    parsed = datetime.fromisoformat(cursor_text(value))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def parse_page(
    query: QueryParams, *, default: int, key_parsers: Sequence[Callable[[JSON], Any]] = (cursor_int,)
) -> Page:
    """Return the page that the query parameters ``per_page`` and ``cursor`` request.

    ``default`` is the page size if ``per_page`` is absent. ``key_parsers`` holds one parser per value in the cursor's
    key, in order.

    :raises MalformedRequest: if ``per_page`` or ``cursor`` is invalid.
    """
    return Page(_cursor(query.getlist("cursor"), key_parsers), _per_page(query.getlist("per_page"), default))


def page_response(
    page: Page,
    rows: Sequence[Any],
    *,
    key_of: Callable[[Any], Key],
    serialize: Serializer,
    url: str,
    query: QueryParams,
    continues_at: Key | None = None,
) -> HttpResponse:
    """Return a page's rows as a response with a ``Link`` header. See :func:`show_page` for the parameters."""
    shown = show_page(page, rows, key_of=key_of, continues_at=continues_at)
    links = (
        _link(url, query, rel, neighbour.cursor, has=neighbour.has_rows)
        for rel, neighbour in (("previous", shown.previous), ("next", shown.next))
    )
    return json_response(200, [serialize(row) for row in shown.rows], {"Link": ", ".join(links)})


class Neighbour(NamedTuple):
    """The page before or after another one, and whether it has rows."""

    cursor: Cursor
    has_rows: bool


class ShownPage(NamedTuple):
    """The rows of a page, in the order of the list, and its neighbours."""

    rows: list[Any]
    previous: Neighbour
    next: Neighbour


def show_page(
    page: Page, rows: Sequence[Any], *, key_of: Callable[[Any], Key], continues_at: Key | None = None
) -> ShownPage:
    """Return a page's rows and its neighbours.

    ``rows`` holds up to ``page.limit`` rows, in the order in which they were read. If the search for them stopped
    early, ``continues_at`` is the key after which it continues.
    """
    has_more = len(rows) > page.size or continues_at is not None
    shown = list(rows[: page.size])
    backwards = page.cursor.backwards
    if backwards:
        shown.reverse()
    before, after = _neighbours(page.cursor, [key_of(row) for row in shown])
    if continues_at is not None and len(rows) <= page.size:
        before, after = (Cursor(continues_at, backwards=True), after) if backwards else (before, Cursor(continues_at))
    # In the reading direction, the extra row tells whether there are more rows. In the other direction, there is at
    # least the row that the cursor came from.
    has_before = has_more if backwards else page.cursor.key is not None
    has_after = page.cursor.key is not None if backwards else has_more
    return ShownPage(shown, Neighbour(before, has_before), Neighbour(after, has_after))


def slice_page(rows: Sequence[Any], page: Page, *, key_of: Callable[[Any], Key], descending: bool = False) -> list[Any]:
    """Return a page's rows from a complete list of rows in key order. This is for lists that no query can paginate."""
    at, backwards = page.cursor.key, page.cursor.backwards
    ordered = list(reversed(rows)) if backwards else list(rows)
    if at is None:
        return [] if backwards else ordered[: page.limit]
    beyond = [row for row in ordered if (key_of(row) < at if backwards != descending else key_of(row) > at)]
    here = [row for row in ordered if key_of(row) == at] if page.cursor.includes else []
    return (here + beyond)[: page.limit]


def _neighbours(cursor: Cursor, keys: Sequence[Key]) -> tuple[Cursor, Cursor]:
    if keys:
        return Cursor(keys[0], backwards=True), Cursor(keys[-1])
    # The page is empty: one neighbour is at this position, and the other begins with the row that the cursor came from.
    here, back = cursor, Cursor(cursor.key, backwards=not cursor.backwards, includes=not cursor.includes)
    return (here, back) if cursor.backwards else (back, here)


def _link(url: str, query: QueryParams, rel: str, cursor: Cursor, *, has: bool) -> str:
    kept = urlencode([(name, value) for name, value in query.multi_items() if name != "cursor"])
    text = cursor.encode()
    return f'<{url}?{kept}&cursor={text}>; rel="{rel}"; results="{str(has).lower()}"; cursor="{text}"'


def _per_page(values: Sequence[str], default: int) -> int:
    if not values:
        return default
    text = values[-1].strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise MalformedRequest("Invalid per_page parameter.")
    size, max_size = int(text), max(MAX_PER_PAGE, default)
    if size > max_size:
        raise MalformedRequest(f"Invalid per_page value. Cannot exceed {max_size}.")
    if size < 1:
        raise MalformedRequest("Invalid per_page value. Must be at least 1.")
    return size


def _cursor(values: Sequence[str], key_parsers: Sequence[Callable[[JSON], Any]]) -> Cursor:
    if not values or not values[-1]:
        return Cursor()
    try:
        text = values[-1].encode("ascii")
        parts = orjson.loads(base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
        backwards, includes, key_values = parts
        if backwards not in (0, 1) or includes not in (0, 1):
            raise MalformedRequest("Invalid cursor parameter.")
        key = (
            None
            if key_values is None
            else tuple(parse(value) for parse, value in zip(key_parsers, key_values, strict=True))
        )
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise MalformedRequest("Invalid cursor parameter.") from None
    return Cursor(key, backwards=bool(backwards), includes=bool(includes))
