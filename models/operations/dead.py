"""Dead letters: listing and grouping them, and discarding them. Requeues are in :mod:`models.operations.requeue`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.messaging.command_ledger import IS_DEAD
from models.operations.audit import record_audit, require_reason
from models.operations.commands import CommandFilters, command_row_json, search_rows
from models.operations.keyset import Entry, Listing, Window
from models.refusals import InvalidFields
from models.serializers.operations import DeadCommandJson, DeadGroupJson, DiscardedJson
from models.timestamps import iso

MAX_IDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class DeadSelection:
    """Which dead commands an operation is about: exactly one of ``ids``, ``fingerprint`` and ``all``."""

    ids: tuple[UUID, ...] | None = None
    fingerprint: str | None = None
    all: bool = False

    def require_valid(self) -> DeadSelection:
        """Return the selection.

        :raises InvalidFields: not exactly one field is given, or there are too many ids.
        """
        if (self.ids is not None) + (self.fingerprint is not None) + self.all != 1:
            raise InvalidFields({"ids": ["Give exactly one of ids, fingerprint and all."]})
        if self.ids is not None and len(self.ids) > MAX_IDS:
            raise InvalidFields({"ids": [f"Ensure this field has no more than {MAX_IDS} elements."]})
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the selection as it is stored and shown in the audit log."""
        if self.ids is not None:
            return {"ids": [str(id_) for id_ in self.ids]}
        return {"all": True} if self.all else {"fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> DeadSelection:
        """Return a stored selection."""
        ids = stored.get("ids")
        return cls(
            None if ids is None else tuple(UUID(id_) for id_ in ids),
            stored.get("fingerprint"),
            stored.get("all", False),
        )

    @property
    def condition(self) -> str:
        """The SQL condition for the selected dead commands ``c``, with :attr:`parameters`."""
        if self.ids is not None:
            return f"c.{IS_DEAD} AND c.id = ANY(%(ids)s::uuid[])"
        return f"c.{IS_DEAD}" + ("" if self.all else " AND c.fingerprint = %(fingerprint)s")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of :attr:`condition`."""
        return {"ids": list(self.ids or ()), "fingerprint": self.fingerprint}


def list_dead(
    connection: Connection,
    *,
    organization: str | None = None,
    type_: str | None = None,
    fingerprint: str | None = None,
    window: Window = Window(),  # noqa: B008 - immutable
) -> Listing[DeadCommandJson]:
    """Return dead commands, the last accepted first. Their key is ``(seq,)``."""
    filters = CommandFilters(organization=organization, type=type_, state=CommandState.DEAD, fingerprint=fingerprint)
    rows, stopped_at = search_rows(connection, filters, window)
    entries = [Entry((row.seq,), _dead_json(row)) for row in rows]
    return Listing(entries, None if stopped_at is None else (stopped_at,))


def _dead_json(row: Any) -> DeadCommandJson:
    return {
        **command_row_json(row, None),
        "diedAt": iso(row.finished_at),
        "fingerprint": row.fingerprint or "",
    }


# The newest of each group stands for it. The groups with the latest deaths come first.
_GROUPS: Final = f"""
SELECT g.fingerprint, g.commands, g.first_at, g.last_at, newest.id AS sample, newest.type, newest.error
FROM (
    SELECT c.fingerprint, count(*) AS commands, min(c.finished_at) AS first_at, max(c.finished_at) AS last_at
    FROM commands c WHERE c.{IS_DEAD} GROUP BY c.fingerprint
) AS g
CROSS JOIN LATERAL (
    SELECT c.id, c.type, c.error FROM commands c
    WHERE c.{IS_DEAD} AND c.fingerprint IS NOT DISTINCT FROM g.fingerprint ORDER BY c.seq DESC LIMIT 1
) AS newest
ORDER BY g.last_at DESC, g.fingerprint LIMIT %(most)s
"""  # noqa: S608 - our own condition


def list_dead_groups(connection: Connection, *, most: int = 100) -> list[DeadGroupJson]:
    """Return the groups of dead commands with the same fingerprint, those with the latest deaths first."""
    rows = connection.exec_driver_sql(_GROUPS, {"most": most})
    return [
        {
            "fingerprint": row.fingerprint or "",
            "type": row.type,
            "error": row.error or "",
            "count": row.commands,
            "firstAt": iso(row.first_at),
            "lastAt": iso(row.last_at),
            "sample": str(row.sample),
        }
        for row in rows
    ]


# A command that a requeue takes at the same time is left to whoever comes first.
_DISCARD: Final = """
UPDATE commands c SET state = '{state}', finished_at = clock_timestamp() WHERE {condition}
"""


def discard_dead(connection: Connection, selection: DeadSelection, *, reason: str | None, by: str) -> DiscardedJson:
    """Discard dead commands for good. Their callers read ``discarded``.

    :raises InvalidFields: the reason is missing, or the selection is not valid.
    """
    text = require_reason(reason)
    selection.require_valid()
    statement = _DISCARD.format(state=CommandState.DISCARDED.value, condition=selection.condition)
    discarded = connection.exec_driver_sql(statement, selection.parameters).rowcount
    if discarded:
        record_audit(
            connection,
            by=by,
            action="dead.discarded",
            target=describe_selection(selection),
            reason=text,
            before={"status": CommandState.DEAD.value, **selection.to_json()},
            after={"status": CommandState.DISCARDED.value, "discarded": discarded},
        )
    return {"discarded": discarded}


def describe_selection(selection: DeadSelection) -> str:
    """Return the target of an audit entry for a selection."""
    if selection.ids is not None:
        return f"command {selection.ids[0]}" if len(selection.ids) == 1 else f"{len(selection.ids)} dead commands"
    return "all dead commands" if selection.all else f"dead commands with fingerprint {selection.fingerprint}"
