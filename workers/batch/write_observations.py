"""Write what observations changed: the progress of rules, the kept observations, the states of triggers."""

from __future__ import annotations

from typing import Any, Final

import orjson
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import alert_rule_observations, alert_rule_progress, incident_triggers
from models.alert_rules.evaluation import Progress, TriggerCounter
from models.base import insert_rows
from workers.batch.changes import NewObservation, ObservationChanges, TriggerStateChange

_PROGRESS: Final = ("rule_id", "project_id", "generation", "observed", "last_timestamp", "counters")
_OBSERVATION: Final = (
    "rule_id", "project_id", "slot", "number", "timestamp", "value", "comparison_value", "result", "accepted_at",
)  # fmt: skip
_HELD: Final = ("incident_id", "trigger_id", "label", "status", "date_added", "date_modified")


def write_observations(connection: Connection, changes: ObservationChanges) -> None:
    """Write the changes that observations made, in the batch's transaction."""
    insert_rows(
        connection,
        alert_rule_progress,
        _PROGRESS,
        ((*place, *_progress(progress)) for place, progress in changes.progress.items()),
        "ON CONFLICT (rule_id, project_id) DO UPDATE SET generation = excluded.generation,"
        " observed = excluded.observed, last_timestamp = excluded.last_timestamp, counters = excluded.counters",
    )
    insert_rows(
        connection,
        alert_rule_observations,
        _OBSERVATION,
        (_observation(slot, each) for (_, _, slot), each in changes.observations.items()),
        "ON CONFLICT (rule_id, project_id, slot) DO UPDATE SET number = excluded.number,"
        " timestamp = excluded.timestamp, value = excluded.value, comparison_value = excluded.comparison_value,"
        " result = excluded.result, accepted_at = excluded.accepted_at",
    )
    insert_rows(
        connection,
        incident_triggers,
        _HELD,
        map(_held, changes.trigger_states.values()),
        "ON CONFLICT (incident_id, trigger_id) DO UPDATE"
        " SET status = excluded.status, date_modified = excluded.date_modified",
    )


def _progress(progress: Progress) -> tuple[Any, ...]:
    counters = {str(id_): _counter(each) for id_, each in progress.counters.items()}
    return progress.generation, progress.observed, progress.last_timestamp, orjson.dumps(counters).decode()


def _counter(counter: TriggerCounter) -> dict[str, Any]:
    return {"alerts": counter.alerts, "resolves": counter.resolves, "opened_at": counter.opened_at}


def _observation(slot: int, each: NewObservation) -> tuple[Any, ...]:
    place, (number, timestamp, value, comparison_value, result, accepted_at) = each[:2], each[2:]
    result = orjson.dumps(result).decode()
    return *place, slot, number, timestamp, value, comparison_value, result, accepted_at


def _held(each: TriggerStateChange) -> tuple[Any, ...]:
    return each.incident_id, each.trigger_id, each.state.label, int(each.state.status), each.at, each.at
