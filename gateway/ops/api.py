"""The endpoints under `/ops/api/`: what operators see of tocsin, and what they may do.

The facts and actions are those of :mod:`models.operations`, which the command line shares. Viewers read, without what
users wrote; operators and admins also change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy.engine import Connection

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Handler, Operation, Parameter
from gateway.http.pagination import Key, cursor_int, cursor_text, cursor_uuid, page_response, parse_page, slice_page
from gateway.http.parsing import BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse, StreamedResponse, json_response
from gateway.ops.bodies import body_fields, number, one_of, plain_text, query_fields
from gateway.ops.explain import explain_incident
from gateway.ops.filters import audit_filters, command_filters, dead_filters, dead_selection, delivery_filters
from models.enums import Channel, CommandState, Lane, OpsRole
from models.notifications.delivery import DeliveryState
from models.operations.audit import list_audit
from models.operations.command_details import read_command
from models.operations.commands import search_commands
from models.operations.dead import discard_dead, list_dead, list_dead_groups
from models.operations.deliveries import list_deliveries, read_delivery, retry_delivery
from models.operations.holds import list_holds, place_hold, release_hold
from models.operations.keyset import Listing, Window
from models.operations.processes import list_processes
from models.operations.requeue import (
    DEFAULT_STOP_AFTER,
    preview_requeue,
    read_operation,
    require_limits,
    start_requeue,
    stop_operation,
)
from models.operations.series import MAX_MINUTES, SERIES, read_series
from models.refusals import FIELD_REQUIRED
from models.types import JSON
from tasks.commands.catalog import CATALOG
from tasks.commands.fields import integer, text, timestamp

PREFIX: Final = "/ops/api"
PAGE: Final = 100
MAX_GROUPS: Final = 1_000
DEAD_BODY_LIMIT_BYTES: Final = 1024 * 1024
"""The maximum size of a selection of dead commands: it may name thousands of ids."""

_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
_STREAM_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


# --- the state of the system ---------------------------------------------------------------------------------------


async def read_overview(context: RequestContext) -> HttpResponse:
    """Return the state of the whole system, also while the broker is away."""
    return json_response(200, await context.container.operations.overview())


async def list_queues(context: RequestContext) -> HttpResponse:
    """Return every queue, also while the broker is away."""
    return json_response(200, await context.container.operations.queues())


async def list_workers(context: RequestContext) -> HttpResponse:
    """Return the processes, those that started last first. One that ended is shown as gone for an hour."""
    found = await context.container.operations.read(list_processes)
    return _sliced(context, found, key_of=lambda process: (process["startedAt"], process["id"]))


async def read_numbers(context: RequestContext) -> HttpResponse:
    """Return numbers per minute, of up to 30 days. A minute for which nothing was recorded is null."""
    fields = query_fields(context)
    metrics = fields.optional("metric", plain_text)
    minutes = fields.optional("minutes", integer)
    fields.require_valid()
    names = [name.strip() for name in metrics.split(",")] if metrics else SERIES
    read = partial(read_series, metrics=names, minutes=60 if minutes is None else minutes)
    return json_response(200, await context.container.operations.read(read))


async def follow_operations(context: RequestContext) -> HttpResponse:
    """Stream the overview and the queues, at most every second. One poll serves all open streams."""

    async def recheck() -> None:
        deadline = asyncio.get_running_loop().time() + context.container.timeouts.acceptance_seconds
        await context.container.authenticator.authenticate(context.credential, deadline=deadline)

    stream = context.container.operations_stream.open(f"ops:{context.caller.token_id}", recheck)
    return StreamedResponse(200, headers=dict(_STREAM_HEADERS), media_type="text/event-stream", source=stream)


# --- commands ------------------------------------------------------------------------------------------------------


async def search_ledger(context: RequestContext) -> HttpResponse:
    """Return the commands that match all filters, newest first."""
    fields = query_fields(context)
    filters = command_filters(fields)
    fields.require_valid()
    return await _listed(context, lambda connection, window: search_commands(connection, filters, window))


async def show_command(context: RequestContext) -> HttpResponse:
    """Return a command with its timeline. Viewers see neither its payload nor the body of its outcome."""
    id_ = context.uuid("command")
    read = partial(read_command, command_id=id_, with_texts=context.caller.ops_role is not OpsRole.VIEWER)
    return json_response(200, await context.container.operations.read(read))


async def list_dead_letters(context: RequestContext) -> HttpResponse:
    """Return dead commands, newest first or, with ``group=1``, the groups of those with the same type and error."""
    fields = query_fields(context)
    grouped = fields.optional("group", one_of(_FLAGS))
    filters = dead_filters(fields)
    fields.require_valid()
    if grouped is not None and _FLAGS[grouped]:
        groups = await context.container.operations.read(partial(list_dead_groups, most=MAX_GROUPS))
        return _sliced(context, groups, key_of=lambda group: (group["lastAt"], group["fingerprint"]))
    return await _listed(
        context,
        lambda connection, window: list_dead(connection, window=window, **filters),
    )


async def requeue_dead(context: RequestContext) -> HttpResponse:
    """Start a requeue of dead commands and return 202 with it or, for a dry run, 200 with what it would do."""
    fields = await body_fields(context, "ids", "fingerprint", "all", "dryRun", "ratePerSecond", "stopAfter", "reason")
    selection = dead_selection(fields)
    rate = fields.optional("ratePerSecond", integer)
    given = fields.optional("stopAfter", integer)
    stop_after = DEFAULT_STOP_AFTER if given is None else given
    if fields.flag("dryRun"):
        fields.require_valid()
        require_limits(rate, stop_after)
        read = partial(preview_requeue, selection=selection)
        return json_response(200, await context.container.operations.read(read))
    reason = fields.reason()
    fields.require_valid()
    started = await context.container.operations.write(
        partial(
            start_requeue,
            selection=selection,
            reason=reason,
            by=context.caller.audit_name,
            rate_per_second=rate,
            stop_after=stop_after,
        )
    )
    return json_response(202, started)


async def discard_dead_letters(context: RequestContext) -> HttpResponse:
    """Discard dead commands for good, and return 200 with their number. Their callers read ``discarded``."""
    fields = await body_fields(context, "ids", "fingerprint", "all", "reason")
    selection, reason = dead_selection(fields), fields.reason()
    fields.require_valid()
    discard = partial(discard_dead, selection=selection, reason=reason, by=context.caller.audit_name)
    return json_response(200, await context.container.operations.write(discard))


async def read_requeue(context: RequestContext) -> HttpResponse:
    """Return a requeue and how far it has got."""
    read = partial(read_operation, operation_id=context.row_id("operation"))
    return json_response(200, await context.container.operations.read(read))


async def stop_requeue(context: RequestContext) -> HttpResponse:
    """Stop a requeue and return 200 with it. What it has requeued stays requeued."""
    fields = await body_fields(context, "reason")
    reason = fields.reason()
    fields.require_valid()
    stop = partial(
        stop_operation, operation_id=context.row_id("operation"), reason=reason, by=context.caller.audit_name
    )
    return json_response(200, await context.container.operations.write(stop))


# --- holds ---------------------------------------------------------------------------------------------------------


async def list_holds_in_force(context: RequestContext) -> HttpResponse:
    """Return the holds in force, newest first."""
    found = await context.container.operations.read(list_holds)
    return _sliced(context, found, key_of=lambda hold: (int(hold["id"]),), key_parsers=(cursor_int,))


async def hold_target(context: RequestContext) -> HttpResponse:
    """Hold a queue, a command type, a channel or an organization, and return 201 with the hold."""
    fields = await body_fields(context, "scope", "target", "releaseAt", "reason")
    reason = fields.reason()
    scope, target = fields.required("scope", text), fields.required("target", text)
    release_at = fields.optional("releaseAt", timestamp)
    fields.require_valid()
    placed = await context.container.operations.write(
        partial(
            place_hold,
            scope=scope,
            target=target,
            reason=reason,
            by=context.caller.audit_name,
            known_types=frozenset(CATALOG),
            release_at=release_at,
        )
    )
    return json_response(201, placed)


async def release_target(context: RequestContext) -> HttpResponse:
    """Release a hold and return 204. What waited goes on in its order."""
    fields = await body_fields(context, "reason")
    reason = fields.reason()
    fields.require_valid()
    release = partial(release_hold, hold_id=context.row_id("hold"), reason=reason, by=context.caller.audit_name)
    await context.container.operations.write(release)
    return HttpResponse(204)


# --- deliveries and decisions --------------------------------------------------------------------------------------


async def list_all_deliveries(context: RequestContext) -> HttpResponse:
    """Return the deliveries that match all filters, newest first."""
    fields = query_fields(context)
    filters = delivery_filters(fields)
    fields.require_valid()
    return await _listed(
        context,
        lambda connection, window: list_deliveries(connection, filters, window),
        key_parser=lambda value: str(cursor_uuid(value)),
    )


async def show_delivery(context: RequestContext) -> HttpResponse:
    """Return a delivery with its attempts."""
    read = partial(read_delivery, delivery_id=context.uuid("delivery"))
    return json_response(200, await context.container.operations.read(read))


async def retry_one_delivery(context: RequestContext) -> HttpResponse:
    """Make a delivery due now, whatever its state, and return 202 with it."""
    fields = await body_fields(context, "reason")
    reason = fields.reason()
    fields.require_valid()
    retry = partial(retry_delivery, delivery_id=context.uuid("delivery"), reason=reason, by=context.caller.audit_name)
    return json_response(202, await context.container.operations.write(retry))


async def explain_person(context: RequestContext) -> HttpResponse:
    """Return the decisions about a person and an incident, newest first: why they were, or were not, notified."""
    fields = query_fields(context)
    organization = fields.required("organization", plain_text)
    incident = fields.optional("incident", number)
    user = fields.required("user", plain_text)
    if incident is None:
        fields.errors.setdefault("incident", [FIELD_REQUIRED])
    if fields.errors and context.preference.is_strict:
        fields.errors |= context.errors_of_unknown(())
    fields.require_valid()
    read = partial(explain_incident, organization=organization, identifier=incident or 0, user=user)
    return json_response(200, await context.container.operations.read(read))


async def read_audit(context: RequestContext) -> HttpResponse:
    """Return what operators have changed and all filters match, newest first."""
    fields = query_fields(context)
    filters = audit_filters(fields)
    fields.require_valid()
    return await _listed(context, partial(list_audit, filters=filters))


# --- lists ---------------------------------------------------------------------------------------------------------


async def _listed(
    context: RequestContext,
    read: Callable[[Connection, Window], Listing[Any]],
    *,
    key_parser: Callable[[JSON], Any] = cursor_int,
) -> HttpResponse:
    page = parse_page(context.query, default=PAGE, key_parsers=(key_parser,))
    cursor = page.cursor
    # The page before the first one is empty.
    if cursor.key is None and cursor.backwards:
        found: Listing[Any] = Listing()
    else:
        window = Window(page.limit, cursor.key, cursor.backwards, cursor.includes)
        found = await context.container.operations.read(lambda connection: read(connection, window))
    return page_response(
        page,
        found.rows,
        key_of=lambda entry: entry.key,
        serialize=lambda entry: entry.json,
        url=context.url,
        query=context.query,
        continues_at=found.stopped_at,
    )


def _sliced(
    context: RequestContext,
    rows: Sequence[Any],
    *,
    key_of: Callable[[Any], Key],
    key_parsers: Sequence[Callable[[JSON], Any]] = (cursor_text, cursor_text),
) -> HttpResponse:
    page = parse_page(context.query, default=PAGE, key_parsers=key_parsers)
    ordered = sorted(rows, key=key_of, reverse=True)
    return page_response(
        page,
        slice_page(ordered, page, key_of=key_of, descending=True),
        key_of=key_of,
        serialize=lambda row: row,
        url=context.url,
        query=context.query,
    )


# --- declarations --------------------------------------------------------------------------------------------------


def _enum(values: Any) -> dict[str, Any]:
    return {"type": "string", "enum": [str(value) for value in values]}


# An empty filter, as forms send it, counts as absent.
_TIME: Final = {"anyOf": [{"type": "string", "format": "date-time"}, {"const": ""}]}
_NUMBER: Final = {"type": "integer", "minimum": 1, "maximum": 2**31}
_METRIC: Final = "|".join(SERIES)
_METRICS: Final = {"type": "string", "pattern": f"^(({_METRIC})(,({_METRIC}))*)?$"}
_NAME: Final = {"type": "string", "minLength": 1}
_ORGANIZATION: Final = Parameter("organization", "Slug of an organization.")
_INCIDENT: Final = Parameter("incident", "Number of one of its incidents.", _NUMBER)
_USER: Final = Parameter("user", "A username or the id of a user.")
_TYPE: Final = Parameter("type", "A command type.")


def _endpoint(path: str, operations: Mapping[str, Operation], *, body_limit: int = BODY_LIMIT_BYTES) -> Endpoint:
    return Endpoint(
        f"{PREFIX}/{path}",
        operations,
        tag="operations",
        ops_role=OpsRole.VIEWER,
        has_sessions=True,
        body_limit=body_limit,
    )


def _read(
    handle: Handler,
    summary: str,
    body: str,
    *parameters: Parameter,
    is_list: bool = False,
    refusals: tuple[int, ...] = (),
) -> Operation:
    return Operation(handle, summary, {200: body}, parameters=parameters, is_list=is_list, refusals=refusals)


def _write(
    handle: Handler,
    summary: str,
    responses: Mapping[int, str | None],
    *,
    body: str = "Reason",
    refusals: tuple[int, ...] = (),
) -> Operation:
    return Operation(handle, summary, responses, body=body, refusals=refusals, ops_role=OpsRole.OPERATOR)


ENDPOINTS: Final = (
    _endpoint("overview/", {"GET": _read(read_overview, "Read the state of the system", "Overview")}),
    _endpoint("queues/", {"GET": _read(list_queues, "List the queues", "QueueList")}),
    _endpoint("workers/", {"GET": _read(list_workers, "List the processes", "Process", is_list=True)}),
    _endpoint(
        "commands/",
        {
            "GET": _read(
                search_ledger,
                "Search the ledger",
                "CommandRow",
                _ORGANIZATION,
                _INCIDENT,
                _USER,
                _TYPE,
                Parameter("state", "A state.", _enum(CommandState)),
                Parameter("queue", "A queue.", _enum(Lane)),
                Parameter("from", "Accepted then or later.", _TIME),
                Parameter("to", "Accepted then or earlier.", _TIME),
                Parameter("query", "A command id, an idempotency key, an event id, or a trace id."),
                is_list=True,
            )
        },
    ),
    _endpoint("commands/{command}/", {"GET": _read(show_command, "Read a command's timeline", "CommandDetail")}),
    _endpoint(
        "dead/",
        {
            "GET": _read(
                list_dead_letters,
                "List dead commands",
                "DeadEntry",
                Parameter("group", "1 or true: by type and error.", _enum(_FLAGS)),
                _ORGANIZATION,
                _TYPE,
                Parameter("fingerprint", "Those of a group."),
                is_list=True,
            )
        },
    ),
    _endpoint(
        "dead/requeue/",
        {
            "POST": _write(
                requeue_dead,
                "Requeue dead commands",
                {202: "BulkOperation", 200: "RequeuePreview"},
                body="RequeueDead",
            )
        },
        body_limit=DEAD_BODY_LIMIT_BYTES,
    ),
    _endpoint(
        "dead/discard/",
        {"POST": _write(discard_dead_letters, "Discard dead commands", {200: "Discarded"}, body="DiscardDead")},
        body_limit=DEAD_BODY_LIMIT_BYTES,
    ),
    _endpoint(
        "operations/{operation}/",
        {
            "GET": _read(read_requeue, "Read a requeue", "BulkOperation"),
            "DELETE": _write(stop_requeue, "Stop a requeue", {200: "BulkOperation"}),
        },
    ),
    _endpoint(
        "holds/",
        {
            "GET": _read(list_holds_in_force, "List the holds in force", "Hold", is_list=True),
            "POST": _write(hold_target, "Place a hold", {201: "Hold"}, body="PlaceHold", refusals=(409,)),
        },
    ),
    _endpoint("holds/{hold}/", {"DELETE": _write(release_target, "Release a hold", {204: None})}),
    _endpoint(
        "deliveries/",
        {
            "GET": _read(
                list_all_deliveries,
                "List deliveries",
                "Delivery",
                _ORGANIZATION,
                _INCIDENT,
                _USER,
                Parameter("channel", "A channel.", _enum(Channel)),
                Parameter("state", "A state.", _enum(DeliveryState)),
                is_list=True,
            )
        },
    ),
    _endpoint("deliveries/{delivery}/", {"GET": _read(show_delivery, "Read a delivery", "Delivery")}),
    _endpoint(
        "deliveries/{delivery}/retry/",
        {"POST": _write(retry_one_delivery, "Retry a delivery", {202: "Delivery"}, refusals=(409,))},
    ),
    _endpoint(
        "explain/",
        {
            "GET": _read(
                explain_person,
                "Explain why a person was, or was not, notified",
                "DecisionList",
                Parameter("organization", "Slug of an organization.", _NAME, is_required=True),
                Parameter("incident", "Number of one of its incidents.", _NUMBER, is_required=True),
                Parameter("user", "A username or the id of a user.", _NAME, is_required=True),
                refusals=(404,),
            )
        },
    ),
    _endpoint(
        "series/",
        {
            "GET": _read(
                read_numbers,
                "Read numbers per minute",
                "TimeSeries",
                Parameter("metric", "Names, separated by commas; by default all.", _METRICS),
                Parameter("minutes", "How many.", {"type": "integer", "minimum": 1, "maximum": MAX_MINUTES}),
            )
        },
    ),
    _endpoint(
        "audit/",
        {
            "GET": _read(
                read_audit,
                "List what operators have changed",
                "AuditEntry",
                Parameter("by", "Who did it."),
                Parameter("action", "An action, such as hold.placed, or its noun, such as hold."),
                Parameter("target", "A part of the target."),
                is_list=True,
            )
        },
    ),
    _endpoint(
        "stream/",
        {
            "GET": Operation(
                follow_operations,
                "Follow the overview and the queues",
                {200: "OperationsEvents"},
                refusals=(429,),
                is_stream=True,
            )
        },
    ),
)
