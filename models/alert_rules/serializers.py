"""Serializers for alert rules in JSON, as callers see them.

The worker uses them for command outcomes, the gateway for reads. Ids are strings, except ``createdBy.id`` and
``originalAlertRuleId``, which are numbers in Sentry's incident API. A comparison rule's thresholds are stored as
percentages of the comparison value and shown as differences from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, NamedTuple, NotRequired, TypedDict, overload

from models.alert_rules import consistency
from models.alert_rules.alert_rule import RESOLUTION_MINUTES, Action, AlertRule, Definition, RuleStatus, Snooze, Trigger
from models.alert_rules.enums import TARGETS, ActionType, QueryType, TargetType, ThresholdType
from models.directory.tables import Person
from models.json_fields import DateTime, Id, SchemaKeywords
from models.timestamps import iso, iso_or_none
from models.types import JSON

# --- input of the serializers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleReferences:
    """The objects to which rules refer, by id: the slugs of projects and teams, and the people."""

    projects: Mapping[int, str] = field(default_factory=dict)
    teams: Mapping[int, str] = field(default_factory=dict)
    people: Mapping[int, Person] = field(default_factory=dict)


class RuleSnapshot(NamedTuple):
    """A rule as it was in one of its generations. ``is_snapshot`` is false for the current generation."""

    rule: AlertRule
    definition: Definition
    date_modified: datetime
    is_snapshot: bool

    @classmethod
    def current(cls, rule: AlertRule) -> RuleSnapshot:
        """Return the rule as it is in its current generation."""
        return cls(rule, rule.definition, rule.date_modified, is_snapshot=False)


# --- alert rules -----------------------------------------------------------------------------------------------


class CreatorJson(TypedDict):
    """The person who created an alert rule, with a numeric id."""

    id: int
    name: str
    email: str


class TriggerActionJson(TypedDict):
    """A trigger's action. Fields for integrations that tocsin does not have are null."""

    id: Id
    alertRuleTriggerId: Id
    type: ActionType
    targetType: TargetType
    targetIdentifier: str
    inputChannelId: str | None
    integrationId: int | None
    sentryAppId: int | None
    dateCreated: DateTime
    desc: str
    priority: str | None


class TriggerJson(TypedDict):
    """A trigger of an alert rule."""

    id: Id
    alertRuleId: Id
    label: str
    thresholdType: Annotated[int, SchemaKeywords(enum=ThresholdType)]
    alertThreshold: float
    resolveThreshold: float | None
    dateCreated: DateTime
    actions: list[TriggerActionJson]


class _AlertRuleFields(TypedDict):
    id: Id
    name: str
    organizationId: Id
    status: Annotated[int, SchemaKeywords(enum=RuleStatus)]
    queryType: Annotated[int, SchemaKeywords(enum=QueryType)]
    dataset: str
    query: str
    aggregate: str
    thresholdType: Annotated[int, SchemaKeywords(enum=ThresholdType)]
    resolveThreshold: float | None
    timeWindow: float
    environment: str | None
    resolution: float
    thresholdPeriod: int
    triggers: list[TriggerJson]
    projects: list[str]
    includeAllProjects: bool
    owner: str | None
    originalAlertRuleId: int | None
    comparisonDelta: float | None
    dateModified: DateTime
    dateCreated: DateTime
    createdBy: CreatorJson | None
    monitorType: int
    activationCondition: int | None
    activations: list[dict[str, JSON]]
    description: str
    version: int


class AlertRuleJson(_AlertRuleFields):
    """An alert rule in a list or an incident. ``snooze`` is present only while the rule is snoozed for the reader."""

    snooze: NotRequired[bool]


class _SnoozeDetails(TypedDict):
    snoozeForEveryone: NotRequired[bool]
    snoozeCreatedBy: NotRequired[str]


