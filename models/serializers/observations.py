"""Observations and their effects as JSON."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from models.alert_rules.evaluation import Evaluation, Ignored
from models.json_fields import DateTime, Id, SchemaKeywords
from models.serializers.incidents import IncidentJson
from models.timestamps import iso


class ObservedJson(TypedDict):
    """The result of an observation: the labels of the triggers that fired or were resolved, and the rule's incident."""

    fired: list[str]
    resolved: list[str]
    incident: IncidentJson | None
    ignored: NotRequired[Ignored]


def observed_json(evaluation: Evaluation, *, incident: IncidentJson | None) -> ObservedJson:
    """Serialize the result of an observation. ``incident`` is the rule's incident after the observation."""
    serialized: ObservedJson = {"fired": evaluation.fired, "resolved": evaluation.resolved, "incident": incident}
    if evaluation.ignored is not None:
        serialized["ignored"] = evaluation.ignored
    return serialized


class TriggerCountJson(TypedDict):
    """A trigger's counts of consecutive values: those that breached its threshold, and those that resolved it."""

    alerts: int
    resolves: int


class ObservationJson(TypedDict):
    """A stored observation and its result."""

    project: str
    value: float | None
    comparisonValue: float | None
    timestamp: DateTime
    dateCreated: DateTime
    fired: list[str]
    resolved: list[str]
    ignored: Ignored | None
    incidentIdentifier: Id | None
    counted: Annotated[
        dict[str, TriggerCountJson],
        SchemaKeywords(
            description="By trigger label: how many times in a row the threshold was met, and was not met while the"
            " trigger was active."
        ),
    ]


def observation_json(row: Any) -> ObservationJson:
    """Serialize a stored observation from its row."""
    result = row.result
    return {
        "project": row.slug,
        "value": row.value,
        "comparisonValue": row.comparison_value,
        "timestamp": iso(row.timestamp),
        "dateCreated": iso(row.accepted_at),
        "fired": result["fired"],
        "resolved": result["resolved"],
        "ignored": result.get("ignored"),
        "incidentIdentifier": result["incident"],
        "counted": result["counted"],
    }
