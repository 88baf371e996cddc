"""Handlers that create, update and delete alert rules."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from models.alert_rules.alert_rule import MAX_RULES, AlertRule, Definition, RuleActivityType, RuleStatus, Trigger
from models.alert_rules.consistency import RuleDraft, event_types_error, query_error, reach_error, threshold_error
from models.alert_rules.enums import Dataset, QueryType, ThresholdType
from models.enums import Feature
from models.incidents.mentions import Owner, resolve_owner
from models.refusals import InvalidFields, ListRefusal
from models.types import JSON
from tasks.commands.alert_rules import CreateRule, DeleteRule, RuleFields, UpdateRule
from tasks.events import AlertRuleCreated, AlertRuleDeleted, AlertRuleUpdated
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import BatchMentionFacts
from workers.batch.handler import handles
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

_BLANK: Final = Definition(
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


class _References(NamedTuple):
    """A rule's references: the ids of its projects, its owner, and the slugs of its excluded projects."""

    projects: frozenset[int]
    owner: Owner
    excluded: tuple[str, ...]


@handles(
    CreateRule,
    needs.rule_count,
    needs.new_rule_ids,
    needs.action_targets,
    needs.rule_owner,
    needs.projects,
    needs.project_of_path,
    needs.excluded_projects,
)
def create_rule(command: CreateRule, context: CommandContext) -> CommandResult:
    """Create an alert rule.

    :raises ListRefusal: if the organization already has :data:`MAX_RULES` rules.
    """
    references = _resolve_references(command, context, None)
    draft = _check_draft(command, context, None)
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
        # Only a new rule takes the monitor type from the command; an update cannot change it.
        definition=_definition(
            command, draft, references, _BLANK.model_copy(update={"monitor_type": command.monitor_type}), context
        ),
        date_added=context.accepted_at,
        date_modified=context.accepted_at,
        projects=references.projects,
    )
    counts[context.organization.id] += 1
    context.facts.rules.by_id[id_] = rule
    context.changes.rules.created.append(rule)
    _add_environment(rule, context)
    record_rule_activity(rule, RuleActivityType.CREATED, context)
    emit_rule_event(rule, context, AlertRuleCreated)
    return CommandResult(201, current_rule_json(rule, context))


@handles(
    UpdateRule,
    needs.rule,
    needs.incidents_of_rule,
    needs.new_rule_ids,
    needs.action_targets,
    needs.rule_owner,
    needs.projects,
    needs.project_of_path,
    needs.excluded_projects,
)
def update_rule(command: UpdateRule, context: CommandContext) -> CommandResult:
    """Update an alert rule. This starts a new generation of the rule and closes its open incidents.

    An update that changes nothing has no effect. Triggers and actions that are sent without their ids replace the
    current ones, which is a change.
    """
    rule = require_rule(command.alert_rule, context, in_project=command.in_project)
    context.require_version(rule.version)
    references = _resolve_references(command, context, rule)
    draft = _check_draft(command, context, rule)
    definition = _definition(command, draft, references, rule.definition, context)
    if definition == rule.definition and references.projects == rule.projects:
        return CommandResult(200, current_rule_json(rule, context))

    redefine(rule, definition, context)
    rule.projects = references.projects
    _add_environment(rule, context)
    emit_rule_event(rule, context, AlertRuleUpdated)
    return CommandResult(200, current_rule_json(rule, context))


@handles(DeleteRule, needs.rule, needs.incidents_of_rule, needs.project_of_path)
def delete_rule(command: DeleteRule, context: CommandContext) -> CommandResult:
    """Delete an alert rule and close its open incidents.

    A rule that never opened an incident is purged. The incidents of any other rule keep a snapshot of it.
    """
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


# --- references -------------------------------------------------------------------------------------------------


