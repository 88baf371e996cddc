"""Claiming due deliveries: the statements that take rows, give them back, and take over those of dead processes.

A claim is the name of a process in ``claimed_by``, committed before anything is sent. While the process lives, it holds
an advisory lock for its name in a session of its own (:class:`workers.deliver.presence.Presence`), and nobody else
touches its rows. If the session is lost while the process lives, its rows are taken over only after
:data:`LEASE_SECONDS`, by when every attempt has ended. So two live processes never send a row at the same time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.messaging.hold import is_channel_held
from models.notifications.delivery import IS_UNCLAIMED, DeliveryState
from workers.deliver.channel import ClaimedDelivery

LEASE_SECONDS: Final = 90.0
"""How old a dead process's claim must be before it is taken over. Longer than the deadline of every channel."""

MERGED_PER_MESSAGE: Final = 200
"""How many deliveries are merged into one message at most."""

_COLUMNS: Final = tuple(name for name in ClaimedDelivery._fields if name != "merged")


async def claim_due(
    connection: AsyncConnection,
    process: UUID,
    *,
    channels: Mapping[str, int],
    limits: Mapping[str, int],
    most: int,
) -> list[ClaimedDelivery]:
    """Claim up to ``most`` due deliveries whose channel is not held, by turns between targets, and return them.

    ``channels`` maps the channels to claim to the limit for each of their targets. ``limits`` maps target keys to lower
    limits; 0 leaves a target alone. Merged deliveries are returned once per message, in ``merged``.
    """
    parameters = {
        "process": process,
        "channels": list(channels),
        "channel_limits": list(channels.values()),
        "targets": list(limits),
        "target_limits": list(limits.values()),
        "most": most,
    }
    rows = (await connection.exec_driver_sql(_CLAIM, parameters)).all()
    claimed = [ClaimedDelivery(**_values(row)) for row in rows]
    alone = [each._replace(merged=(each,)) for each in claimed if not each.is_merged]
    merged = [each for each in claimed if each.is_merged]
    return alone + (await _claim_groups(connection, process, merged) if merged else [])


async def _claim_groups(
    connection: AsyncConnection, process: UUID, leaders: Sequence[ClaimedDelivery]
) -> list[ClaimedDelivery]:
    """Claim what is sent in the same message as each leader, and return one delivery per message: its oldest.

    If another process is claiming the same person's deliveries, it also takes ours, so they are given back.
    """
    groups = sorted({_group_of(each) for each in leaders}, key=str)
    arrays = dict(
        zip(("organizations", "users", "names", "messages"), map(list, zip(*groups, strict=True)), strict=True)
    )
    locked = {
        (row.organization_id, row.user_id, row.channel, row.message)
        for row in (await connection.exec_driver_sql(_LOCK_GROUPS, arrays)).all()
        if row.is_locked
    }
    if refused := [each.id for each in leaders if _group_of(each) not in locked]:
        await release(connection, process, refused)
    if not locked:
        return []
    members: dict[Any, list[ClaimedDelivery]] = defaultdict(list)
    for leader in leaders:
        if _group_of(leader) in locked:
            members[_group_of(leader)].append(leader)
    kept = [group for group in groups if group in locked]
    arrays = dict(zip(("organizations", "users", "names", "messages"), map(list, zip(*kept, strict=True)), strict=True))
    rows = (
        await connection.exec_driver_sql(_CLAIM_GROUPS, arrays | {"process": process, "most": MERGED_PER_MESSAGE})
    ).all()
    for row in rows:
        delivery = ClaimedDelivery(**_values(row))
        members[_group_of(delivery)].append(delivery)
    messages = []
    for each in members.values():
        oldest_first = tuple(sorted(each, key=lambda delivery: delivery.id))
        messages.append(oldest_first[0]._replace(merged=oldest_first))
    return messages


async def release(connection: AsyncConnection, process: UUID, deliveries: Sequence[UUID]) -> None:
    """Give claimed deliveries back, without counting an attempt."""
    await connection.exec_driver_sql(_RELEASE, {"process": process, "ids": list(deliveries)})


async def next_due_seconds(connection: AsyncConnection, channels: Sequence[str]) -> float | None:
    """Return how many seconds from now the next delivery that may be claimed is due, or ``None`` if there is none."""
    row = (await connection.exec_driver_sql(_NEXT_DUE, {"channels": list(channels)})).one()
    return None if row.seconds is None else float(row.seconds)


async def take_over(connection: AsyncConnection, process: UUID, *, lease_seconds: float = LEASE_SECONDS) -> list[UUID]:
    """Give back the deliveries of processes that have died, and return their ids.

    Each counts as a failed attempt, because a message that kills its process must not be tried for ever.
    """
    parameters = {"process": process, "lease_seconds": lease_seconds}
    owners = (await connection.exec_driver_sql(_DEAD_OWNERS, parameters)).scalars().all()
    if not owners:
        return []
    rows = (await connection.exec_driver_sql(_TAKE_OVER, {"owners": list(owners)})).all()
    return [row.delivery_id for row in rows]


def _group_of(delivery: ClaimedDelivery) -> tuple[int, int, str, UUID | None]:
    """Return what merged deliveries in one message have in common.

    After a failed attempt, the message keeps its deliveries, because it may have arrived: ``merged_into`` names it.
    """
    if delivery.user_id is None:
        raise ValueError(f"delivery {delivery.id} is merged but has no user")
    return delivery.organization_id, delivery.user_id, delivery.channel, delivery.merged_into