class AlertRuleDetailsJson(_AlertRuleFields, _SnoozeDetails):
    """A single alert rule. ``snoozeForEveryone`` and ``snoozeCreatedBy`` are present only while the rule is snoozed."""

    excludedProjects: list[str]
    eventTypes: list[str]
    snooze: bool


def rule_json(
    snapshot: RuleSnapshot, references: RuleReferences, *, is_snoozed: bool, shows_original: bool = False
) -> AlertRuleJson:
    """Serialize a rule for a list or an incident.

    If ``shows_original`` is true, a snapshot of an earlier generation also contains the id of the current rule.
    """
    rule, definition = snapshot.rule, snapshot.definition
    serialized: AlertRuleJson = {
        "id": str(rule.id),
        "name": definition.name,
        "organizationId": str(rule.organization_id),
        "status": int(RuleStatus.SNAPSHOT if snapshot.is_snapshot else rule.status),
        "queryType": int(definition.query_type),
        "dataset": definition.dataset,
        "query": definition.query,
        "aggregate": definition.aggregate.replace("tags[sentry:user]", "user"),
        "thresholdType": int(definition.threshold_type),
        "resolveThreshold": shown_threshold(definition, definition.resolve_threshold),
        "timeWindow": float(definition.time_window),
        "environment": definition.environment,
        "resolution": float(RESOLUTION_MINUTES),
        "thresholdPeriod": definition.threshold_period,
        "triggers": [trigger_json(rule.id, definition, trigger, references) for trigger in definition.triggers],
        "projects": sorted(references.projects[id_] for id_ in rule.projects),
        "includeAllProjects": definition.include_all_projects,
        "owner": _owner(definition),
        "originalAlertRuleId": rule.id if shows_original and snapshot.is_snapshot else None,
        "comparisonDelta": None if definition.comparison_delta is None else float(definition.comparison_delta),
        "dateModified": iso(snapshot.date_modified),
        "dateCreated": iso(rule.date_added),
        "createdBy": _creator(references.people.get(rule.created_by or 0)),
        "monitorType": definition.monitor_type,
        "activationCondition": definition.activation_condition,
        "activations": [],
        "description": definition.description or "",
        "version": rule.version,
    }
    if is_snoozed:
        serialized["snooze"] = True
    return serialized


def rule_details_json(
    rule: AlertRule, references: RuleReferences, *, snoozes: Iterable[Snooze], viewer: int | None
) -> AlertRuleDetailsJson:
    """Serialize a single rule for the user ``viewer``. ``snoozes`` holds the rule's active snoozes."""
    effective = [each for each in snoozes if each.user_id is None or each.user_id == viewer]
    return {
        **rule_json(RuleSnapshot.current(rule), references, is_snoozed=bool(effective)),
        "excludedProjects": list(rule.definition.excluded_projects),
        "eventTypes": sorted(rule.definition.event_types),
        "snooze": bool(effective),
        **_snooze_details(effective, references, viewer),
    }


def trigger_json(rule_id: int, definition: Definition, trigger: Trigger, references: RuleReferences) -> TriggerJson:
    """Serialize a trigger of a rule."""
    return {
        "id": str(trigger.id),
        "alertRuleId": str(rule_id),
        "label": trigger.label,
        "thresholdType": int(definition.threshold_type),
        "alertThreshold": shown_threshold(definition, trigger.threshold),
        "resolveThreshold": shown_threshold(definition, definition.resolve_threshold),
        "dateCreated": iso(trigger.date_added),
        "actions": [action_json(trigger.id, action, references) for action in trigger.actions],
    }


def action_json(trigger_id: int, action: Action, references: RuleReferences) -> TriggerActionJson:
    """Serialize an action of a trigger."""
    return {
        "id": str(action.id),
        "alertRuleTriggerId": str(trigger_id),
        "type": action.type,
        "targetType": action.target_type,
        "targetIdentifier": action.target,
        "inputChannelId": None,
        "integrationId": None,
        "sentryAppId": None,
        "dateCreated": iso(action.date_added),
        "desc": _description(action, references),
        "priority": None,
    }


