"""Deliveries for operators: listing them with their attempts, and retrying them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import Select, and_, func, select, tuple_, update
from sqlalchemy.engine import Connection

from models.directory.tables import organizations, users
from models.enums import Channel
from models.incidents.incident import incidents
from models.messaging.hold import HoldScope, holds
from models.notifications.delivery import DeliveryState, deliveries, delivery_attempts
from models.operations.audit import record_audit, require_reason
from models.operations.commands import find_organization, find_user
from models.operations.keyset import Entry, Listing, Window
from models.refusals import FIELD_REQUIRED, Conflict, InvalidFields, NotFound
from models.serializers.commands import HeldByJson
from models.serializers.operations import DeliveryAttemptJson, DeliveryJson
from models.timestamps import iso, iso_or_none
from models.types import MAX_ID

ATTEMPTS_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class DeliveryFilters:
    """What to list. All filters that are given must match; ``incident`` is a number and needs ``organization``."""

    organization: str | None = None
    incident: int | None = None
    user: str | None = None
    channel: str | None = None
    state: DeliveryState | None = None


def list_deliveries(
    connection: Connection,
    filters: DeliveryFilters = DeliveryFilters(),
    window: Window = Window(),  # noqa: B008 - immutable
) -> Listing[DeliveryJson]:
    """Return deliveries, newest first. Their key is ``(id,)``, as text.

    :raises InvalidFields: ``incident`` is given without ``organization``.
    """
    query = _filtered(connection, filters)
    if query is None:
        return Listing()
    order = deliveries.c.id
    if window.key is not None:
        query = query.where(order.op(window.operator)(UUID(str(window.key[0]))))
    query = query.order_by(order.asc() if window.backwards else order.desc()).limit(window.limit)
    rows = connection.execute(query).all()
    return Listing([Entry((str(row.id),), entity) for row, entity in zip(rows, _json(connection, rows), strict=True)])


def read_delivery(connection: Connection, delivery_id: UUID) -> DeliveryJson:
    """Return a delivery with its attempts.

    :raises NotFound: there is none with this id.
    """
    rows = connection.execute(_select().where(deliveries.c.id == delivery_id)).all()
    if not rows:
        raise NotFound
    return _json(connection, rows)[0]


def retry_delivery(connection: Connection, delivery_id: UUID, *, reason: str | None, by: str) -> DeliveryJson:
    """Make a delivery due now, whatever its state. Access is checked again before it is sent.

    Its attempts stay counted: one that has used them all up has one more.

    :raises InvalidFields: the reason is missing.
    :raises NotFound: there is no such delivery.
    :raises Conflict: it is being sent at this moment.
    """
    text = require_reason(reason)
    query = select(deliveries).where(deliveries.c.id == delivery_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    if row.claimed_by is not None:
        raise Conflict("The delivery is being sent at this moment.")
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(state=DeliveryState.PENDING.value, due_at=func.clock_timestamp(), finished_at=None, detail=None)
    )
    record_audit(
        connection,
        by=by,
        action="delivery.retried",
        target=f"delivery {delivery_id}",
        reason=text,
        before={"state": row.state, "attempts": row.attempts, "dueAt": iso_or_none(row.due_at)},
        after={"state": DeliveryState.PENDING.value},
    )
    return read_delivery(connection, delivery_id)


def _select() -> Select[Any]:
    return (
        select(
            deliveries,
            organizations.c.slug,
            incidents.c.identifier,
            users.c.username,
            users.c.name.label("user_name"),
        )
        .join(organizations, organizations.c.id == deliveries.c.organization_id)
        .outerjoin(incidents, incidents.c.id == deliveries.c.incident_id)
        .outerjoin(users, users.c.id == deliveries.c.user_id)
    )


def _filtered(connection: Connection, filters: DeliveryFilters) -> Select[Any] | None:
    query = _select()
    if filters.incident is not None and filters.organization is None:
        raise InvalidFields({"organization": [FIELD_REQUIRED]})
    if filters.organization is not None:
        organization_id = find_organization(connection, filters.organization)
        if organization_id is None:
            return None
        query = query.where(deliveries.c.organization_id == organization_id)
    if filters.incident is not None:
        if not 0 < filters.incident <= MAX_ID:
            return None
        # The index is by incident id, which a join would not use first.
        incident_id = connection.execute(
            select(incidents.c.id).where(
                incidents.c.organization_id == organization_id, incidents.c.identifier == filters.incident
            )
        ).scalar()
        if incident_id is None:
            return None
        query = query.where(deliveries.c.incident_id == incident_id)
    if filters.user is not None:
        user_id = find_user(connection, filters.user)
        if user_id is None:
            return None
        query = query.where(deliveries.c.user_id == user_id)
    if filters.channel is not None:
        query = query.where(deliveries.c.channel == filters.channel)
    if filters.state is not None:
        query = query.where(deliveries.c.state == filters.state.value)
    return query


def _json(connection: Connection, rows: Sequence[Any]) -> list[DeliveryJson]:
    attempts = _attempts(connection, [row.id for row in rows])
    held = _held_channels(connection)
    return [_delivery_json(row, attempts[row.id], held) for row in rows]


def _attempts(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, list[DeliveryAttemptJson]]:
    found: dict[UUID, list[DeliveryAttemptJson]] = defaultdict(list)
    query = (
        select(delivery_attempts)
        .where(tuple_(delivery_attempts.c.delivery_id).in_([(id_,) for id_ in ids]))
        .order_by(delivery_attempts.c.delivery_id, delivery_attempts.c.number)
    )
    for row in connection.execute(query) if ids else ():
        found[row.delivery_id].append(
            {"at": iso(row.at), "status": row.status, "durationMs": row.duration_ms, "error": row.error}
        )
    return found


def _held_channels(connection: Connection) -> dict[str, HeldByJson]:
    query = select(holds).where(
        and_(
            holds.c.released_at.is_(None),
            func.coalesce(holds.c.release_at > func.now(), True),
            holds.c.scope.in_([HoldScope.CHANNEL.value, HoldScope.QUEUE.value]),
        )
    )
    held: dict[str, HeldByJson] = {}
    for hold in connection.execute(query):
        named: HeldByJson = {
            "hold": str(hold.id),
            "scope": HoldScope(hold.scope),
            "target": hold.target,
            "reason": hold.reason,
            "since": iso(hold.since),
            "releaseAt": iso_or_none(hold.release_at),
        }
        if hold.scope == HoldScope.CHANNEL:
            held[hold.target] = named
        elif hold.target == "deliveries":
            held = {channel.value: named for channel in Channel} | held
    return held


def _delivery_json(row: Any, attempts: list[DeliveryAttemptJson], held: dict[str, HeldByJson]) -> DeliveryJson:
    is_pending = row.state == DeliveryState.PENDING
    return {
        "id": str(row.id),
        "channel": Channel(row.channel),
        "organization": row.slug,
        "incident": None if row.identifier is None else str(row.identifier),
        "user": None
        if row.user_id is None
        else {"id": str(row.user_id), "username": row.username, "name": row.user_name},
        "target": _target(row),
        "event": {"id": None if row.event_id is None else str(row.event_id), "type": row.event_type},
        "state": DeliveryState(row.state),
        "attempts": attempts[-ATTEMPTS_SHOWN:],
        "dueAt": iso(row.due_at) if is_pending else None,
        "heldBy": held.get(row.channel) if is_pending else None,
        "detail": row.detail,
    }


def _target(row: Any) -> str | None:
    """Return the recipient without secrets: of a URL, which may contain some, only the scheme and the host."""
    if row.target is not None:
        return hide_secrets(row.target)
    if row.destination_id is not None:
        return f"{row.channel} {row.destination_id}"
    return None if row.username is None else str(row.username)


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def hide_secrets(target: str) -> str:
    """Return a recipient without what may be secret.

    >>> hide_secrets("https://user:password@example.org/hooks/T0/B0/secret?key=1")
    'https://example.org/…'
    >>> hide_secrets("ana@example.org")
    'ana@example.org'
    """
    if not _SCHEME.match(target):
        return target
    try:
        parts = urlsplit(target)
        host = parts.hostname or "…"
    except ValueError:
        return "…"
    # In the URLs of chat services, the host may be a token.
    return f"{parts.scheme}://{host if parts.scheme in ('http', 'https') else '…'}/…"
