"""What the handlers of alert rules share: which rule is meant, whom it may tell, and what its change ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.alert_rules.alert_rule import AUTO_RESOLVED, Action, AlertRule, Definition, RuleActivityType, Trigger
from models.alert_rules.enums import ActionType, Dataset, EventType, TargetType
from models.alert_rules.serializers import RuleSnapshot, rule_json, shown_threshold
from models.alert_rules.validation import RuleDraft, threshold_error
from models.enums import JSON, IncidentStatus
from models.policy import has_project_access, has_team_access, require_project_access
from models.refusals import InvalidFields, ListRefusal, NotFound
from tasks.commands.fields import identifier
from tasks.commands.incidents import SetStatus
from tasks.commands.rule_fields import RULE_OBJECT_ERRORS_KEY, ActionSpec, TriggerSpec
from tasks.commands.triggers import CreateTrigger
from tasks.events import AlertRuleCreated
from workers.batch.context import CommandContext
from workers.batch.facts import LoadedProject


def rule_error(sentence: str) -> InvalidFields:
    """A refusal of the whole, in one sentence."""
    return InvalidFields({RULE_OBJECT_ERRORS_KEY: [sentence]})


# --- which ------------------------------------------------------------------------------------------------------


def require_project(slug: str, context: CommandContext) -> LoadedProject:
    """The project of the address.

    :raises NotFound: there is none, or it is not in use.
    """
    project = context.facts.projects_by_slug.get((context.organization.id, slug))
    if project is None or not project.facts.active:
        raise NotFound
    return project


def check_project_access(project: LoadedProject, context: CommandContext) -> None:
    """Step 11, for an address that names a project.

    :raises Forbidden: the actor does not reach it.
    """
    require_project_access(context.actor, context.organization, [project.facts])


def require_rule(id_: int, context: CommandContext, *, in_project: str | None = None) -> AlertRule:
    """The live rule of this id, in the organization or among a project's, if the actor reaches it.

    :raises NotFound: there is none.
    :raises Forbidden: the actor reaches none of its projects, or not the project named.
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
    """Step 11.

    :raises Forbidden: the actor reaches none of the rule's projects.
    """
    require_project_access(
        context.actor, context.organization, [context.facts.projects[id_].facts for id_ in rule.projects]
    )


def require_trigger(rule: AlertRule, id_: int) -> Trigger:
    """A trigger of the rule.

    :raises NotFound: it has none of this id.
    """
    trigger = rule.definition.trigger(id_)
    if trigger is None:
        raise NotFound
    return trigger


def find_projects(slugs: Iterable[str], context: CommandContext) -> tuple[list[LoadedProject], str | None]:
    """The projects of these slugs that the actor may watch, and what is wrong with the first other one."""
    projects: list[LoadedProject] = []
    for slug in slugs:
        project = context.facts.projects_by_slug.get((context.organization.id, slug))
        if project is None or not project.facts.active:
            return projects, "Invalid project"
        if not has_project_access(context.actor, context.organization, project.facts):
            return projects, "Insufficient access to project"
        projects.append(project)
    return projects, None


# --- what it says -----------------------------------------------------------------------------------------------


def draft_of(definition: Definition) -> RuleDraft:
    """What of a standing rule has to fit together, as people would write it."""
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
    """A trigger as it is asked for; of a known one, what is left out stays.

    :raises Refusal: somebody whom it shall tell cannot be told, or an action that it names is none of its own.
    """
    said = spec.model_fields_set
    threshold = draft.stored(spec.alert_threshold)
    trigger = known or Trigger(
        id=context.facts.rules.new_ids.pop(), label="", threshold=0.0, date_added=context.accepted_at
    )
    changes: dict[str, object] = {}
    if "label" in said:
        changes["label"] = spec.label
    if "alert_threshold" in said:
        changes["threshold"] = threshold
    if "excluded_projects" in said:
        changes["excluded_projects"] = _excluded(spec.excluded_projects, context)
    if "actions" in said:
        changes["actions"] = _actions(spec.actions, trigger.actions, context)
    return trigger.model_copy(update=changes)


def _actions(specs: Sequence[ActionSpec], standing: Iterable[Action], context: CommandContext) -> tuple[Action, ...]:
    left = {action.id: action for action in standing}
    made = []
    for spec in specs:
        known = None
        if spec.id is not None and (known := left.pop(spec.id, None)) is None:
            raise rule_error("Action does not exist")
        made.append(build_action(spec, known, context))
    return tuple(made)


def build_action(spec: ActionSpec, known: Action | None, context: CommandContext) -> Action:
    """An action as it is asked for.

    :raises Refusal: whom it shall tell cannot be told.
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
    projects, wrong = find_projects(slugs, context)
    if wrong:
        raise InvalidFields({"excludedProjects": [wrong]})
    return tuple(sorted({project.slug for project in projects}))


def check_thresholds(definition: Definition) -> None:
    """No value may both alert and resolve.

    :raises InvalidFields: one would.
    """
    if sentence := threshold_error(draft_of(definition)):
        raise rule_error(sentence)


# --- what follows -----------------------------------------------------------------------------------------------


def redefine(rule: AlertRule, definition: Definition, context: CommandContext) -> None:
    """Let the rule say something else: a generation is over, and what it holds open ends."""
    rules = context.changes.rules
    rules.archived_generations.append((rule.id, rule.generation, rule.definition, rule.date_modified))
    context.facts.rules.archive_generation(rule)
    close_open_incidents(rule, context)
    if context.facts.last_generation_with_incident(rule.id) == rule.generation:
        record_rule_activity(rule, RuleActivityType.SNAPSHOT, context)
    rule.redefine(definition, at=context.accepted_at)
    record_rule_activity(rule, RuleActivityType.UPDATED, context)


def amend(rule: AlertRule, definition: Definition, context: CommandContext) -> None:
    """Let the rule tell others; nothing ends."""
    rule.amend(definition, at=context.accepted_at)
    record_rule_activity(rule, RuleActivityType.UPDATED, context)


def close_open_incidents(rule: AlertRule, context: CommandContext) -> None:
    """Have everything closed that the rule holds open."""
    for number in context.facts.open_identifiers_of_rule(rule):
        context.follow_up(SetStatus(incident=str(number), status=IncidentStatus.CLOSED, comment=AUTO_RESOLVED))


def record_rule_activity(rule: AlertRule, what: RuleActivityType, context: CommandContext) -> None:
    """Keep on record what happened to the rule, and by whom."""
    context.changes.rules.activities.append((rule.id, context.actor.user_id, what, context.accepted_at))


def emit_rule_event(rule: AlertRule, context: CommandContext, event: type[AlertRuleCreated]) -> None:
    """Tell the others."""
    slugs = sorted(context.facts.projects[id_].slug for id_ in rule.projects)
    context.emit_for_rule(rule, event(projects=tuple(slugs)))


def current_rule_json(rule: AlertRule, context: CommandContext) -> JSON:
    """The rule, for the person who asks."""
    is_snoozed = context.facts.rules.is_snoozed(rule.id, context.actor.user_id, context.accepted_at)
    return rule_json(RuleSnapshot.current(rule), context.facts.rule_references, is_snoozed=is_snoozed)
