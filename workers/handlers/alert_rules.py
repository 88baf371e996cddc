"""The life of an alert rule: what is watched, what is watched instead, and what is watched no more."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from models.alert_rules.alert_rule import MAX_RULES, AlertRule, Definition, RuleActivityType, RuleStatus, Trigger
from models.alert_rules.enums import Dataset, QueryType, ThresholdType
from models.alert_rules.validation import RuleDraft, event_types_error, query_error, threshold_error
from models.enums import JSON, Feature
from models.incidents.mentions import Owner, resolve_owner
from models.refusals import InvalidFields, ListRefusal
from tasks.commands.alert_rules import CreateRule, DeleteRule, RuleFields, UpdateRule
from tasks.events import AlertRuleCreated, AlertRuleDeleted, AlertRuleUpdated
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import MentionFacts
from workers.domain.alert_rules import (
    build_trigger,
    check_project_access,
    close_open_incidents,
    current_rule_json,
    draft_of,
    emit_rule_event,
    find_projects,
    record_rule_activity,
    redefine,
    require_project,
    require_rule,
    rule_error,
)

_NOTHING_YET: Final = Definition(
    name="",
    query_type=QueryType.ERROR,
    dataset=Dataset.EVENTS,
    query="",
    aggregate="",
    event_types=(),
    time_window=1,
    environment=None,
    threshold_type=ThresholdType.ABOVE,
    resolve_threshold=None,
    threshold_period=1,
    comparison_delta=None,
)


class _Named(NamedTuple):
    """Who and what a rule names, found: ids of its projects, its owner, slugs of projects left out."""

    projects: frozenset[int]
    owner: Owner
    excluded: tuple[str, ...]


def create_rule(command: CreateRule, context: CommandContext) -> CommandResult:
    """Watch something from now on, unless the organization watches too much already."""
    named = _named(command, context, None)
    draft = _draft(command, context, None)
    counts = context.facts.rules.rule_counts
    if counts[context.organization.id] >= MAX_RULES:
        raise ListRefusal(f"You may not exceed {MAX_RULES} metric alerts per organization")

    id_ = context.facts.rules.new_ids.pop()
    rule = AlertRule(
        id=id_,
        organization_id=context.organization.id,
        status=RuleStatus.PENDING,
        version=1,
        generation=1,
        event_sequence=0,
        created_by=context.actor.user_id,
        definition=_definition(command, draft, named, _NOTHING_YET, context),
        date_added=context.accepted_at,
        date_modified=context.accepted_at,
        projects=named.projects,
    )
    counts[context.organization.id] += 1
    context.facts.rules.rules[id_] = rule
    context.changes.rules.created.append(rule)
    _name_environment(rule, context)
    record_rule_activity(rule, RuleActivityType.CREATED, context)
    emit_rule_event(rule, context, AlertRuleCreated)
    return CommandResult(201, current_rule_json(rule, context))


def update_rule(command: UpdateRule, context: CommandContext) -> CommandResult:
    """Watch something else from now on; what the rule holds open ends."""
    rule = require_rule(command.alert_rule, context, in_project=command.in_project)
    context.require_version(rule.version)
    named = _named(command, context, rule)
    draft = _draft(command, context, rule)
    definition = _definition(command, draft, named, rule.definition, context)

    redefine(rule, definition, context)
    rule.projects = named.projects
    _name_environment(rule, context)
    emit_rule_event(rule, context, AlertRuleUpdated)
    return CommandResult(200, current_rule_json(rule, context))


def delete_rule(command: DeleteRule, context: CommandContext) -> CommandResult:
    """Watch it no more. A rule that found nothing leaves nothing behind; of others, incidents keep what they said."""
    rule = require_rule(command.alert_rule, context, in_project=command.in_project)
    context.require_version(rule.version)

    close_open_incidents(rule, context)
    rule.delete(at=context.accepted_at)
    if context.facts.last_generation_with_incident(rule.id) is None:
        context.changes.rules.purged.append(rule.id)
    else:
        record_rule_activity(rule, RuleActivityType.DELETED, context)
    counts = context.facts.rules.rule_counts
    if context.organization.id in counts:
        counts[context.organization.id] -= 1
    emit_rule_event(rule, context, AlertRuleDeleted)
    return CommandResult(204)


# --- what it names ----------------------------------------------------------------------------------------------


def _named(command: RuleFields, context: CommandContext, rule: AlertRule | None) -> _Named:
    """What the rule names, where it is left out as it stands.

    :raises Refusal: some of it does not exist, or the actor does not reach it.
    """
    wrongs: dict[str, JSON] = {}
    projects = frozenset[int]() if rule is None else rule.projects
    if command.in_project is not None:
        project = require_project(command.in_project, context)
        check_project_access(project, context)
        projects = frozenset({project.facts.id})
    elif command.projects:
        found, wrong = find_projects(command.projects, context)
        projects = frozenset(project.facts.id for project in found)
        wrongs |= {"projects": [wrong]} if wrong else {}
    left_out, wrong = find_projects(command.excluded_projects, context)
    wrongs |= {"excludedProjects": [wrong]} if wrong else {}
    owner = Owner()
    try:
        owner = resolve_owner(
            command.owner, MentionFacts(context.facts, context.organization.id), organization=context.organization.id
        )
    except InvalidFields as invalid:
        wrongs |= invalid.body
    if wrongs:
        raise InvalidFields(wrongs)
    return _Named(projects, owner, tuple(sorted({project.slug for project in left_out})))


def _name_environment(rule: AlertRule, context: CommandContext) -> None:
    if rule.definition.environment is not None:
        context.changes.rules.environments.add((rule.organization_id, rule.definition.environment))


# --- what it says -----------------------------------------------------------------------------------------------


def _draft(command: RuleFields, context: CommandContext, rule: AlertRule | None) -> RuleDraft:
    """What of the rule has to fit together, after it was changed.

    :raises InvalidFields: it does not, or the organization's plan does not include it.
    """
    draft = command.apply_to(RuleDraft() if rule is None else draft_of(rule.definition))
    is_metric = draft.dataset is Dataset.PERFORMANCEMETRICS
    if is_metric and not context.organization.has(Feature.GENERIC_METRICS):
        raise rule_error("This project does not have access to the `generic_metrics` dataset")
    for sentence in (query_error(draft), event_types_error(draft), threshold_error(draft)):
        if sentence:
            raise rule_error(sentence)
    return draft


def _definition(
    command: RuleFields, draft: RuleDraft, named: _Named, standing: Definition, context: CommandContext
) -> Definition:
    said = command.model_fields_set
    own = {
        "name": command.rule_name,
        "environment": command.environment,
        "threshold_period": command.threshold_period,
        "activation_condition": command.activation_condition,
        "include_all_projects": command.include_all_projects,
    }
    changes: dict[str, Any] = {name: value for name, value in own.items() if _FIELDS.get(name, name) in said}
    if "owner" in said:
        changes |= {"owner_user": named.owner.user, "owner_team": named.owner.team}
    if "excluded_projects" in said:
        changes["excluded_projects"] = named.excluded
    # Blank leaves a description as it is, as it did in the API that we give back; null takes it away.
    if "description" in said and command.description != "":
        changes["description"] = command.description
    # A rule stays of the kind that it was made.
    if isinstance(command, CreateRule):
        changes["monitor_type"] = command.monitor_type
    changes |= {
        "query": command.query,
        "query_type": draft.query_type,
        "dataset": draft.dataset.value,
        "aggregate": draft.aggregate,
        "event_types": tuple(each.value for each in draft.event_types),
        "time_window": draft.time_window,
        "threshold_type": draft.threshold_type,
        "resolve_threshold": draft.stored(draft.resolve_threshold),
        "comparison_delta": draft.comparison_delta,
    }
    return standing.model_copy(update=changes).with_triggers(_triggers(command, draft, standing, context))


_FIELDS: Final = {"name": "rule_name"}


def _triggers(command: RuleFields, draft: RuleDraft, standing: Definition, context: CommandContext) -> list[Trigger]:
    left = {trigger.id: trigger for trigger in standing.triggers}
    made = []
    for spec in command.triggers:
        known = None
        if spec.id is not None and (known := left.pop(spec.id, None)) is None:
            raise rule_error("Trigger does not exist")
        made.append(build_trigger(spec, known, draft, context))
    return made
