"""Pages of lists: keyset cursors, in the ``Link`` format of the incident API that tocsin gives back.

A cursor holds the key of the row it stands at, so a page costs the same however far it is from the start.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from starlette.datastructures import QueryParams

from gateway.http.responses import HttpResponse, json_response
from models.enums import JSON, MAX_ID
from models.refusals import MalformedRequest

MAX_PER_PAGE: Final = 100

Key = tuple[Any, ...]
"""What orders a list: the values of its columns, the last one unique, as they stand in JSON."""

Shape = Callable[[Any], JSON]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a list, and which way to read from it. Without a key it is the list's own end on that side.

    ``includes`` says that the row of the key itself belongs to the page.
    """

    key: Key | None = None
    backwards: bool = False
    includes: bool = False

    def text(self) -> str:
        """The cursor on the wire; opaque."""
        facts = [int(self.backwards), int(self.includes), None if self.key is None else list(self.key)]
        return base64.urlsafe_b64encode(orjson.dumps(facts)).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Page:
    """What to read: at most ``size`` rows from the cursor on, one more to know whether there are more."""

    cursor: Cursor
    size: int

    @property
    def limit(self) -> int:
        """How many rows to ask for."""
        return self.size + 1


def cursor_int(value: JSON) -> int:
    """A number in a cursor.

    :raises ValueError: it is none that a table could hold.
    """
    if type(value) is not int or abs(value) > MAX_ID:
        raise ValueError
    return value


def cursor_text(value: JSON) -> str:
    """Text in a cursor.

    :raises ValueError: it is none that a table could hold.
    """
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def cursor_time(value: JSON) -> datetime:
    """A point in time in a cursor.

    :raises ValueError: it is none.
    """
    parsed = datetime.fromisoformat(cursor_text(value))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def parse_page(query: QueryParams, *, default: int, kinds: Sequence[Callable[[JSON], Any]] = (cursor_int,)) -> Page:
    """The page that a caller asks for; ``kinds`` read the values of a cursor's key.

    :raises Malformed: ``per_page`` or ``cursor`` does not fit.
    """
    return Page(_cursor(query.getlist("cursor"), kinds), _per_page(query.getlist("per_page"), default))


def page_response(
    page: Page, rows: Sequence[Any], *, key: Callable[[Any], Key], shape: Shape, url: str, query: QueryParams
) -> HttpResponse:
    """A page of rows in the order of the query, with its ``Link``; ``shape`` makes JSON of a row."""
    is_more = len(rows) > page.size
    shown = list(rows[: page.size])
    backwards = page.cursor.backwards
    if backwards:
        shown.reverse()
    before, after = _neighbours(page.cursor, [key(row) for row in shown])
    # What we came from is there, on the other side; on this side the row too many tells.
    has_before = is_more if backwards else page.cursor.key is not None
    has_after = page.cursor.key is not None if backwards else is_more
    links = (_link(url, query, "previous", before, has=has_before), _link(url, query, "next", after, has=has_after))
    return json_response(200, [shape(row) for row in shown], {"Link": ", ".join(links)})


def slice_page(rows: Sequence[Any], page: Page, *, key: Callable[[Any], Key], descending: bool = False) -> list[Any]:
    """The rows of a page, out of all rows in the order of their key: for lists that are worked out and not read."""
    at, backwards = page.cursor.key, page.cursor.backwards
    ordered = list(reversed(rows)) if backwards else list(rows)
    if at is None:
        return [] if backwards else ordered[: page.limit]
    beyond = [row for row in ordered if (key(row) < at if backwards != descending else key(row) > at)]
    here = [row for row in ordered if key(row) == at] if page.cursor.includes else []
    return (here + beyond)[: page.limit]


def _neighbours(cursor: Cursor, keys: Sequence[Key]) -> tuple[Cursor, Cursor]:
    if keys:
        return Cursor(keys[0], backwards=True), Cursor(keys[-1])
    # Nothing here: one side is this very place, the other begins with the row we came from.
    here, back = cursor, Cursor(cursor.key, backwards=not cursor.backwards, includes=not cursor.includes)
    return (here, back) if cursor.backwards else (back, here)


def _link(url: str, query: QueryParams, rel: str, cursor: Cursor, *, has: bool) -> str:
    kept = urlencode([(name, value) for name, value in query.multi_items() if name != "cursor"])
    text = cursor.text()
    return f'<{url}?{kept}&cursor={text}>; rel="{rel}"; results="{str(has).lower()}"; cursor="{text}"'


def _per_page(said: Sequence[str], default: int) -> int:
    if not said:
        return default
    text = said[-1].strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise MalformedRequest("Invalid per_page parameter.")
    size, most = int(text), max(MAX_PER_PAGE, default)
    if size > most:
        raise MalformedRequest(f"Invalid per_page value. Cannot exceed {most}.")
    if size < 1:
        raise MalformedRequest("Invalid per_page value. Must be at least 1.")
    return size


def _cursor(said: Sequence[str], kinds: Sequence[Callable[[JSON], Any]]) -> Cursor:
    if not said or not said[-1]:
        return Cursor()
    try:
        text = said[-1].encode("ascii")
        facts = orjson.loads(base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
        backwards, includes, values = facts
        if backwards not in (0, 1) or includes not in (0, 1):
            raise MalformedRequest("Invalid cursor parameter.")
        key = None if values is None else tuple(kind(value) for kind, value in zip(kinds, values, strict=True))
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise MalformedRequest("Invalid cursor parameter.") from None
    return Cursor(key, backwards=bool(backwards), includes=bool(includes))
