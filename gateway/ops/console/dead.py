"""The pages about dead letters: the list, its groups, requeuing and discarding, and the progress of a requeue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import urlencode

from sqlalchemy.engine import Connection

from gateway.http.responses import HttpResponse
from gateway.ops.bodies import Fields
from gateway.ops.console.forms import EMPTY, FormState, form_fields, refused_form, require_may_change
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.console.tables import read_list
from gateway.ops.filters import DEAD_FILTERS, DeadFilters, dead_filters, dead_selection
from gateway.pages.request import PageRequest
from models.operations.dead import DeadSelection, discard_dead, list_dead, list_dead_groups
from models.operations.keyset import Listing, Window
from models.operations.requeue import (
    DEFAULT_STOP_AFTER,
    list_operations,
    preview_requeue,
    read_operation,
    start_requeue,
    stop_operation,
)
from models.refusals import InvalidFields, MalformedRequest, NotFound
from models.serializers.operations import BulkState, DeadCommandJson
from tasks.commands.fields import identifier, integer

PATH: Final = "/ops/dead/"
REQUEUE_PATH: Final = "/ops/dead/requeue/"
DISCARD_PATH: Final = "/ops/dead/discard/"
OPERATION_PATH: Final = "/ops/operations/{operation}/"

GROUPS_SHOWN: Final = 100
OPERATIONS_SHOWN: Final = 5
NOTHING_SELECTED: Final = "Nothing is selected. Choose dead letters, a group or all of them."
CONFIRM: Final = "Tick this box: what is discarded stays discarded."


# --- the list ------------------------------------------------------------------------------------------------------


async def show_dead(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the groups of dead letters with the same error, and the latest requeues; with a filter, dead letters."""
    discarded = identifier(request.query.get("discarded", ""))
    notice = None if discarded is None else f"{discarded} dead letters are discarded."
    if request.query.get("list") or any(request.query.get(name) for name in DEAD_FILTERS):
        found = await read_list(request, (*DEAD_FILTERS, "list"), dead_filters, _read)
        return console_page(request, operator, "dead_list.html", found.status, found=found, notice=notice)
    operations = request.container.operations
    return console_page(
        request,
        operator,
        "dead.html",
        groups=await operations.read(partial(list_dead_groups, most=GROUPS_SHOWN)),
        operations=await operations.read(partial(list_operations, most=OPERATIONS_SHOWN)),
        notice=notice,
        most=GROUPS_SHOWN,
    )


def _read(connection: Connection, filters: DeadFilters, window: Window) -> Listing[DeadCommandJson]:
    return list_dead(connection, window=window, **filters)


# --- requeuing and discarding --------------------------------------------------------------------------------------


