"""Bulk requests: lists of commands that are accepted together, in order, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import PydanticCustomError

from gateway.api.command_response import (
    accepted_json,
    command_headers,
    finished_json,
    pending_headers,
    refusals_of_replays,
)
from gateway.api.context import RequestContext
from gateway.api.submit import (
    accept_and_wait,
    find_forbidden_targets,
    ledger_row,
    request_digest,
    validate_command,
    with_condition,
)
from gateway.http.parsing import (
    BODY_LIMIT_BYTES,
    if_version,
    is_idempotency_key,
    json_size,
    parse_idempotency_key,
    parse_if_match,
    require_object,
)
from gateway.http.responses import HttpResponse, json_response
from gateway.ledger.submission import IdempotencyKey, Submission
from gateway.turns import in_turns
from models.enums import Lane
from models.messaging.command_ledger import NewCommand
from models.policy import require_may_submit, require_token_scope
from models.refusals import (
    FIELD_NOT_NULL,
    FIELD_REQUIRED,
    BodyTooLarge,
    IdempotencyKeyReused,
    InvalidFields,
    NotFound,
)
from models.types import JSON
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.fields import NOT_A_STRING, errors_of_unknown, not_an_object
from tasks.commands.rule_fields import STRICT_CONTEXT

MAX_ITEMS: Final = 1000
DEFAULT_WAIT_SECONDS: Final = 0
_ITEM_FIELDS: Final = frozenset({"type", "idempotencyKey"})


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One command in the list. ``key`` is its own idempotency key, and ``version`` the version that it requires."""

    entry: CatalogEntry
    command: Command
    key: str | None = None
    version: int | None = None


async def submit_commands(context: RequestContext) -> HttpResponse:
    """Submit every command in the request body.

    Return 202 with the commands, or 200 if the caller waited and all of them are finished.

    :raises Refusal: if none of the commands is accepted.
    """
    header_key = parse_idempotency_key(context.headers)
    condition = parse_if_match(context.headers)
    body = require_object(await context.json_body())
    sources = _parse_list(body)
    _require_permissions(context, sources)
    if len(context.body) > BODY_LIMIT_BYTES:
        async for source in in_turns(sources):
            if json_size(source) > BODY_LIMIT_BYTES:
                raise BodyTooLarge(BODY_LIMIT_BYTES)
    items = await _validate_items(context, sources)
    if errors := await find_forbidden_targets(context, [item.command for item in items]):
        raise InvalidFields({"commands": {str(index): each for index, each in errors.items()}})
    context.ignore_unknown([name for name in body if name != "commands"])
    return await submit_items(context, items, condition=condition, header_key=header_key)


async def submit_items(
    context: RequestContext, items: Sequence[BulkItem], *, condition: str | None, header_key: str | None
) -> HttpResponse:
    """Submit validated commands.

    If any item has a key of its own, the body must have a field ``commands`` with the list from which the items were
    read.

    Return 202 with the commands, or 200 if the caller waited and all of them are finished.

    :raises Refusal: if none of the commands is accepted.
    """
    has_keys = header_key is not None or any(item.key is not None for item in items)
    exact_body = await context.exact_json_body() if has_keys else None
    indexes, submission = await _make_submission(
        context, items, condition=condition, header_key=header_key, exact_body=exact_body
    )
    accepted, outcomes = await accept_and_wait(context, submission, default_wait_seconds=DEFAULT_WAIT_SECONDS)
    headers = command_headers(context, accepted)
    if outcomes is not None:
        refusals = await refusals_of_replays(context, accepted, outcomes)
        commands = [finished_json(context, outcomes[each.id], is_readable=each.id not in refusals) for each in accepted]
        return json_response(200, {"commands": [commands[index] for index in indexes]}, headers)
    commands = [accepted_json(context, each) for each in accepted]
    headers |= pending_headers(context, accepted)
    return json_response(202, {"commands": [commands[index] for index in indexes]}, headers)


# --- the list --------------------------------------------------------------------------------------------------


def _parse_list(body: Mapping[str, JSON]) -> list[JSON]:
    if "commands" not in body:
        raise InvalidFields({"commands": [FIELD_REQUIRED]})
    sources = body["commands"]
    if sources is None:
        raise InvalidFields({"commands": [FIELD_NOT_NULL]})
    if not isinstance(sources, list):
        raise InvalidFields({"commands": [f'Expected a list of items but got type "{type(sources).__name__}".']})
    if not sources:
        raise InvalidFields({"commands": ["This list may not be empty."]})
    if len(sources) > MAX_ITEMS:
        raise InvalidFields({"commands": [f"Ensure this field has no more than {MAX_ITEMS} elements."]})
    return sources