def _resolve_references(command: RuleFields, context: CommandContext, rule: AlertRule | None) -> _References:
    """Resolve the command's references. If the command names no projects, the rule keeps its current ones.

    :raises Refusal: if a reference does not exist or is not accessible to the actor.
    """
    errors: dict[str, JSON] = {}
    reasons: tuple[tuple[str, str], ...] = ()
    projects = frozenset[int]() if rule is None else rule.projects
    if command.in_project is not None:
        project = require_project(command.in_project, context)
        check_project_access(project, context)
        projects = frozenset({project.facts.id})
    elif command.projects:
        found, error = find_projects(command.projects, context)
        projects = frozenset(project.facts.id for project in found)
        errors |= {"projects": [error]} if error else {}
    excluded, error = find_projects(command.excluded_projects, context)
    errors |= {"excludedProjects": [error]} if error else {}
    owner = Owner()
    try:
        owner = resolve_owner(
            command.owner,
            BatchMentionFacts(context.facts, context.organization.id),
            organization=context.organization.id,
        )
    except InvalidFields as invalid:
        errors |= invalid.body
        # The precise reasons replace the list of errors, so they say all only if there is no other error.
        reasons = invalid.reasons if errors.keys() == invalid.body.keys() else ()
    if errors:
        raise InvalidFields(errors, reasons)
    return _References(projects, owner, tuple(sorted({project.slug for project in excluded})))


def _add_environment(rule: AlertRule, context: CommandContext) -> None:
    if rule.definition.environment is not None:
        context.changes.rules.environments.add((rule.organization_id, rule.definition.environment))


# --- definition -------------------------------------------------------------------------------------------------


def _check_draft(command: RuleFields, context: CommandContext, rule: AlertRule | None) -> RuleDraft:
    """Return the rule's interdependent fields as they will be after the command.

    :raises InvalidFields: if the fields are inconsistent, or if the organization's plan does not include the dataset.
    """
    draft = command.apply_to(RuleDraft() if rule is None else draft_of(rule.definition))
    is_generic = draft.dataset is Dataset.PERFORMANCEMETRICS
    if is_generic and not context.organization.has(Feature.GENERIC_METRICS):
        raise rule_error("This project does not have access to the `generic_metrics` dataset")
    for error in (query_error(draft), event_types_error(draft), threshold_error(draft), reach_error(draft)):
        if error:
            raise rule_error(error)
    return draft


def _definition(
    command: RuleFields, draft: RuleDraft, references: _References, current: Definition, context: CommandContext
) -> Definition:
    sent = command.model_fields_set
    plain = {
        "name": command.rule_name,
        "environment": command.environment,
        "threshold_period": command.threshold_period,
        "activation_condition": command.activation_condition,
        "include_all_projects": command.include_all_projects,
    }
    changes: dict[str, Any] = {name: value for name, value in plain.items() if _FIELDS.get(name, name) in sent}
    if "owner" in sent:
        changes |= {"owner_user": references.owner.user, "owner_team": references.owner.team}
    if "excluded_projects" in sent:
        changes["excluded_projects"] = references.excluded
    # As in Sentry's incident API, a blank description leaves the current one unchanged, and null removes it.
    if "description" in sent and command.description != "":
        changes["description"] = command.description
    changes |= {
        "query": command.query,
        "query_type": draft.query_type,
        "dataset": draft.dataset.value,
        "aggregate": draft.aggregate,
        "event_types": tuple(each.value for each in draft.event_types),
        "time_window": draft.time_window,
        "threshold_type": draft.threshold_type,
        "resolve_threshold": draft.stored_threshold(draft.resolve_threshold),
        "comparison_delta": draft.comparison_delta,
    }
    return current.model_copy(update=changes).with_triggers(_triggers(command, draft, current, context))


_FIELDS: Final = {"name": "rule_name"}


def _triggers(command: RuleFields, draft: RuleDraft, current: Definition, context: CommandContext) -> list[Trigger]:
    remaining = {trigger.id: trigger for trigger in current.triggers}
    triggers = []
    for spec in command.triggers:
        known = None
        if spec.id is not None and (known := remaining.pop(spec.id, None)) is None:
            raise rule_error("Trigger does not exist")
        triggers.append(build_trigger(spec, known, draft, context))
    return triggers
