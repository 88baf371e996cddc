"""The life of an alert rule: what is watched, what is watched instead, and what is watched no more."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from models.alert_rules.alert_rule import MAX_RULES, AlertRule, Definition, RuleActivityType, RuleStatus, Trigger
from models.alert_rules.enums import Dataset, QueryType, ThresholdType
from models.alert_rules.validation import RuleDraft, event_types_error, query_error, threshold_error
from models.enums import JSON, Feature
from models.incidents.mentions import Owner, resolve_owner
from models.refusals import InvalidFields, ListRefusal
from tasks.commands.alert_rules import CreateRule, DeleteRule, RuleWords, UpdateRule
from tasks.events import AlertRuleCreated, AlertRuleDeleted, AlertRuleUpdated
from workers.batch.context import Answer, Work
from workers.batch.facts import MentionFacts
from workers.domain.alert_rules import (
    announce,
    does_not_fit,
    end_incidents,
    happened,
    project_at,
    projects_named,
    redefine,
    require_project,
    rule_at,
    saying_of,
    show,
    trigger_of,
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


def create_rule(ask: CreateRule, work: Work) -> Answer:
    """Watch something from now on, unless the organization watches too much already."""
    named = _named(ask, work, None)
    saying = _saying(ask, work, None)
    counts = work.world.rulebook.counts
    if counts[work.organization.id] >= MAX_RULES:
        raise ListRefusal(f"You may not exceed {MAX_RULES} metric alerts per organization")

    id_ = work.world.rulebook.new_ids.pop()
    rule = AlertRule(
        id=id_,
        organization_id=work.organization.id,
        status=RuleStatus.PENDING,
        version=1,
        generation=1,
        event_sequence=0,
        created_by=work.actor.user_id,
        definition=_definition(ask, saying, named, _NOTHING_YET, work),
        date_added=work.at,
        date_modified=work.at,
        projects=named.projects,
    )
    counts[work.organization.id] += 1
    work.world.rulebook.rules[id_] = rule
    work.changes.rules.made.append(rule)
    _name_environment(rule, work)
    happened(rule, RuleActivityType.CREATED, work)
    announce(rule, work, AlertRuleCreated)
    return Answer(201, show(rule, work))


def update_rule(ask: UpdateRule, work: Work) -> Answer:
    """Watch something else from now on; what the rule holds open ends."""
    rule = rule_at(ask.alert_rule, work, in_project=ask.in_project)
    work.require_version(rule.version)
    named = _named(ask, work, rule)
    saying = _saying(ask, work, rule)
    definition = _definition(ask, saying, named, rule.definition, work)

    redefine(rule, definition, work)
    rule.projects = named.projects
    _name_environment(rule, work)
    announce(rule, work, AlertRuleUpdated)
    return Answer(200, show(rule, work))


def delete_rule(ask: DeleteRule, work: Work) -> Answer:
    """Watch it no more. A rule that found nothing leaves nothing behind; of others, incidents keep what they said."""
    rule = rule_at(ask.alert_rule, work, in_project=ask.in_project)
    work.require_version(rule.version)

    end_incidents(rule, work)
    rule.delete(at=work.at)
    if work.world.last_found(rule.id) is None:
        work.changes.rules.purged.append(rule.id)
    else:
        happened(rule, RuleActivityType.DELETED, work)
    counts = work.world.rulebook.counts
    if work.organization.id in counts:
        counts[work.organization.id] -= 1
    announce(rule, work, AlertRuleDeleted)
    return Answer(204)


# --- what it names ----------------------------------------------------------------------------------------------


def _named(ask: RuleWords, work: Work, rule: AlertRule | None) -> _Named:
    """What the rule names, where it is left out as it stands.

    :raises Refusal: some of it does not exist, or the actor does not reach it.
    """
    wrongs: dict[str, JSON] = {}
    projects = frozenset[int]() if rule is None else rule.projects
    if ask.in_project is not None:
        project = project_at(ask.in_project, work)
        require_project(project, work)
        projects = frozenset({project.facts.id})
    elif ask.projects:
        found, wrong = projects_named(ask.projects, work)
        projects = frozenset(project.facts.id for project in found)
        wrongs |= {"projects": [wrong]} if wrong else {}
    left_out, wrong = projects_named(ask.excluded_projects, work)
    wrongs |= {"excludedProjects": [wrong]} if wrong else {}
    owner = Owner()
    try:
        owner = resolve_owner(
            ask.owner, MentionFacts(work.world, work.organization.id), organization=work.organization.id
        )
    except InvalidFields as invalid:
        wrongs |= invalid.body
    if wrongs:
        raise InvalidFields(wrongs)
    return _Named(projects, owner, tuple(sorted({project.slug for project in left_out})))


def _name_environment(rule: AlertRule, work: Work) -> None:
    if rule.definition.environment is not None:
        work.changes.rules.environments.add((rule.organization_id, rule.definition.environment))


# --- what it says -----------------------------------------------------------------------------------------------


def _saying(ask: RuleWords, work: Work, rule: AlertRule | None) -> RuleDraft:
    """What of the rule has to fit together, after it was changed.

    :raises InvalidFields: it does not, or the organization's plan does not include it.
    """
    saying = ask.saying(RuleDraft() if rule is None else saying_of(rule.definition))
    is_metric = saying.dataset is Dataset.PERFORMANCEMETRICS
    if is_metric and not work.organization.has(Feature.GENERIC_METRICS):
        raise does_not_fit("This project does not have access to the `generic_metrics` dataset")
    for sentence in (query_error(saying), event_types_error(saying), threshold_error(saying)):
        if sentence:
            raise does_not_fit(sentence)
    return saying


def _definition(ask: RuleWords, saying: RuleDraft, named: _Named, standing: Definition, work: Work) -> Definition:
    said = ask.model_fields_set
    own = {
        "name": ask.rule_name,
        "environment": ask.environment,
        "threshold_period": ask.threshold_period,
        "activation_condition": ask.activation_condition,
        "include_all_projects": ask.include_all_projects,
    }
    changes: dict[str, Any] = {name: value for name, value in own.items() if _FIELDS.get(name, name) in said}
    if "owner" in said:
        changes |= {"owner_user": named.owner.user, "owner_team": named.owner.team}
    if "excluded_projects" in said:
        changes["excluded_projects"] = named.excluded
    # Blank leaves a description as it is, as it did in the API that we give back; null takes it away.
    if "description" in said and ask.description != "":
        changes["description"] = ask.description
    # A rule stays of the kind that it was made.
    if isinstance(ask, CreateRule):
        changes["monitor_type"] = ask.monitor_type
    changes |= {
        "query": ask.query,
        "query_type": saying.query_type,
        "dataset": saying.dataset.value,
        "aggregate": saying.aggregate,
        "event_types": tuple(each.value for each in saying.event_types),
        "time_window": saying.time_window,
        "threshold_type": saying.threshold_type,
        "resolve_threshold": saying.stored_threshold(saying.resolve_threshold),
        "comparison_delta": saying.comparison_delta,
    }
    return standing.model_copy(update=changes).with_triggers(_triggers(ask, saying, standing, work))


_FIELDS: Final = {"name": "rule_name"}


def _triggers(ask: RuleWords, saying: RuleDraft, standing: Definition, work: Work) -> list[Trigger]:
    left = {trigger.id: trigger for trigger in standing.triggers}
    made = []
    for spec in ask.triggers:
        known = None
        if spec.id is not None and (known := left.pop(spec.id, None)) is None:
            raise does_not_fit("Trigger does not exist")
        made.append(trigger_of(spec, known, saying, work))
    return made