def _values(row: Any) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    if values["body"] is not None:
        values["body"] = bytes(values["body"])
    return values


def _listed(alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in _COLUMNS)


# The index deliveries_unclaimed_idx lists the targets one by one, and each target's due rows in order: the cost depends
# on the number of targets with pending deliveries, not on how many wait for each.
_TARGETS: Final = f"""
targets AS (
    (SELECT target_key FROM deliveries WHERE {IS_UNCLAIMED} ORDER BY target_key LIMIT 1)
    UNION ALL
    SELECT (
        SELECT d.target_key FROM deliveries d
        WHERE {IS_UNCLAIMED} AND d.target_key > t.target_key ORDER BY d.target_key LIMIT 1
    )
    FROM targets t WHERE t.target_key IS NOT NULL
)
"""  # noqa: S608 - our own columns

_CLAIM: Final = f"""
WITH RECURSIVE {_TARGETS},
due AS (
    SELECT c.id, row_number() OVER (PARTITION BY t.target_key ORDER BY c.due_at) AS turn, c.due_at
    FROM targets t
    LEFT JOIN unnest(%(targets)s::text[], %(target_limits)s::int[]) AS l(target_key, most) USING (target_key)
    JOIN unnest(%(channels)s::text[], %(channel_limits)s::int[]) AS k(channel, most)
        ON k.channel = split_part(t.target_key, ':', 1)
    CROSS JOIN LATERAL (
        SELECT d.id, d.due_at FROM deliveries d
        WHERE d.target_key = t.target_key AND {IS_UNCLAIMED} AND d.due_at <= now() AND d.channel = k.channel
        ORDER BY d.due_at LIMIT least(k.most, coalesce(l.most, k.most))
    ) c
    WHERE NOT {is_channel_held("k.channel")}
),
chosen AS (SELECT id FROM due ORDER BY turn, due_at LIMIT %(most)s),
-- Only what is chosen is locked: of a thousand targets, these are a few rows instead of thousands.
locked AS (
    SELECT id, state, claimed_by FROM deliveries WHERE id = ANY(ARRAY(SELECT id FROM chosen)) FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET claimed_by = %(process)s, claimed_at = clock_timestamp()
WHERE d.id = ANY(ARRAY(SELECT id FROM locked WHERE {IS_UNCLAIMED}))
RETURNING {_listed("d")}
"""  # noqa: S608 - our own columns

_GROUPS: Final = """
unnest(%(organizations)s::bigint[], %(users)s::bigint[], %(names)s::text[], %(messages)s::uuid[])
    AS g(organization_id, user_id, channel, message)
"""

_LOCK_GROUPS: Final = f"""
SELECT g.organization_id, g.user_id, g.channel, g.message, pg_try_advisory_xact_lock(
    hashtextextended('merge:' || g.organization_id || ':' || g.user_id || ':' || g.channel, 0)
) AS is_locked
FROM {_GROUPS}
"""  # noqa: S608 - our own columns

_CLAIM_GROUPS: Final = f"""
WITH members AS (
    SELECT c.id FROM {_GROUPS}
    CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d
        WHERE d.user_id = g.user_id AND d.channel = g.channel AND d.organization_id = g.organization_id
            AND d.is_merged AND d.merged_into IS NOT DISTINCT FROM g.message AND {IS_UNCLAIMED}
            AND d.due_at <= now()
        ORDER BY d.id LIMIT %(most)s FOR UPDATE
    ) c
)
UPDATE deliveries d SET claimed_by = %(process)s, claimed_at = clock_timestamp()
FROM members WHERE d.id = members.id AND d.claimed_by IS NULL
RETURNING {_listed("d")}
"""  # noqa: S608 - our own columns

_RELEASE: Final = """
UPDATE deliveries SET claimed_by = NULL, claimed_at = NULL
WHERE id = ANY(%(ids)s::uuid[]) AND claimed_by = %(process)s
"""

_NEXT_DUE: Final = f"""
WITH RECURSIVE {_TARGETS}
SELECT extract(epoch FROM min(d.due_at) - clock_timestamp()) AS seconds
FROM targets t
CROSS JOIN LATERAL (
    SELECT d.due_at FROM deliveries d WHERE d.target_key = t.target_key AND {IS_UNCLAIMED} ORDER BY d.due_at LIMIT 1
) d
WHERE split_part(t.target_key, ':', 1) = ANY(%(channels)s)
    AND NOT {is_channel_held("split_part(t.target_key, ':', 1)")}
"""  # noqa: S608 - our own columns

_DEAD_OWNERS: Final = """
SELECT claimed_by FROM (
    SELECT claimed_by, min(claimed_at) AS since FROM deliveries
    WHERE claimed_by IS NOT NULL AND claimed_by <> %(process)s GROUP BY claimed_by
) AS owners
WHERE since < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
    AND pg_try_advisory_xact_lock(hashtextextended('deliver:' || claimed_by, 0))
"""

_TAKE_OVER: Final = f"""
WITH lost AS (
    UPDATE deliveries SET claimed_by = NULL, claimed_at = NULL, attempts = attempts + 1
    WHERE claimed_by = ANY(%(owners)s::uuid[]) AND state = '{DeliveryState.PENDING}'
    RETURNING id, attempts
)
INSERT INTO delivery_attempts (delivery_id, number, duration_ms, error)
SELECT id, attempts, 0, 'the process that was sending it ended, so it may have arrived' FROM lost
ON CONFLICT DO NOTHING
RETURNING delivery_id
"""  # noqa: S608 - our own columns
