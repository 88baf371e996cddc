"""Operations on alert rules that several handlers share: lookups, definitions and new generations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from models.alert_rules.alert_rule import Action, AlertRule, Definition, RuleActivityType, Trigger
from models.alert_rules.consistency import RuleDraft, reach_error, threshold_error
from models.alert_rules.enums import ActionType, Dataset, EventType, TargetType
from models.alert_rules.serializers import RuleSnapshot, rule_json, shown_threshold
from models.directory.policy_facts import NamedProject
from models.enums import IncidentStatus
from models.policy import has_project_access, has_team_access, require_project_access
from models.refusals import InvalidFields, ListRefusal, NotFound
from models.types import JSON
from tasks.commands.fields import identifier
from tasks.commands.incidents import SetStatus
from tasks.commands.rule_fields import RULE_OBJECT_ERRORS_KEY, ActionSpec, TriggerSpec
from tasks.commands.triggers import CreateTrigger
from tasks.events import AlertRuleCreated
from workers.batch.changes import ArchivedGeneration, NewRuleActivity
from workers.batch.context import CommandContext

AUTO_RESOLVED: Final = (
    "This alert has been auto-resolved because the rule that triggered it has been modified or deleted."
)
"""The comment that is added to an incident when it is closed because its rule was changed or deleted."""


def rule_error(message: str) -> InvalidFields:
    """Return a refusal with an error about the rule as a whole."""
    return InvalidFields({RULE_OBJECT_ERRORS_KEY: [message]})


# --- lookups ---------------------------------------------------------------------------------------------------


def require_project(slug: str, context: CommandContext) -> NamedProject:
    """Return the project that the endpoint's path names.

    :raises NotFound: if there is no such project, or if it is not active.
    """
    project = context.facts.find_active_project(context.organization.id, slug)
    if project is None:
        raise NotFound
    return project


def check_project_access(project: NamedProject, context: CommandContext) -> None:
    """Require access to the project in the endpoint's path: check 11 (docs/messages.md).

    :raises Forbidden: if the actor has no access to it.
    """
    require_project_access(context.actor, context.organization, [project.facts])


def require_rule(id_: int, context: CommandContext, *, in_project: str | None = None) -> AlertRule:
    """Return the organization's live rule with this id. If ``in_project`` names a project, the rule must belong to it.

    :raises NotFound: if there is no such rule or no such active project.
    :raises Forbidden: if the actor has no access to that project or, if none is given, to any of the rule's projects.
    """
    project = None if in_project is None else require_project(in_project, context)
    rule = context.facts.rules.find_rule(context.organization.id, id_)
    if rule is None or (project is not None and project.facts.id not in rule.projects):
        raise NotFound
    if project is not None:
        check_project_access(project, context)
    else:
        check_rule_access(rule, context)
    return rule


def check_rule_access(rule: AlertRule, context: CommandContext) -> None:
    """Require access to at least one of the rule's projects: check 11 (docs/messages.md).

    :raises Forbidden: if the actor has access to none of them.
    """
    require_project_access(
        context.actor, context.organization, [context.facts.projects[id_].facts for id_ in rule.projects]
    )


def require_trigger(rule: AlertRule, id_: int) -> Trigger:
    """Return the rule's trigger with this id.

    :raises NotFound: if the rule has no such trigger.
    """
    trigger = rule.definition.trigger(id_)
    if trigger is None:
        raise NotFound
    return trigger


def find_projects(slugs: Iterable[str], context: CommandContext) -> tuple[list[NamedProject], str | None]:
    """Return the projects with these slugs, and an error for the first that is inactive or not accessible, if any.

    If there is an error, only the projects before that one are returned.
    """
    projects: list[NamedProject] = []
    for slug in slugs:
        project = context.facts.find_active_project(context.organization.id, slug)
        if project is None:
            return projects, "Invalid project"
        if not has_project_access(context.actor, context.organization, project.facts):
            return projects, "Insufficient access to project"
        projects.append(project)
    return projects, None


# --- definitions ------------------------------------------------------------------------------------------------


def draft_of(definition: Definition) -> RuleDraft:
    """Return those fields of an existing rule that must be consistent with each other, in user-facing units."""
    return RuleDraft(
        query_type=definition.query_type,
        dataset=Dataset(definition.dataset),
        event_types=tuple(EventType(each) for each in definition.event_types),
        aggregate=definition.aggregate,
        time_window=definition.time_window,
        threshold_type=definition.threshold_type,
        resolve_threshold=shown_threshold(definition, definition.resolve_threshold),
        comparison_delta=definition.comparison_delta,
        thresholds=tuple(
            (trigger.label, shown_threshold(definition, trigger.threshold) or 0.0) for trigger in definition.triggers
        ),
    )


def build_trigger(
    spec: TriggerSpec | CreateTrigger, known: Trigger | None, draft: RuleDraft, context: CommandContext
) -> Trigger:
    """Build a new trigger, or update a known one with the fields that were sent.

    :raises Refusal: if an action's target or an excluded project does not exist or is not accessible, or if an action
        to update does not belong to the trigger.
    """
    sent = spec.model_fields_set
    threshold = draft.stored_threshold(spec.alert_threshold)
    trigger = known or Trigger(
        id=context.facts.rules.new_ids.pop(), label="", threshold=0.0, date_added=context.accepted_at
    )
    changes: dict[str, object] = {}
    if "label" in sent:
        changes["label"] = spec.label
    if "alert_threshold" in sent:
        changes["threshold"] = threshold
    if "excluded_projects" in sent:
        changes["excluded_projects"] = _excluded(spec.excluded_projects, context)
    if "actions" in sent:
        changes["actions"] = _actions(spec.actions, trigger.actions, context)
    return trigger.model_copy(update=changes)


def _actions(specs: Sequence[ActionSpec], current: Iterable[Action], context: CommandContext) -> tuple[Action, ...]:
    remaining = {action.id: action for action in current}
    actions = []
    for spec in specs:
        known = None
        if spec.id is not None and (known := remaining.pop(spec.id, None)) is None:
            raise rule_error("Action does not exist")
        actions.append(build_action(spec, known, context))
    return tuple(actions)


def build_action(spec: ActionSpec, known: Action | None, context: CommandContext) -> Action:
    """Build a new action, or replace a known one.

    :raises Refusal: if the action's target does not exist, or is a team to which the actor has no access.
    """
    return Action(
        id=known.id if known else context.facts.rules.new_ids.pop(),
        type=ActionType(spec.type),
        target_type=TargetType(spec.target_type),
        target=_target(spec, context),
        date_added=known.date_added if known else context.accepted_at,
    )


def _target(spec: ActionSpec, context: CommandContext) -> str:
    if spec.target_type == TargetType.SPECIFIC:
        return spec.target_identifier
    id_ = identifier(spec.target_identifier) or 0
    if spec.target_type == TargetType.TEAM:
        team = context.facts.rules.teams.get(id_)
        if team is None or not has_team_access(context.actor, context.organization, team.facts):
            raise rule_error("Team does not exist")
    elif (context.organization.id, id_) not in context.facts.members:
        raise ListRefusal("User does not belong to this organization")
    return str(id_)


def _excluded(slugs: Sequence[str], context: CommandContext) -> tuple[str, ...]:
    projects, error = find_projects(slugs, context)
    if error:
        raise InvalidFields({"excludedProjects": [error]})
    return tuple(sorted({project.slug for project in projects}))


def check_thresholds(definition: Definition) -> None:
    """Require that every trigger can fire, and that no value can both fire and resolve one.

    :raises InvalidFields: if a value could do both, or none could fire a trigger.
    """
    draft = draft_of(definition)
    if error := threshold_error(draft) or reach_error(draft):
        raise rule_error(error)


# --- changes ----------------------------------------------------------------------------------------------------


def redefine(rule: AlertRule, definition: Definition, context: CommandContext) -> None:
    """Start a new generation of the rule: archive the current generation and close the rule's open incidents."""
    archived = ArchivedGeneration(rule.id, rule.generation, rule.definition, rule.date_modified)
    context.changes.rules.archived_generations.append(archived)
    context.facts.rules.archive_generation(rule)
    close_open_incidents(rule, context)
    if context.facts.last_generation_with_incident(rule.id) == rule.generation:
        record_rule_activity(rule, RuleActivityType.SNAPSHOT, context)
    rule.redefine(definition, at=context.accepted_at)
    record_rule_activity(rule, RuleActivityType.UPDATED, context)


