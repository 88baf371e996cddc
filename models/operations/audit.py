"""The audit log: one entry for each thing that an operator, or tocsin for an operator, has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, insert, or_, select
from sqlalchemy.engine import Connection

from models.operations.keyset import Entry, Listing, Window
from models.operations.tables import audit_entries
from models.refusals import FIELD_REQUIRED, InvalidFields
from models.serializers.operations import AuditEntryJson, audit_entry_json

TOCSIN: Final = "tocsin"
"""Who did what happens by itself, such as a release at the time that the hold named."""

MAX_REASON_CHARACTERS: Final = 500


def require_reason(reason: str | None) -> str:
    """Return the reason for a change, without outer white space.

    :raises InvalidFields: if it is missing, empty, or longer than :data:`MAX_REASON_CHARACTERS`.
    """
    text = (reason or "").replace("\x00", "").strip()
    if not text:
        raise InvalidFields({"reason": [FIELD_REQUIRED]})
    if len(text) > MAX_REASON_CHARACTERS:
        raise InvalidFields({"reason": [f"Ensure this field has no more than {MAX_REASON_CHARACTERS} characters."]})
    return text


def record_audit(
    connection: Connection,
    *,
    by: str,
    action: str,
    target: str,
    reason: str,
    before: Any = None,
    after: Any = None,
) -> None:
    """Record a change in the audit log, in the transaction that makes it. ``before`` and ``after`` become JSON.

    ``action`` is ``noun.verb``, such as ``hold.placed``, and ``target`` names what was changed, such as ``queue bulk``.
    """
    values = {"who": by, "action": action, "target": target, "reason": reason, "before": before, "after": after}
    connection.execute(
        insert(audit_entries).values({name: value for name, value in values.items() if value is not None})
    )


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """What to list. All filters that are given must match.

    ``by`` is who did it, ``action`` a noun, such as ``hold``, or all of an action, and ``target`` a part of the target.
    """

    by: str | None = None
    action: str | None = None
    target: str | None = None


def list_audit(
    connection: Connection,
    window: Window = Window(),  # noqa: B008 - immutable
    filters: AuditFilters = AuditFilters(),
) -> Listing[AuditEntryJson]:
    """Return entries of the audit log, newest first. Their key is ``(id,)``."""
    table = audit_entries
    query = select(table).limit(window.limit)
    key = table.c.id
    query = query.order_by(key.asc() if window.backwards else key.desc())
    if window.key is not None:
        query = query.where(key.op(window.operator)(window.key[0]))
    if filters.by is not None:
        query = query.where(table.c.who == filters.by)
    if filters.action is not None:
        noun = func.split_part(table.c.action, ".", 1)
        query = query.where(or_(table.c.action == filters.action, noun == filters.action))
    if filters.target is not None:
        query = query.where(func.strpos(func.lower(table.c.target), filters.target.lower()) > 0)
    rows = connection.execute(query).mappings()
    return Listing([Entry((row["id"],), audit_entry_json(dict(row))) for row in rows])
