"""Placing, listing and releasing holds."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from models.directory.tables import organizations
from models.enums import Channel, Lane
from models.messaging.claims import FROM_FLOOR
from models.messaging.hold import HoldScope, holds
from models.notifications.delivery import IS_UNCLAIMED
from models.operations.audit import TOCSIN, record_audit, require_reason
from models.refusals import Conflict, InvalidFields, NotFound
from models.serializers.operations import HoldJson, hold_json
from models.timestamps import iso_or_none

NOT_IN_THE_FUTURE: Final = "Ensure this time is in the future."

HELD_CHANNELS: Final = tuple(channel for channel in Channel if channel is not Channel.INBOX)
"""The channels that can be held. Inbox items are written together with the plan, so nothing waits for them."""


def place_hold(
    connection: Connection,
    *,
    scope: str,
    target: str,
    reason: str | None,
    by: str,
    known_types: frozenset[str],
    release_at: datetime | None = None,
) -> HoldJson:
    """Hold a queue, a command type, a channel or an organization (by its slug), from the commit on.

    ``known_types`` are the types of the command catalog. ``release_at`` ends the hold by itself.

    :raises InvalidFields: the reason is missing, or there is no such scope or target, or ``release_at`` is past.
    :raises Conflict: the target is held already.
    """
    text = require_reason(reason)
    known_scope = _scope(scope)
    organization_id = _require_target(connection, known_scope, target, known_types)
    now = connection.execute(select(func.clock_timestamp())).scalar_one()
    if release_at is not None and release_at <= now:
        raise InvalidFields({"releaseAt": [NOT_IN_THE_FUTURE]})
    release_expired_holds(connection)
    values = {
        "scope": known_scope.value,
        "target": target,
        "organization_id": organization_id,
        "reason": text,
        "held_by": by,
        "release_at": release_at,
    }
    try:
        with connection.begin_nested():
            hold = connection.execute(insert(holds).values(values).returning(holds)).one()
    except IntegrityError:
        raise Conflict(f"The {known_scope} {target} is held already.") from None
    after = {"hold": str(hold.id), "releaseAt": iso_or_none(release_at)}
    record_audit(connection, by=by, action="hold.placed", target=_name(hold), reason=text, after=after)
    return hold_json(hold, waiting=_waiting(connection, hold))


def list_holds(connection: Connection) -> list[HoldJson]:
    """Return the holds in force, newest first, with the number of commands or deliveries that each one holds."""
    query = select(holds).where(_in_force()).order_by(holds.c.id.desc())
    return [hold_json(hold, waiting=_waiting(connection, hold)) for hold in connection.execute(query)]


def read_hold(connection: Connection, hold_id: int) -> HoldJson:
    """Return a hold in force.

    :raises NotFound: there is none with this id.
    """
    hold = connection.execute(select(holds).where(_in_force(), holds.c.id == hold_id)).one_or_none()
    if hold is None:
        raise NotFound
    return hold_json(hold, waiting=_waiting(connection, hold))


def release_hold(connection: Connection, hold_id: int, *, reason: str | None, by: str) -> None:
    """Release a hold. What it held goes on in its order, within about a second.

    :raises InvalidFields: the reason is missing.
    :raises NotFound: no hold in force has this id.
    """
    text = require_reason(reason)
    released = connection.execute(
        update(holds)
        .where(_in_force(), holds.c.id == hold_id)
        .values(released_at=func.clock_timestamp(), released_by=by)
        .returning(holds)
    ).one_or_none()
    if released is None:
        raise NotFound
    before = {"hold": str(released.id), "releaseAt": iso_or_none(released.release_at)}
    record_audit(connection, by=by, action="hold.released", target=_name(released), reason=text, before=before)


def release_expired_holds(connection: Connection) -> int:
    """Record the release of the holds whose time has come, and return their number. They are no longer in force."""
    released = connection.execute(
        update(holds)
        .where(holds.c.released_at.is_(None), holds.c.release_at <= func.clock_timestamp())
        .values(released_at=holds.c.release_at, released_by=TOCSIN)
        .returning(holds)
    ).all()
    for hold in released:
        before = {"hold": str(hold.id), "releaseAt": iso_or_none(hold.release_at)}
        reason = f"the time came that was set when it was placed: {hold.reason}"[:500]
        record_audit(connection, by=TOCSIN, action="hold.released", target=_name(hold), reason=reason, before=before)
    return len(released)


def _in_force() -> Any:
    return holds.c.released_at.is_(None) & func.coalesce(holds.c.release_at > func.now(), True)


def _name(hold: Any) -> str:
    return f"{hold.scope} {hold.target}"


def _scope(scope: str) -> HoldScope:
    try:
        return HoldScope(scope)
    except ValueError:
        raise InvalidFields({"scope": [f'"{scope}" is not one of {", ".join(HoldScope)}.']}) from None


def _require_target(connection: Connection, scope: HoldScope, target: str, known_types: frozenset[str]) -> int | None:
    """Check that the target exists, and return the id of an organization."""
    known: dict[HoldScope, tuple[str, ...]] = {
        HoldScope.QUEUE: tuple(Lane),
        HoldScope.CHANNEL: HELD_CHANNELS,
        HoldScope.TYPE: tuple(sorted(known_types)),
    }
    if scope is not HoldScope.ORGANIZATION:
        if target not in known[scope]:
            raise InvalidFields({"target": [f'"{target}" is not one of {", ".join(known[scope])}.']})
        return None
    id_: int | None = connection.execute(select(organizations.c.id).where(organizations.c.slug == target)).scalar()
    if id_ is None:
        raise InvalidFields({"target": [f'There is no organization "{target}".']})
    return id_


# Counts from the floor, so that finished commands cost nothing.
_WAITING_SQL: Final = {
    HoldScope.QUEUE: f"SELECT count(*) FROM commands c WHERE {FROM_FLOOR} AND c.lane = %(target)s",  # noqa: S608
    HoldScope.TYPE: f"SELECT count(*) FROM commands c WHERE {FROM_FLOOR} AND c.type = %(target)s",  # noqa: S608
    HoldScope.ORGANIZATION: (
        f"SELECT count(*) FROM commands c WHERE {FROM_FLOOR} AND c.organization_id = %(id)s"  # noqa: S608
    ),
    HoldScope.CHANNEL: f"SELECT count(*) FROM deliveries WHERE {IS_UNCLAIMED} AND channel = %(target)s",  # noqa: S608
}
_WAITING_DELIVERIES: Final = f"SELECT count(*) FROM deliveries WHERE {IS_UNCLAIMED}"  # noqa: S608


def _waiting(connection: Connection, hold: Any) -> int:
    if (hold.scope, hold.target) == (HoldScope.QUEUE, Lane.DELIVERIES):
        return int(connection.exec_driver_sql(_WAITING_DELIVERIES).scalar_one())
    parameters = {"target": hold.target, "id": hold.organization_id}
    return int(connection.exec_driver_sql(_WAITING_SQL[HoldScope(hold.scope)], parameters).scalar_one())
