"""Functions that write what observations changed: rules' progress, kept observations and trigger states."""

from __future__ import annotations

from typing import Final

import orjson
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import alert_rule_observations, alert_rule_progress, incident_triggers
from models.alert_rules.evaluation import Progress
from models.base import insert_rows
from workers.batch.changes import NewObservation, ObservationChanges

_PROGRESS_COLUMNS: Final = ("rule_id", "project_id", "generation", "observed", "last_timestamp", "counters")
_TRIGGER_COLUMNS: Final = ("incident_id", "trigger_id", "label", "status", "date_added", "date_modified")


def write_observations(connection: Connection, changes: ObservationChanges) -> None:
    """Write the changes that observations made, in the batch's transaction."""
    insert_rows(
        connection,
        alert_rule_progress,
        _PROGRESS_COLUMNS,
        (
            (rule_id, project_id, each.generation, each.observed, each.last_timestamp, _counters_json(each))
            for (rule_id, project_id), each in changes.progress.items()
        ),
        "ON CONFLICT (rule_id, project_id) DO UPDATE SET generation = excluded.generation,"
        " observed = excluded.observed, last_timestamp = excluded.last_timestamp, counters = excluded.counters",
    )
    insert_rows(
        connection,
        alert_rule_observations,
        NewObservation._fields,
        (each._replace(result=orjson.dumps(each.result).decode()) for each in changes.observations.values()),
        "ON CONFLICT (rule_id, project_id, slot) DO UPDATE SET number = excluded.number,"
        " timestamp = excluded.timestamp, value = excluded.value, comparison_value = excluded.comparison_value,"
        " result = excluded.result, accepted_at = excluded.accepted_at",
    )
    insert_rows(
        connection,
        incident_triggers,
        _TRIGGER_COLUMNS,
        (
            (each.incident_id, each.trigger_id, each.state.label, int(each.state.status), each.at, each.at)
            for each in changes.trigger_states.values()
        ),
        "ON CONFLICT (incident_id, trigger_id) DO UPDATE"
        " SET status = excluded.status, date_modified = excluded.date_modified",
    )


def _counters_json(progress: Progress) -> str:
    counters = {
        str(id_): {"alerts": each.alerts, "resolves": each.resolves, "opened_at": each.opened_at}
        for id_, each in progress.counters.items()
    }
    return orjson.dumps(counters).decode()
