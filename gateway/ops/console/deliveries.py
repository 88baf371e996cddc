"""The pages about deliveries: the list, and a delivery with its attempts, which can be retried."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from gateway.http.pagination import cursor_uuid
from gateway.http.responses import HttpResponse
from gateway.ops.console.forms import EMPTY, FormState, form_fields, refused_form
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.console.tables import parse_uuid, read_list
from gateway.ops.filters import DELIVERY_FILTERS, delivery_filters
from gateway.pages.request import PageRequest
from models.enums import Channel
from models.notifications.delivery import DeliveryState
from models.operations.deliveries import list_deliveries, read_delivery, retry_delivery
from models.refusals import Conflict, InvalidFields

PATH: Final = "/ops/deliveries/"
DELIVERY_PATH: Final = "/ops/deliveries/{delivery}/"

CHANNELS: Final = tuple(channel.value for channel in Channel if channel is not Channel.INBOX)
STATES: Final = tuple(state.value for state in DeliveryState)
RETRIED: Final = "The delivery is due now. Access is checked again before it is sent."


async def show_deliveries(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the deliveries that all filters match, newest first."""
    found = await read_list(
        request,
        DELIVERY_FILTERS,
        delivery_filters,
        list_deliveries,
        key_parser=lambda value: str(cursor_uuid(value)),
    )
    return console_page(
        request, operator, "deliveries.html", found.status, found=found, channels=CHANNELS, states=STATES
    )


async def show_delivery(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show a delivery with its attempts."""
    return await _show(request, operator, EMPTY, RETRIED if request.query.get("done") == "retried" else None)


async def retry(request: PageRequest, operator: Operator) -> HttpResponse:
    """Make a delivery due now."""
    fields = form_fields(request)
    try:
        reason = fields.reason()
        fields.require_valid()
        id_ = parse_uuid(request.parameters["delivery"])
        await request.container.operations.write(
            partial(retry_delivery, delivery_id=id_, reason=reason, by=operator.name)
        )
    except (InvalidFields, Conflict) as refusal:
        return await _show(request, operator, refused_form(request, refusal))
    return request.site.redirect(f"{request.path}?done=retried")


async def _show(request: PageRequest, operator: Operator, form: FormState, notice: str | None = None) -> HttpResponse:
    id_ = parse_uuid(request.parameters["delivery"])
    delivery = await request.container.operations.read(partial(read_delivery, delivery_id=id_))
    return console_page(request, operator, "delivery.html", form.status, delivery=delivery, form=form, notice=notice)


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {
    PATH: {"GET": show_deliveries},
    DELIVERY_PATH: {"GET": show_delivery, "POST": retry},
}