def discover_query(definition: Definition) -> str:
    """Return a search query for the events that the rule counts.

    They are the events of its event types that match its own query, if it has one.
    """
    types = list(definition.event_types) or _DEFAULT_EVENT_TYPES.get(definition.query_type, [])
    type_terms = " OR ".join(f"event.type:{each}" for each in types)
    if not type_terms or not definition.query:
        return type_terms or definition.query
    return f"({type_terms}) AND ({definition.query})"


@overload
def shown_threshold(definition: Definition, stored: float) -> float: ...


@overload
def shown_threshold(definition: Definition, stored: float | None) -> float | None: ...


def shown_threshold(definition: Definition, stored: float | None) -> float | None:
    """Return a rule's stored threshold in user-facing units."""
    is_comparison = definition.comparison_delta is not None
    return consistency.shown_threshold(definition.threshold_type, is_comparison=is_comparison, stored=stored)


_DEFAULT_EVENT_TYPES: Final = {QueryType.ERROR: ["error"], QueryType.PERFORMANCE: ["transaction"]}


def _owner(definition: Definition) -> str | None:
    if definition.owner_user is not None:
        return f"user:{definition.owner_user}"
    return None if definition.owner_team is None else f"team:{definition.owner_team}"


def _creator(person: Person | None) -> CreatorJson | None:
    return None if person is None else {"id": person.id, "name": person.name, "email": person.email}


def _description(action: Action, references: RuleReferences) -> str:
    match action.target_type:
        case TargetType.USER:
            person = references.people.get(int(action.target))
            return f"Send a notification to {person.email if person else 'somebody who is gone'}"
        case TargetType.TEAM:
            return f"Send an email to members of #{references.teams.get(int(action.target), 'a team that is gone')}"
        case TargetType.SPECIFIC:
            return f"Send a notification to {action.target} via {action.type}"


class AvailableActionJson(TypedDict):
    """An action type, with the target types that it supports."""

    type: ActionType
    allowedTargetTypes: list[TargetType]


def available_actions_json() -> list[AvailableActionJson]:
    """Serialize the action types that a trigger may have."""
    return [{"type": type_, "allowedTargetTypes": list(targets)} for type_, targets in TARGETS.items()]


# --- snoozes ---------------------------------------------------------------------------------------------------


class SnoozeJson(TypedDict):
    """A snooze of an alert rule."""

    ownerId: Id
    userId: Annotated[str, SchemaKeywords(description="A user's id, or `everyone`.")]
    until: Annotated[str, SchemaKeywords(description="A timestamp, or `forever`.")]
    dateAdded: DateTime
    ruleId: str | None
    alertRuleId: Id


def snooze_json(snooze: Snooze) -> SnoozeJson:
    """Serialize a new snooze. Its owner must be known."""
    return {
        "ownerId": str(snooze.owner_id),
        "userId": "everyone" if snooze.user_id is None else str(snooze.user_id),
        "until": iso_or_none(snooze.until) or "forever",
        "dateAdded": iso(snooze.date_added),
        "ruleId": None,
        "alertRuleId": str(snooze.rule_id),
    }


def _snooze_details(snoozes: Sequence[Snooze], references: RuleReferences, viewer: int | None) -> _SnoozeDetails:
    if not snoozes:
        return {}
    # A snooze for everyone takes precedence over the viewer's own.
    snooze = min(snoozes, key=lambda each: each.user_id is not None)
    details: _SnoozeDetails = {"snoozeForEveryone": snooze.user_id is None}
    if snooze.owner_id is not None and snooze.owner_id == viewer:
        details["snoozeCreatedBy"] = "You"
    elif (owner := references.people.get(snooze.owner_id or 0)) is not None:
        details["snoozeCreatedBy"] = owner.name
    return details
