"""Lists of the console: their filters are in the URL, errors stand beside their fields, and pages follow keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy.engine import Connection

from gateway.http.pagination import Neighbour, cursor_int, parse_page, show_page
from gateway.ops.bodies import Fields
from gateway.pages.request import PageRequest
from models.operations.keyset import Listing, Window
from models.refusals import InvalidFields, NotFound, Refusal
from models.types import JSON

PAGE_SIZE: Final = 50

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

FiltersT = TypeVar("FiltersT")


class Texts(dict[str, str]):
    """Texts by the name of a field. A field without one has an empty text."""

    def __missing__(self, name: str) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list. ``typed`` and ``errors`` are the filters and what is wrong with them, by name.

    ``newer`` and ``older`` are the addresses of the neighbouring pages, if these have rows. A search that stopped early
    may have no rows, but an older page.
    """

    typed: Texts
    rows: Sequence[Any] = ()
    newer: str | None = None
    older: str | None = None
    errors: Texts = field(default_factory=Texts)

    @property
    def status(self) -> int:
        """The status code of a page that shows this list."""
        return 400 if self.errors else 200

    @property
    def is_filtered(self) -> bool:
        """Whether any filter is set."""
        return any(self.typed.values())


def typed_fields(request: PageRequest, names: Sequence[str]) -> Texts:
    """Return the query parameters with these names, as typed. Absent ones are empty, of several the last counts."""
    return Texts((name, request.query.get(name, "")) for name in names)


def given(typed: Mapping[str, str]) -> Fields:
    """Return fields to check. Empty ones count as absent, as forms send them."""
    return Fields({name: value for name, value in typed.items() if value.strip()})


def errors_of(refusal: Refusal) -> Texts:
    """Return the first sentence about each field in the body of a refusal."""
    body = refusal.body if isinstance(refusal.body, dict) else {}
    return Texts((name, str(texts[0] if isinstance(texts, list) else texts)) for name, texts in body.items())


def parse_uuid(text: str) -> UUID:
    """Return the UUID in a path.

    :raises NotFound: if the text is not a UUID.
    """
    if not _UUID.fullmatch(text):
        raise NotFound
    return UUID(text)


async def read_list(
    request: PageRequest,
    names: Sequence[str],
    parse: Callable[[Fields], FiltersT],
    read: Callable[[Connection, FiltersT, Window], Listing[Any]],
    *,
    key_parser: Callable[[JSON], Any] = cursor_int,
) -> ListPage:
    """Return the page of a list that the request asks for.

    :param names: the query parameters that filter the list.
    :param parse: returns the filters; errors of fields are in the fields that it gets.
    :raises MalformedRequest: if the cursor is not valid.
    :raises Unavailable: if the database does not respond in time.
    """
    typed = typed_fields(request, names)
    page = parse_page(request.query, default=PAGE_SIZE, key_parsers=(key_parser,))
    cursor = page.cursor
    try:
        fields = given(typed)
        filters = parse(fields)
        fields.require_valid()
        # The page before the first one is empty.
        if cursor.key is None and cursor.backwards:
            found: Listing[Any] = Listing()
        else:
            window = Window(page.limit, cursor.key, cursor.backwards, cursor.includes)
            found = await request.container.operations.read(lambda connection: read(connection, filters, window))
    except InvalidFields as refusal:
        return ListPage(typed, errors=errors_of(refusal))
    shown = show_page(page, found.rows, key_of=lambda entry: entry.key, continues_at=found.stopped_at)
    kept = {name: value for name, value in typed.items() if value} | (
        {"per_page": str(page.size)} if page.size != PAGE_SIZE else {}
    )
    return ListPage(
        typed,
        [entry.json for entry in shown.rows],
        _address(kept, shown.previous),
        _address(kept, shown.next),
    )


def _address(kept: Mapping[str, str], neighbour: Neighbour) -> str | None:
    return "?" + urlencode({**kept, "cursor": neighbour.cursor.encode()}) if neighbour.has_rows else None
