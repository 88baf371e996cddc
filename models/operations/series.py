"""Numbers per minute, kept for 30 days, for the dashboard's charts. One relay records them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy.engine import Connection

from models.enums import CommandState
from models.messaging.claims import FROM_FLOOR
from models.notifications.delivery import DeliveryState
from models.refusals import InvalidFields
from models.serializers.operations import SeriesJson
from models.timestamps import iso

SERIES: Final = ("accepted", "finished", "rejected", "dead", "waiting", "oldest", "deliveries")
"""The names of the series. ``oldest`` is in seconds; ``waiting`` and ``oldest`` are those at the end of the minute."""

_AGGREGATES: Final = {
    **{name: f"sum((numbers->>'{name}')::bigint)::bigint" for name in SERIES},
    "waiting": "max((numbers->>'waiting')::bigint)",
    "oldest": "max((numbers->>'oldest')::float8)",
}

STEP: Final = timedelta(minutes=1)
KEPT: Final = timedelta(days=30)
MAX_MINUTES: Final = int(KEPT / STEP)

CLOCK_SLACK: Final = timedelta(seconds=10)
"""How far the clock of the process that made a command's id may be from the database's."""


def first_id(moment: datetime) -> UUID:
    """Return the lowest UUIDv7 of a moment.

    >>> first_id(datetime(2026, 11, 29, tzinfo=UTC))
    UUID('01a22499-f800-0000-0000-000000000000')
    """
    return UUID(int=int(moment.timestamp() * 1000) << 80)


# Ids begin with a time, so the primary key is an index by time.
_COUNT_ACCEPTED: Final = """
SELECT count(*) FROM commands
WHERE id >= %(low)s AND id < %(high)s AND accepted_at >= %(start)s AND accepted_at < %(end)s
"""


def count_accepted(connection: Connection, start: datetime, end: datetime) -> int:
    """Return the number of commands accepted in this time. The cost depends on that number only."""
    parameters = {
        "low": first_id(start - CLOCK_SLACK),
        "high": first_id(end + CLOCK_SLACK),
        "start": start,
        "end": end,
    }
    return int(connection.exec_driver_sql(_COUNT_ACCEPTED, parameters).scalar_one())


_NUMBERS: Final = f"""
SELECT count(*) AS finished, count(*) FILTER (WHERE state = '{CommandState.REJECTED}') AS rejected,
       count(*) FILTER (WHERE state = '{CommandState.DEAD}') AS dead,
       (SELECT count(*) FROM commands c WHERE {FROM_FLOOR}) AS waiting,
       (SELECT extract(epoch FROM clock_timestamp() - min(c.accepted_at))::float8 FROM commands c
        WHERE {FROM_FLOOR}) AS oldest,
       (SELECT count(*) FROM deliveries WHERE finished_at >= %(start)s AND finished_at < %(end)s
           AND state = '{DeliveryState.DELIVERED}') AS deliveries
FROM commands WHERE finished_at >= %(start)s AND finished_at < %(end)s
"""  # noqa: S608 - our own condition

_INSERT: Final = """
INSERT INTO minute_series (at, numbers) VALUES (%(at)s, %(numbers)s::jsonb) ON CONFLICT DO NOTHING
"""


def record_minute(connection: Connection) -> bool:
    """Record the numbers of the last complete minute, unless that was done already. Return whether it was done now.

    A minute that no relay was there to record has no numbers.
    """
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    end = now.astimezone(UTC).replace(second=0, microsecond=0)
    start = end - STEP
    if connection.exec_driver_sql("SELECT EXISTS (SELECT FROM minute_series WHERE at = %s)", (start,)).scalar_one():
        return False
    row = connection.exec_driver_sql(_NUMBERS, {"start": start, "end": end}).one()
    numbers = dict(row._mapping) | {"oldest": row.oldest or 0, "accepted": count_accepted(connection, start, end)}
    connection.exec_driver_sql(_INSERT, {"at": start, "numbers": orjson.dumps(numbers).decode()})
    connection.exec_driver_sql("DELETE FROM minute_series WHERE at < %s", (end - KEPT,))
    return True


def read_series(
    connection: Connection, metrics: Sequence[str] = SERIES, *, minutes: int = 60, step_minutes: int = 1
) -> SeriesJson:
    """Return these series for the last complete ``minutes``, in steps, oldest first.

    In a step of several minutes, what happened is summed up, and of what waited the most counts. ``step_minutes`` must
    divide ``minutes``.

    :raises InvalidFields: there is no such series, or ``minutes`` is not between 1 and 30 days.
    """
    if unknown := [name for name in metrics if name not in SERIES]:
        raise InvalidFields({"metric": [f'"{unknown[0]}" is not one of {", ".join(SERIES)}.']})
    if not 1 <= minutes <= MAX_MINUTES:
        raise InvalidFields({"minutes": [f"Ensure this value is between 1 and {MAX_MINUTES}."]})
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    end = now.astimezone(UTC).replace(second=0, microsecond=0)
    start, step = end - minutes * STEP, step_minutes * STEP
    rows = connection.exec_driver_sql(_STEPS, {"start": start, "end": end, "step": step})
    by_step = {row.step: row for row in rows}
    steps = [by_step.get(number) for number in range(minutes // step_minutes)]
    series = {name: [getattr(row, name, None) for row in steps] for name in dict.fromkeys(metrics)}
    return {"start": iso(start), "stepSeconds": int(step.total_seconds()), "series": series}


_STEPS: Final = f"""
SELECT floor(extract(epoch FROM at - %(start)s) / extract(epoch FROM %(step)s))::int AS step,
       {", ".join(f"{aggregate} AS {name}" for name, aggregate in _AGGREGATES.items())}
FROM minute_series WHERE at >= %(start)s AND at < %(end)s GROUP BY 1
"""  # noqa: S608 - our own expressions
