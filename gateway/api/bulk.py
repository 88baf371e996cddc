"""Many commands in one request: all or nothing, in the order of the list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.api.context import RequestContext
from gateway.api.submit import (
    NOT_WAITING,
    accept,
    accepted_resource,
    checked,
    command_headers,
    ended_resource,
    new_row,
    request_digest,
    require_right_to_author,
    waiting_headers,
)
from gateway.http.parsing import BODY_LIMIT, idempotency_key, if_match, is_key, object_of, size_of
from gateway.http.responses import HttpResponse, json_response
from gateway.ledger.acceptance import Key, Submission
from models.enums import JSON, Lane
from models.messaging.command_ledger import NewCommand
from models.policy import require_token_scope
from models.refusals import FIELD_NOT_NULL, FIELD_REQUIRED, BodyTooLarge, IdempotencyKeyReused, InvalidFields, NotFound
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.fields import NOT_A_STRING, not_an_object
from tasks.commands.rule_fields import STRICT_CONTEXT

MAX_ITEMS: Final = 1000
_OWN_FIELDS: Final = frozenset({"type", "idempotencyKey"})


@dataclass(frozen=True, slots=True)
class Item:
    """One command of the list; ``source`` is its JSON as it came."""

    entry: CatalogEntry
    command: Command
    key: str | None
    source: JSON


async def ask_for_all(visit: RequestContext) -> HttpResponse:
    """Ask for every command of the body; 202 with their resources, or 200 if all ended while the caller waited.

    :raises Refusal: none of them is accepted.
    """
    header_key = idempotency_key(visit.headers)
    condition = if_match(visit.headers)
    body = object_of(await visit.json())
    listed = _listed(body)
    _require_rights(visit, listed)
    if len(visit.body) > BODY_LIMIT and any(size_of(each) > BODY_LIMIT for each in listed):
        raise BodyTooLarge(BODY_LIMIT)
    items = _items(listed)
    return await ask_for_each(visit, items, condition=condition, header_key=header_key, body=body)


async def ask_for_each(
    visit: RequestContext, items: Sequence[Item], *, condition: str | None, header_key: str | None, body: JSON
) -> HttpResponse:
    """Ask for these commands, of which ``body`` is the source; 202 or 200 as above.

    :raises Refusal: none of them is accepted.
    """
    places, application = _application(visit, items, condition=condition, header_key=header_key, body=body)
    accepted, ended = await accept(visit, application, patience=NOT_WAITING)
    headers = command_headers(visit, accepted)
    if ended is not None:
        resources = [ended_resource(visit, ended[each.id]) for each in accepted]
        return json_response(200, {"commands": [resources[place] for place in places]}, headers)
    resources = [accepted_resource(visit, each) for each in accepted]
    return json_response(202, {"commands": [resources[place] for place in places]}, headers | waiting_headers(accepted))


def _listed(body: dict[str, JSON]) -> list[JSON]:
    if "commands" not in body:
        raise InvalidFields({"commands": [FIELD_REQUIRED]})
    listed = body["commands"]
    if listed is None:
        raise InvalidFields({"commands": [FIELD_NOT_NULL]})
    if not isinstance(listed, list):
        raise InvalidFields({"commands": [f'Expected a list of items but got type "{type(listed).__name__}".']})
    if not listed:
        raise InvalidFields({"commands": ["This list may not be empty."]})
    if len(listed) > MAX_ITEMS:
        raise InvalidFields({"commands": [f"Ensure this field has no more than {MAX_ITEMS} elements."]})
    return listed


def _require_rights(visit: RequestContext, listed: Sequence[JSON]) -> None:
    # Each item needs what its own route needs; what cannot be told apart needs nothing and is malformed.
    entries = {item["type"]: _entry_of(item) for item in listed if isinstance(item, dict) and _entry_of(item)}
    for entry in entries.values():
        if entry is not None:
            require_token_scope(visit.actor, entry.permission, entry.method)
    for entry in entries.values():
        feature = None if entry is None else entry.permission.required_feature(entry.method)
        if feature is not None and not visit.organization.has(feature):
            raise NotFound
    for entry in entries.values():
        if entry is not None:
            require_right_to_author(visit, entry)


def _entry_of(item: dict[str, JSON]) -> CatalogEntry | None:
    name = item.get("type")
    return CATALOG.get(name) if isinstance(name, str) else None


def _items(listed: Sequence[JSON]) -> list[Item]:
    items, wrongs = [], {}
    for index, each in enumerate(listed):
        try:
            items.append(_item(each))
        except InvalidFields as wrong:
            wrongs[str(index)] = wrong.body
    if wrongs:
        raise InvalidFields({"commands": wrongs})
    return items


def _item(each: JSON) -> Item:
    if not isinstance(each, dict):
        raise InvalidFields({"non_field_errors": [not_an_object(each)]})
    entry = _entry_of(each)
    if entry is None:
        raise InvalidFields({"type": [_type_complaint(each)]})
    known = _OWN_FIELDS | entry.command_class.wire_fields()
    wrongs: dict[str, Any] = {name: ["Unknown field."] for name in each if name not in known}
    key = each.get("idempotencyKey")
    if "idempotencyKey" in each and not is_key(key):
        wrongs["idempotencyKey"] = ["Send 1 to 255 visible ASCII characters."]
    try:
        command = checked(entry.command_class, each, STRICT_CONTEXT)
    except InvalidFields as wrong:
        raise InvalidFields(wrong.body | wrongs) from None
    if wrongs:
        raise InvalidFields(wrongs)
    return Item(entry, command, key, each)


def _type_complaint(item: dict[str, JSON]) -> str:
    if "type" not in item:
        return FIELD_REQUIRED
    name = item["type"]
    if name is None:
        return FIELD_NOT_NULL
    return f'"{name[:100]}" is no command.' if isinstance(name, str) else NOT_A_STRING


def _application(
    visit: RequestContext, items: Sequence[Item], *, condition: str | None, header_key: str | None, body: JSON
) -> tuple[list[int], Submission]:
    # Equal items under one key are one command: `places` says which row each item became.
    rows: list[NewCommand] = []
    places: list[int] = []
    keys: dict[str, Key] = {}
    for item in items:
        digest = "" if item.key is None else request_digest(visit, condition, item.source)
        known = keys.get(item.key or "")
        if known is not None and known.digest != digest:
            raise IdempotencyKeyReused
        if known is not None:
            places.append(known.places[0])
            continue
        places.append(len(rows))
        if item.key is not None:
            keys[item.key] = Key(item.key, digest, (len(rows),))
        rows.append(new_row(visit, item.entry, item.command, lane=Lane.BULK))
    if header_key is not None:
        if header_key in keys:
            raise IdempotencyKeyReused
        whole = Key(header_key, request_digest(visit, condition, body), tuple(range(len(rows))))
        keys[header_key] = whole
    return places, Submission(tuple(rows), tuple(keys.values()))
