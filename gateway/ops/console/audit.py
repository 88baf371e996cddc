"""The page with what operators have changed: who, what, why, and the state before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.engine import Connection

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.console.tables import read_list
from gateway.ops.filters import AUDIT_FILTERS, audit_filters
from gateway.pages.request import PageRequest
from models.operations.audit import AuditFilters, list_audit
from models.operations.keyset import Listing, Window
from models.serializers.operations import AuditEntryJson

PATH: Final = "/ops/audit/"
NOUNS: Final = ("hold", "dead", "operation", "delivery", "secret")
"""What audited actions are about."""


async def show_audit(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the entries that all filters match, newest first."""
    found = await read_list(request, AUDIT_FILTERS, audit_filters, _read)
    return console_page(request, operator, "audit.html", found.status, found=found, nouns=NOUNS, lines=changed_lines)


def changed_lines(state: Any) -> list[str]:
    """Return the state before or after a change, one line for each of its facts.

    >>> changed_lines({"state": "dead", "attempts": 5})
    ['state: dead', 'attempts: 5']
    """
    if state is None:
        return []
    facts = state.items() if isinstance(state, dict) else [("", state)]
    return [f"{name}: {_shown(value)}" if name else _shown(value) for name, value in facts]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(connection: Connection, filters: AuditFilters, window: Window) -> Listing[AuditEntryJson]:
    return list_audit(connection, window, filters)


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {PATH: {"GET": show_audit}}
