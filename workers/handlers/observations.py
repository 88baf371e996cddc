"""What a value does: the incident that it opens, makes worse or better, or closes, and whom the rule tells of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.alert_rules.action_selection import select_on_change
from models.alert_rules.alert_rule import KEPT_OBSERVATIONS, AlertRule, TriggerStatus
from models.alert_rules.evaluation import (
    Evaluation,
    Ignored,
    Observation,
    TriggerTransition,
    evaluate,
    ignore,
    window_start,
)
from models.enums import JSON, Feature, IncidentStatus, StatusMethod
from models.incidents.incident import Incident
from models.policy import has_project_access
from models.refusals import Forbidden, InvalidFields, NotFound
from models.serializers import observed_json
from tasks.commands.observations import ObserveMetric
from tasks.events import TriggerFired, TriggerResolved
from workers.batch.changes import Observed
from workers.batch.context import Answer, Work
from workers.batch.facts import Project
from workers.batch.rule_facts import Hold
from workers.domain.incidents import Change, Opening, change_status, open_incident
from workers.domain.rule_actions import mark, take


def observe_metric(ask: ObserveMetric, work: Work) -> Answer:
    """Note the value and do what it means; 201 with what fired and what was resolved, 200 if it was ignored."""
    rule = _rule(ask, work)
    project = _project(ask, rule, work)
    case = _Case(ask, rule, project, work)
    standing = work.world.open_of_rule(rule, project.facts.id)
    verdict = case.judge(standing)
    incident = standing
    if verdict.transitions:
        # What follows from a value is nobody's act, whoever sent it.
        incident = _Case(ask, rule, project, work.by_tocsin_itself()).carry_out(verdict.transitions, standing)
    case.note(verdict, incident)
    shown = None if incident is None else work.show_listed(incident)
    return Answer(201 if verdict.ignored is None else 200, observed_json(verdict, incident=shown))


def _rule(ask: ObserveMetric, work: Work) -> AlertRule:
    rule = work.rule(ask.alert_rule)
    if rule is None:
        raise NotFound
    if not work.reaches(rule):
        raise Forbidden
    return rule


def _project(ask: ObserveMetric, rule: AlertRule, work: Work) -> Project:
    project = work.world.project_in_use(work.organization.id, ask.project)
    if project is None or project.facts.id not in rule.projects:
        raise InvalidFields({"project": ["Invalid project"]})
    if not has_project_access(work.actor, work.organization, project.facts):
        raise Forbidden
    return project


def _said(verdict: Evaluation) -> dict[str, JSON]:
    said: dict[str, JSON] = {"fired": verdict.fired, "resolved": verdict.resolved}
    return said if verdict.ignored is None else said | {"ignored": verdict.ignored.value}


@dataclass(frozen=True, slots=True)
class _Case:
    """A value and what it is a value of."""

    ask: ObserveMetric
    rule: AlertRule
    project: Project
    work: Work

    def judge(self, incident: Incident | None) -> Evaluation:
        said, book = self.rule.definition, self.work.world.rulebook
        progress = book.progress_of(self.rule, self.project.facts.id)
        if said.dataset == "transactions" and not self.work.organization.has(Feature.PERFORMANCE):
            return ignore(progress, Ignored.NOT_IN_PLAN)
        ask = self.ask
        seen = Observation(self.project.slug, ask.value, ask.timestamp, self.work.at, ask.comparison_value)
        return evaluate(said, progress, book.standing_of(incident), seen)

    def carry_out(self, steps: Sequence[TriggerTransition], incident: Incident | None) -> Incident | None:
        """One step after the other, then the actions, once for where they led; the incident that it is about now."""
        changes: dict[int, list[Change]] = {}
        for step in steps:
            if incident is None or not incident.is_open:
                incident = self._open()
            status = TriggerStatus.ACTIVE if step.fired else TriggerStatus.RESOLVED
            mark(incident, step.trigger.id, Hold(step.trigger.label, status), self.work)
            if step.severity is not None and step.severity is not incident.status:
                changes.setdefault(incident.identifier, []).append(self._change(incident, step.severity))
            self._announce(step, incident)
        for identifier, made in changes.items():
            self._tell(self.work.world.incidents[self.work.organization.id, identifier], made)
        return incident

    def _open(self) -> Incident:
        opening = Opening(
            title=self.rule.definition.name,
            projects=[self.project],
            date_started=window_start(self.rule.definition, self.ask.timestamp),
            date_detected=self.ask.timestamp,
            rule=self.rule,
        )
        return open_incident(opening, self.work)

    def _change(self, incident: Incident, new: IncidentStatus) -> Change:
        closed_at = window_start(self.rule.definition, self.ask.timestamp)
        return change_status(incident, new, self.work, by=StatusMethod.RULE_TRIGGERED, closed_at=closed_at)

    def _announce(self, step: TriggerTransition, incident: Incident) -> None:
        what = TriggerFired if step.fired else TriggerResolved
        event = what(step.trigger.id, step.trigger.label, self.project.slug, self.ask.value, self.ask.timestamp)
        self.work.announce_of_rule(self.rule, event, incident=incident)

    def _tell(self, incident: Incident, changes: Sequence[Change]) -> None:
        old, last = changes[0].old, changes[-1]
        if old is not last.new:
            was_critical = self.work.world.rulebook.was_critical(incident)
            fan_out = select_on_change(self.rule.definition, old, last.new, was_critical=was_critical)
            take(fan_out, self.rule, incident, last, self.work)

    def note(self, verdict: Evaluation, incident: Incident | None) -> None:
        """Where the rule stands now, and what the value did, for whoever asks why."""
        place, progress, metrics = (self.rule.id, self.project.facts.id), verdict.progress, self.work.changes.metrics
        self.work.world.rulebook.progress[place] = metrics.progress[place] = progress
        counted = {
            trigger.label: {"alerts": counter.alerts, "resolves": counter.resolves}
            for trigger in self.rule.definition.triggers
            if (counter := progress.counters.get(trigger.id)) is not None
        }
        result = _said(verdict) | {"incident": incident and str(incident.identifier), "counted": counted}
        metrics.observed[*place, progress.observed % KEPT_OBSERVATIONS] = Observed(
            *place,
            progress.observed,
            self.ask.timestamp,
            self.ask.value,
            self.ask.comparison_value,
            result,
            self.work.at,
        )
