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
from workers.batch.context import Work
from workers.batch.facts import Project


def does_not_fit(sentence: str) -> InvalidFields:
    """A refusal of the whole, in one sentence."""
    return InvalidFields({RULE_OBJECT_ERRORS_KEY: [sentence]})


# --- which ------------------------------------------------------------------------------------------------------


def project_at(slug: str, work: Work) -> Project:
    """The project of the address.

    :raises NotFound: there is none, or it is not in use.
    """
    project = work.world.by_slug.get((work.organization.id, slug))
    if project is None or not project.facts.active:
        raise NotFound
    return project


def require_project(project: Project, work: Work) -> None:
    """Step 11, for an address that names a project.

    :raises Forbidden: the actor does not reach it.
    """
    require_project_access(work.actor, work.organization, [project.facts])


def rule_at(id_: int, work: Work, *, in_project: str | None = None) -> AlertRule:
    """The live rule of this id, in the organization or among a project's, if the actor reaches it.

    :raises NotFound: there is none.
    :raises Forbidden: the actor reaches none of its projects, or not the project named.
    """
    project = None if in_project is None else project_at(in_project, work)
    rule = work.world.rulebook.rule(work.organization.id, id_)
    if rule is None or (project is not None and project.facts.id not in rule.projects):
        raise NotFound
    if project is not None:
        require_project(project, work)
    else:
        require_access(rule, work)
    return rule


def require_access(rule: AlertRule, work: Work) -> None:
    """Step 11.

    :raises Forbidden: the actor reaches none of the rule's projects.
    """
    require_project_access(work.actor, work.organization, [work.world.projects[id_].facts for id_ in rule.projects])


def trigger_at(rule: AlertRule, id_: int) -> Trigger:
    """A trigger of the rule.

    :raises NotFound: it has none of this id.
    """
    trigger = rule.definition.trigger(id_)
    if trigger is None:
        raise NotFound
    return trigger


def projects_named(slugs: Iterable[str], work: Work) -> tuple[list[Project], str | None]:
    """The projects of these slugs that the actor may watch, and what is wrong with the first other one."""
    projects: list[Project] = []
    for slug in slugs:
        project = work.world.by_slug.get((work.organization.id, slug))
        if project is None or not project.facts.active:
            return projects, "Invalid project"
        if not has_project_access(work.actor, work.organization, project.facts):
            return projects, "Insufficient access to project"
        projects.append(project)
    return projects, None


# --- what it says -----------------------------------------------------------------------------------------------


def saying_of(definition: Definition) -> RuleDraft:
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


def trigger_of(spec: TriggerSpec | CreateTrigger, known: Trigger | None, saying: RuleDraft, work: Work) -> Trigger:
    """A trigger as it is asked for; of a known one, what is left out stays.

    :raises Refusal: somebody whom it shall tell cannot be told, or an action that it names is none of its own.
    """
    said = spec.model_fields_set
    threshold = saying.stored_threshold(spec.alert_threshold)
    trigger = known or Trigger(id=work.world.rulebook.new_ids.pop(), label="", threshold=0.0, date_added=work.at)
    changes: dict[str, object] = {}
    if "label" in said:
        changes["label"] = spec.label
    if "alert_threshold" in said:
        changes["threshold"] = threshold
    if "excluded_projects" in said:
        changes["excluded_projects"] = _excluded(spec.excluded_projects, work)
    if "actions" in said:
        changes["actions"] = _actions(spec.actions, trigger.actions, work)
    return trigger.model_copy(update=changes)


def _actions(specs: Sequence[ActionSpec], standing: Iterable[Action], work: Work) -> tuple[Action, ...]:
    left = {action.id: action for action in standing}
    made = []
    for spec in specs:
        known = None
        if spec.id is not None and (known := left.pop(spec.id, None)) is None:
            raise does_not_fit("Action does not exist")
        made.append(action_of(spec, known, work))
    return tuple(made)


def action_of(spec: ActionSpec, known: Action | None, work: Work) -> Action:
    """An action as it is asked for.

    :raises Refusal: whom it shall tell cannot be told.
    """
    return Action(
        id=known.id if known else work.world.rulebook.new_ids.pop(),
        type=ActionType(spec.type),
        target_type=TargetType(spec.target_type),
        target=_target(spec, work),
        date_added=known.date_added if known else work.at,
    )


def _target(spec: ActionSpec, work: Work) -> str:
    if spec.target_type == TargetType.SPECIFIC:
        return spec.target_identifier
    id_ = identifier(spec.target_identifier) or 0
    if spec.target_type == TargetType.TEAM:
        team = work.world.rulebook.teams.get(id_)
        if team is None or not has_team_access(work.actor, work.organization, team.facts):
            raise does_not_fit("Team does not exist")
    elif (work.organization.id, id_) not in work.world.members:
        raise ListRefusal("User does not belong to this organization")
    return str(id_)


def _excluded(slugs: Sequence[str], work: Work) -> tuple[str, ...]:
    projects, wrong = projects_named(slugs, work)
    if wrong:
        raise InvalidFields({"excludedProjects": [wrong]})
    return tuple(sorted({project.slug for project in projects}))


def require_thresholds(definition: Definition) -> None:
    """No value may both alert and resolve.

    :raises InvalidFields: one would.
    """
    if sentence := threshold_error(saying_of(definition)):
        raise does_not_fit(sentence)


# --- what follows -----------------------------------------------------------------------------------------------


def redefine(rule: AlertRule, definition: Definition, work: Work) -> None:
    """Let the rule say something else: a generation is over, and what it holds open ends."""
    rules = work.changes.rules
    rules.outlived.append((rule.id, rule.generation, rule.definition, rule.date_modified))
    work.world.rulebook.outlive(rule)
    end_incidents(rule, work)
    if work.world.last_found(rule.id) == rule.generation:
        happened(rule, RuleActivityType.SNAPSHOT, work)
    rule.redefine(definition, at=work.at)
    happened(rule, RuleActivityType.UPDATED, work)


def amend(rule: AlertRule, definition: Definition, work: Work) -> None:
    """Let the rule tell others; nothing ends."""
    rule.amend(definition, at=work.at)
    happened(rule, RuleActivityType.UPDATED, work)


def end_incidents(rule: AlertRule, work: Work) -> None:
    """Have everything closed that the rule holds open."""
    for number in work.world.held_open_by(rule):
        work.follow_up(SetStatus(incident=str(number), status=IncidentStatus.CLOSED, comment=AUTO_RESOLVED))


def happened(rule: AlertRule, what: RuleActivityType, work: Work) -> None:
    """Keep on record what happened to the rule, and by whom."""
    work.changes.rules.happened.append((rule.id, work.actor.user_id, what, work.at))


def announce(rule: AlertRule, work: Work, event: type[AlertRuleCreated]) -> None:
    """Tell the others."""
    slugs = sorted(work.world.projects[id_].slug for id_ in rule.projects)
    work.announce_of_rule(rule, event(projects=tuple(slugs)))


def show(rule: AlertRule, work: Work) -> JSON:
    """The rule, for the person who asks."""
    is_snoozed = work.world.rulebook.is_snoozed(rule.id, work.actor.user_id, work.at)
    return rule_json(RuleSnapshot.current(rule), work.world.rule_names, is_snoozed=is_snoozed)