async def ask_to_requeue(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show what a requeue of the selected dead letters would do, and the form that starts it."""
    return await _ask(request, operator, "requeue.html", _selection(_query(request)), EMPTY)


async def requeue(request: PageRequest, operator: Operator) -> HttpResponse:
    """Start a requeue, and lead to the page that shows its progress."""
    fields = _form(request)
    selection = _selection(fields)
    try:
        rate = fields.optional("ratePerSecond", integer)
        stop_after = fields.optional("stopAfter", integer)
        reason = fields.reason()
        fields.require_valid()
        started = await request.container.operations.write(
            partial(
                start_requeue,
                selection=selection or DeadSelection(),
                reason=reason,
                by=operator.name,
                rate_per_second=rate,
                stop_after=DEFAULT_STOP_AFTER if stop_after is None else stop_after,
            )
        )
    except InvalidFields as refusal:
        return await _ask(request, operator, "requeue.html", selection, refused_form(request, refusal))
    return request.site.redirect(OPERATION_PATH.format(operation=started["id"]))


async def ask_to_discard(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show what would be discarded, and the form that confirms it."""
    return await _ask(request, operator, "discard.html", _selection(_query(request)), EMPTY)


async def discard(request: PageRequest, operator: Operator) -> HttpResponse:
    """Discard the selected dead letters for good."""
    fields = _form(request)
    selection = _selection(fields)
    try:
        reason = fields.reason()
        if not request.field("confirmed"):
            fields.errors["confirmed"] = [CONFIRM]
        fields.require_valid()
        done = await request.container.operations.write(
            partial(discard_dead, selection=selection or DeadSelection(), reason=reason, by=operator.name)
        )
    except InvalidFields as refusal:
        return await _ask(request, operator, "discard.html", selection, refused_form(request, refusal))
    return request.site.redirect(f"{PATH}?{urlencode({'discarded': done['discarded']})}")


async def _ask(
    request: PageRequest, operator: Operator, template: str, selection: DeadSelection | None, form: FormState
) -> HttpResponse:
    require_may_change(operator)
    if selection is None:
        raise MalformedRequest(NOTHING_SELECTED)
    operations = request.container.operations
    preview = await operations.read(partial(preview_requeue, selection=selection))
    same = partial(list_dead, fingerprint=selection.fingerprint, window=Window(limit=1))
    return console_page(
        request,
        operator,
        template,
        form.status,
        preview=preview,
        selection=_hidden_fields(selection),
        subject=_describe(selection),
        newest=(await operations.read(same)).entities if selection.fingerprint else [],
        form=form,
        stop_after=DEFAULT_STOP_AFTER,
    )


def _selection(fields: Fields) -> DeadSelection | None:
    """Return the selection, or ``None`` if it is not valid: never another one than was meant."""
    selection = dead_selection(fields)
    return None if fields.errors else selection


def _query(request: PageRequest) -> Fields:
    return _selection_fields(request.query.getlist("ids"), dict(request.query))


def _form(request: PageRequest) -> Fields:
    return _selection_fields(request.form.get("ids", []), {name: request.field(name) for name in request.form})


def _selection_fields(ids: list[str], texts: Mapping[str, str]) -> Fields:
    """Return the fields of a selection as in JSON: in forms, ids are repeated and a flag is a text."""
    values = {name: text for name, text in texts.items() if text.strip() and name not in ("ids", "all")}
    return Fields(values | ({"ids": list(ids)} if ids else {}) | ({"all": True} if texts.get("all") == "1" else {}))


def _hidden_fields(selection: DeadSelection) -> list[tuple[str, str]]:
    """Return the names and values of the form fields that repeat a selection."""
    if selection.ids is not None:
        return [("ids", str(id_)) for id_ in selection.ids]
    return [("all", "1")] if selection.all else [("fingerprint", selection.fingerprint or "")]


def _describe(selection: DeadSelection) -> str:
    if selection.ids is not None:
        return "the selected dead letters"
    return "all dead letters" if selection.all else "the dead letters with the same error"


# --- the progress of a requeue -------------------------------------------------------------------------------------


async def show_operation(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show how far a requeue has got."""
    return await _show_operation(request, operator, EMPTY)


async def stop(request: PageRequest, operator: Operator) -> HttpResponse:
    """Stop a requeue. What it has requeued stays requeued."""
    fields = form_fields(request)
    try:
        reason = fields.reason()
        fields.require_valid()
        change = partial(stop_operation, operation_id=_operation_id(request), reason=reason, by=operator.name)
        await request.container.operations.write(change)
    except InvalidFields as refusal:
        return await _show_operation(request, operator, refused_form(request, refusal))
    return request.site.redirect(request.path)


async def _show_operation(request: PageRequest, operator: Operator, form: FormState) -> HttpResponse:
    read = partial(read_operation, operation_id=_operation_id(request))
    operation = await request.container.operations.read(read)
    is_running = operation["state"] is BulkState.RUNNING
    return console_page(
        request, operator, "operation.html", form.status, operation=operation, is_running=is_running, form=form
    )


def _operation_id(request: PageRequest) -> int:
    id_ = identifier(request.parameters["operation"])
    if not id_:
        raise NotFound
    return id_


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {
    PATH: {"GET": show_dead},
    REQUEUE_PATH: {"GET": ask_to_requeue, "POST": requeue},
    DISCARD_PATH: {"GET": ask_to_discard, "POST": discard},
    OPERATION_PATH: {"GET": show_operation, "POST": stop},
}