def _require_permissions(context: RequestContext, sources: Sequence[JSON]) -> None:
    # Each type of command needs the same permissions here as at its own endpoint. Unknown types are refused later.
    named = (_entry_of(source) for source in sources if isinstance(source, dict))
    entries = {entry.command_class.name: entry for entry in named if entry is not None}.values()
    for entry in entries:
        require_token_scope(context.actor, entry.permission, entry.method)
    for entry in entries:
        feature = entry.permission.required_feature(entry.method)
        if feature is not None and not context.organization.has(feature):
            raise NotFound
    for entry in entries:
        require_may_submit(context.actor, for_people=entry.for_people, for_services=entry.for_services)


def _entry_of(source: Mapping[str, JSON]) -> CatalogEntry | None:
    name = source.get("type")
    return CATALOG.get(name) if isinstance(name, str) else None


# --- items -----------------------------------------------------------------------------------------------------


async def _validate_items(context: RequestContext, sources: Sequence[JSON]) -> list[BulkItem]:
    items, errors = [], {}
    async for index, source in in_turns(enumerate(sources)):
        try:
            items.append(_validate_item(context, source))
        except InvalidFields as invalid:
            errors[str(index)] = invalid.body
    if errors:
        raise InvalidFields({"commands": errors})
    return items


def _validate_item(context: RequestContext, source: JSON) -> BulkItem:
    if not isinstance(source, dict):
        raise InvalidFields({"non_field_errors": [not_an_object(source)]})
    entry = _entry_of(source)
    if entry is None:
        raise InvalidFields({"type": [_type_error(source)]})
    known = _ITEM_FIELDS | entry.command_class.wire_fields()
    if entry.is_conditional:
        known |= {"ifVersion"}
    errors: dict[str, Any] = errors_of_unknown(name for name in source if name not in known)
    key = source.get("idempotencyKey")
    if "idempotencyKey" in source and not is_idempotency_key(key):
        errors["idempotencyKey"] = ["Send 1 to 255 visible ASCII characters."]
    version = None
    if "ifVersion" in source and entry.is_conditional:
        try:
            version = if_version(source["ifVersion"])
        except PydanticCustomError as error:
            errors["ifVersion"] = [error.message()]
    try:
        command = validate_command(context, entry.command_class, source, STRICT_CONTEXT)
    except InvalidFields as invalid:
        raise InvalidFields(invalid.body | errors) from None
    if errors:
        raise InvalidFields(errors)
    return BulkItem(entry, command, key, version)


def _type_error(source: Mapping[str, JSON]) -> str:
    if "type" not in source:
        return FIELD_REQUIRED
    name = source["type"]
    if name is None:
        return FIELD_NOT_NULL
    return f'Unknown command type "{name[:100]}".' if isinstance(name, str) else NOT_A_STRING


# --- submission ------------------------------------------------------------------------------------------------


async def _make_submission(
    context: RequestContext,
    items: Sequence[BulkItem],
    *,
    condition: str | None,
    header_key: str | None,
    exact_body: JSON,
) -> tuple[list[int], Submission]:
    """Return the submission, and the index of each item's row in it. Equal items with the same key share a row."""
    rows: list[NewCommand] = []
    indexes: list[int] = []
    keys: dict[str, IdempotencyKey] = {}
    async for position, item in in_turns(enumerate(items)):
        digest = "" if item.key is None else request_digest(context, condition, exact_body["commands"][position])
        known = keys.get(item.key or "")
        if known is not None and known.digest != digest:
            raise IdempotencyKeyReused
        if known is not None:
            indexes.append(known.indexes[0])
            continue
        indexes.append(len(rows))
        if item.key is not None:
            keys[item.key] = IdempotencyKey(item.key, digest, (len(rows),))
        row = ledger_row(context, item.entry, item.command, lane=Lane.BULK)
        rows.append(with_condition(row, None if item.version is None else (item.version,)))
    if header_key is not None:
        if header_key in keys:
            raise IdempotencyKeyReused
        digest = request_digest(context, condition, exact_body)
        keys[header_key] = IdempotencyKey(header_key, digest, tuple(range(len(rows))))
    return indexes, Submission(tuple(rows), tuple(keys.values()))
