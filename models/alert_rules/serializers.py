"""Alert rules → JSON, as callers see them: used by the worker's outcomes and the gateway's reads alike.

Ids are strings but for ``createdBy`` and ``originalAlertRuleId``, which the API that we give back has as numbers.
Thresholds of comparison rules are stored as per cents of the past and shown as differences from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from models.alert_rules import validation
from models.alert_rules.alert_rule import RESOLUTION_MINUTES, Action, AlertRule, Definition, RuleStatus, Snooze, Trigger
from models.alert_rules.enums import QueryType, TargetType
from models.directory.tables import Person
from models.enums import JSON
from models.timestamps import iso, iso_or_none


@dataclass(frozen=True, slots=True)
class RuleReferences:
    """What the ids in rules stand for: slugs of projects and teams, and people."""

    projects: Mapping[int, str] = field(default_factory=dict)
    teams: Mapping[int, str] = field(default_factory=dict)
    people: Mapping[int, Person] = field(default_factory=dict)


class RuleSnapshot(NamedTuple):
    """A rule as it stands, or as it was in an earlier generation."""

    rule: AlertRule
    definition: Definition
    date_modified: datetime
    is_snapshot: bool

    @classmethod
    def current(cls, rule: AlertRule) -> RuleSnapshot:
        """As it stands."""
        return cls(rule, rule.definition, rule.date_modified, is_snapshot=False)


def rule_json(
    edition: RuleSnapshot, names: RuleReferences, *, is_snoozed: bool, shows_original: bool = False
) -> dict[str, JSON]:
    """A rule in a list or an incident; ``shows_original`` names the living rule beside a snapshot of it."""
    rule, said = edition.rule, edition.definition
    snoozed: dict[str, JSON] = {"snooze": True} if is_snoozed else {}
    return {
        "id": str(rule.id),
        "name": said.name,
        "organizationId": str(rule.organization_id),
        "status": int(RuleStatus.SNAPSHOT if edition.is_snapshot else rule.status),
        "queryType": int(said.query_type),
        "dataset": said.dataset,
        "query": said.query,
        "aggregate": said.aggregate.replace("tags[sentry:user]", "user"),
        "thresholdType": int(said.threshold_type),
        "resolveThreshold": shown_threshold(said, said.resolve_threshold),
        "timeWindow": float(said.time_window),
        "environment": said.environment,
        "resolution": float(RESOLUTION_MINUTES),
        "thresholdPeriod": said.threshold_period,
        "triggers": [trigger_json(rule.id, said, trigger, names) for trigger in said.triggers],
        "projects": sorted(names.projects[id_] for id_ in rule.projects),
        "includeAllProjects": said.include_all_projects,
        "owner": _owner(said),
        "originalAlertRuleId": rule.id if shows_original and edition.is_snapshot else None,
        "comparisonDelta": None if said.comparison_delta is None else float(said.comparison_delta),
        "dateModified": iso(edition.date_modified),
        "dateCreated": iso(rule.date_added),
        "createdBy": _creator(names.people.get(rule.created_by or 0)),
        "monitorType": said.monitor_type,
        "activationCondition": said.activation_condition,
        "activations": [],
        "description": said.description or "",
        "version": rule.version,
        **snoozed,
    }


def rule_details(
    rule: AlertRule, names: RuleReferences, *, snoozes: Iterable[Snooze], viewer: int | None
) -> dict[str, JSON]:
    """A rule by itself, for the reader; ``snoozes`` are those that hold now."""
    mine = [each for each in snoozes if each.user_id is None or each.user_id == viewer]
    return rule_json(RuleSnapshot.current(rule), names, is_snoozed=bool(mine)) | {
        "excludedProjects": list(rule.definition.excluded_projects),
        "eventTypes": sorted(rule.definition.event_types),
        "snooze": bool(mine),
        **_snooze_facts(mine, names, viewer),
    }


def trigger_json(rule_id: int, definition: Definition, trigger: Trigger, names: RuleReferences) -> dict[str, JSON]:
    """A trigger of a rule."""
    return {
        "id": str(trigger.id),
        "alertRuleId": str(rule_id),
        "label": trigger.label,
        "thresholdType": int(definition.threshold_type),
        "alertThreshold": shown_threshold(definition, trigger.threshold),
        "resolveThreshold": shown_threshold(definition, definition.resolve_threshold),
        "dateCreated": iso(trigger.date_added),
        "actions": [action_json(trigger.id, action, names) for action in trigger.actions],
    }


def action_json(trigger_id: int, action: Action, names: RuleReferences) -> dict[str, JSON]:
    """An action of a trigger; what belongs to other products' integrations is null."""
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
        "desc": _description(action, names),
        "priority": None,
    }


def snooze_json(snooze: Snooze) -> dict[str, JSON]:
    """A snooze, as whoever asked for it hears of it."""
    return {
        "ownerId": None if snooze.owner_id is None else str(snooze.owner_id),
        "userId": "everyone" if snooze.user_id is None else str(snooze.user_id),
        "until": iso_or_none(snooze.until) or "forever",
        "dateAdded": iso(snooze.date_added),
        "ruleId": None,
        "alertRuleId": str(snooze.rule_id),
    }


def discover_query(definition: Definition) -> str:
    """The search that finds what the rule counts: its event types, and its query if it has one."""
    types = list(definition.event_types) or _TYPES_OF.get(definition.query_type, [])
    spelled = " OR ".join(f"event.type:{each}" for each in types)
    if not spelled or not definition.query:
        return spelled or definition.query
    return f"({spelled}) AND ({definition.query})"


def shown_threshold(definition: Definition, stored: float | None) -> float | None:
    """A threshold of the rule as people write it."""
    is_comparison = definition.comparison_delta is not None
    return validation.shown_threshold(definition.threshold_type, is_comparison=is_comparison, stored=stored)


_TYPES_OF: Final = {QueryType.ERROR: ["error"], QueryType.PERFORMANCE: ["transaction"]}


def _owner(definition: Definition) -> str | None:
    if definition.owner_user is not None:
        return f"user:{definition.owner_user}"
    return None if definition.owner_team is None else f"team:{definition.owner_team}"


def _creator(person: Person | None) -> JSON:
    return None if person is None else {"id": person.id, "name": person.name, "email": person.email}


def _description(action: Action, names: RuleReferences) -> str:
    match action.target_type:
        case TargetType.USER:
            person = names.people.get(int(action.target))
            return f"Send a notification to {person.email if person else 'somebody who is gone'}"
        case TargetType.TEAM:
            return f"Send an email to members of #{names.teams.get(int(action.target), 'a team that is gone')}"
        case TargetType.SPECIFIC:
            return f"Send a notification to {action.target} via {action.type}"


def _snooze_facts(snoozes: list[Snooze], names: RuleReferences, viewer: int | None) -> dict[str, JSON]:
    if not snoozes:
        return {}
    # What holds for everyone says more than what one chose for oneself.
    first = min(snoozes, key=lambda each: each.user_id is not None)
    facts: dict[str, JSON] = {"snoozeForEveryone": first.user_id is None}
    if first.owner_id is not None and first.owner_id == viewer:
        facts["snoozeCreatedBy"] = "You"
    elif (owner := names.people.get(first.owner_id or 0)) is not None:
        facts["snoozeCreatedBy"] = owner.name
    return facts
