"""The numbers of the whole system that the ledger knows, for the metrics of the processes that read them."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import Channel, Lane
from models.messaging.canary import CanaryStatus, canary_status
from models.messaging.claims import FROM_FLOOR
from models.messaging.command_ledger import IS_DEAD
from models.messaging.hold import ANY_HOLD_IN_FORCE, is_channel_held, is_held
from models.notifications.delivery import DeliveryState
from models.operations.processes import list_processes
from models.operations.stalls import Stall, find_stalls
from models.serializers.operations import ProcessState


class Backlog(NamedTuple):
    """What waits: how many, of them held, and for how many seconds the oldest has waited (0 if nothing waits)."""

    waiting: int = 0
    held: int = 0
    oldest_seconds: float = 0.0


class LedgerNumbers(NamedTuple):
    """The numbers at one moment.

    ``commands`` is by lane; ``deliveries`` counts those that are due, by channel; ``processes`` counts those that are
    alive, by kind. ``unannounced`` and ``unplanned`` are numbers of events.
    """

    commands: dict[str, Backlog]
    deliveries: dict[str, Backlog]
    dead: int
    unannounced: Backlog
    unplanned: Backlog
    canaries: list[CanaryStatus]
    processes: dict[str, int]
    stalls: list[Stall]


def count_dead(connection: Connection) -> int:
    """Return the number of dead letters. An index holds only these."""
    query = f"SELECT count(*) FROM commands WHERE {IS_DEAD}"  # noqa: S608 - our own condition
    number: int = connection.exec_driver_sql(query).scalar_one()
    return number


def read_ledger_numbers(connection: Connection) -> LedgerNumbers:
    """Return the numbers. Their cost grows with what waits and with the dead letters, not with the history."""
    commands = {row.name: Backlog(*row[1:]) for row in connection.exec_driver_sql(_COMMANDS)}
    deliveries = {row.name: Backlog(*row[1:]) for row in connection.exec_driver_sql(_DELIVERIES)}
    rest = connection.exec_driver_sql(_REST).one()
    alive = [each["kind"] for each in list_processes(connection) if each["state"] is not ProcessState.GONE]
    return LedgerNumbers(
        commands={lane.value: commands.get(lane, Backlog()) for lane in Lane if lane is not Lane.DELIVERIES},
        deliveries={
            channel.value: deliveries.get(channel, Backlog()) for channel in Channel if channel is not Channel.INBOX
        },
        dead=rest.dead,
        unannounced=Backlog(rest.unannounced, 0, rest.unannounced_seconds),
        unplanned=Backlog(rest.unplanned, 0, rest.unplanned_seconds),
        canaries=canary_status(connection),
        processes={kind: alive.count(kind) for kind in ("gateway", "notifier", "relay", "worker")},
        stalls=find_stalls(connection),
    )


_COMMANDS: Final = f"""
SELECT c.lane AS name, count(*) AS waiting,
       CASE WHEN ({ANY_HOLD_IN_FORCE}) THEN count(*) FILTER (WHERE {is_held("c")}) ELSE 0 END AS held,
       extract(epoch FROM clock_timestamp() - min(c.accepted_at))::float8 AS oldest
FROM commands c WHERE {FROM_FLOOR} GROUP BY c.lane
"""  # noqa: S608 - our own conditions

_DELIVERIES: Final = f"""
SELECT channel AS name, count(*) AS waiting, count(*) FILTER (WHERE {is_channel_held("channel")}) AS held,
       extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest
FROM deliveries WHERE state = '{DeliveryState.PENDING}' AND due_at <= clock_timestamp() GROUP BY channel
"""  # noqa: S608 - our own conditions

_AGE: Final = "coalesce(extract(epoch FROM clock_timestamp() - min(date_created)), 0)::float8"
_REST: Final = f"""
SELECT unannounced.number AS unannounced, unannounced.oldest AS unannounced_seconds,
       unplanned.number AS unplanned, unplanned.oldest AS unplanned_seconds,
       (SELECT count(*) FROM commands WHERE {IS_DEAD}) AS dead
FROM (SELECT count(*) AS number, {_AGE} AS oldest FROM events WHERE announced_at IS NULL) AS unannounced
CROSS JOIN (SELECT count(*) AS number, {_AGE} AS oldest FROM events WHERE planned_at IS NULL) AS unplanned
"""  # noqa: S608 - our own conditions