def amend(rule: AlertRule, definition: Definition, context: CommandContext) -> None:
    """Change whom the rule notifies, within the same generation. Open incidents stay open."""
    rule.amend(definition, at=context.accepted_at)
    record_rule_activity(rule, RuleActivityType.UPDATED, context)


def close_open_incidents(rule: AlertRule, context: CommandContext) -> None:
    """Add to the ledger, for each of the rule's open incidents, a system command that closes it."""
    for identifier_ in context.facts.open_identifiers_of_rule(rule):
        context.follow_up(SetStatus(incident=str(identifier_), status=IncidentStatus.CLOSED, comment=AUTO_RESOLVED))


def record_rule_activity(rule: AlertRule, kind: RuleActivityType, context: CommandContext) -> None:
    """Add an entry to the rule's history, with the actor as its author."""
    activity = NewRuleActivity(rule.id, context.actor.user_id, kind, context.accepted_at)
    context.changes.rules.activities.append(activity)


def emit_rule_event(rule: AlertRule, context: CommandContext, event_class: type[AlertRuleCreated]) -> None:
    """Emit an event of this class about the rule, with the slugs of the rule's projects."""
    slugs = sorted(context.facts.projects[id_].slug for id_ in rule.projects)
    context.emit_for_rule(rule, event_class(projects=tuple(slugs)))


def current_rule_json(rule: AlertRule, context: CommandContext) -> JSON:
    """Return the rule as its endpoint returns it to the actor."""
    is_snoozed = context.facts.rules.is_snoozed(rule.id, context.actor.user_id, context.accepted_at)
    return rule_json(RuleSnapshot.current(rule), context.facts.rule_references, is_snoozed=is_snoozed)
