"""The filters and selections of operators' requests, for ``/ops/api/`` and the pages alike."""

from __future__ import annotations

from typing import Final, TypedDict

from gateway.ops.bodies import Fields, command_ids, moment, number, one_of, plain_text
from models.enums import Channel, CommandState, Lane
from models.notifications.delivery import DeliveryState
from models.operations.audit import AuditFilters
from models.operations.commands import CommandFilters
from models.operations.dead import DeadSelection
from models.operations.deliveries import DeliveryFilters
from models.refusals import InvalidFields
from tasks.commands.fields import text

COMMAND_FILTERS: Final = ("query", "organization", "incident", "user", "type", "state", "queue", "from", "to")
DEAD_FILTERS: Final = ("organization", "type", "fingerprint")
DELIVERY_FILTERS: Final = ("organization", "incident", "user", "channel", "state")
AUDIT_FILTERS: Final = ("by", "action", "target")
"""The names of the query parameters that filter each list."""


class DeadFilters(TypedDict):
    """What dead letters to list. All filters that are given must match."""

    organization: str | None
    type_: str | None
    fingerprint: str | None


def command_filters(fields: Fields) -> CommandFilters:
    """Return the filters of a search in the ledger. Their errors are in ``fields``."""
    state = fields.optional("state", one_of(CommandState))
    return CommandFilters(
        organization=fields.optional("organization", plain_text),
        incident=fields.optional("incident", number),
        user=fields.optional("user", plain_text),
        type=fields.optional("type", plain_text),
        state=None if state is None else CommandState(state),
        queue=fields.optional("queue", one_of(Lane)),
        accepted_from=fields.optional("from", moment),
        accepted_to=fields.optional("to", moment),
        query=fields.optional("query", plain_text),
    )


def dead_filters(fields: Fields) -> DeadFilters:
    """Return the filters of a list of dead letters. Their errors are in ``fields``."""
    return {
        "organization": fields.optional("organization", plain_text),
        "type_": fields.optional("type", plain_text),
        "fingerprint": fields.optional("fingerprint", plain_text),
    }


def delivery_filters(fields: Fields) -> DeliveryFilters:
    """Return the filters of a list of deliveries. Their errors are in ``fields``."""
    state = fields.optional("state", one_of(DeliveryState))
    return DeliveryFilters(
        organization=fields.optional("organization", plain_text),
        incident=fields.optional("incident", number),
        user=fields.optional("user", plain_text),
        channel=fields.optional("channel", one_of(Channel)),
        state=None if state is None else DeliveryState(state),
    )


def audit_filters(fields: Fields) -> AuditFilters:
    """Return the filters of the audit log. Their errors are in ``fields``."""
    return AuditFilters(
        by=fields.optional("by", plain_text),
        action=fields.optional("action", plain_text),
        target=fields.optional("target", plain_text),
    )


def dead_selection(fields: Fields) -> DeadSelection:
    """Return the dead commands that a change is about. Its errors are in ``fields``."""
    selection = DeadSelection(
        ids=fields.optional("ids", command_ids),
        fingerprint=fields.optional("fingerprint", text),
        all=fields.flag("all"),
    )
    if not {"ids", "fingerprint", "all"} & fields.errors.keys():
        try:
            selection.require_valid()
        except InvalidFields as refusal:
            fields.errors |= refusal.body
    return selection
