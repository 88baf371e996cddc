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
from tasks.commands.observations import ObserveMetric
from tasks.events import TriggerFired, TriggerResolved
from workers.batch.changes import NewObservation
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import LoadedProject
from workers.batch.rule_facts import TriggerState
from workers.domain.incidents import NewIncident, StatusChange, change_status, create_incident
from workers.domain.rule_actions import plan_deliveries, set_trigger_state


def observe_metric(command: ObserveMetric, context: CommandContext) -> CommandResult:
    """Note the value and do what it means; 201 with what fired and what was resolved, 200 if it was ignored."""
    rule = _rule(command, context)
    project = _project(command, rule, context)
    case = _Case(command, rule, project, context)
    standing = context.facts.open_incident_of_rule(rule, project.facts.id)
    verdict = case.judge(standing)
    incident = standing
    if verdict.transitions:
        # What follows from a value is nobody's act, whoever sent it.
        incident = _Case(command, rule, project, context.as_system()).carry_out(verdict.transitions, standing)
    case.note(verdict, incident)
    shown = None if incident is None else context.listed_incident_json(incident)
    return CommandResult(201 if verdict.ignored is None else 200, _said(verdict) | {"incident": shown})


def _rule(command: ObserveMetric, context: CommandContext) -> AlertRule:
    rule = context.find_rule(command.alert_rule)
    if rule is None:
        raise NotFound
    if not context.can_read_rule(rule):
        raise Forbidden
    return rule


def _project(command: ObserveMetric, rule: AlertRule, context: CommandContext) -> LoadedProject:
    project = context.facts.find_active_project(context.organization.id, command.project)
    if project is None or project.facts.id not in rule.projects:
        raise InvalidFields({"project": ["Invalid project"]})
    if not has_project_access(context.actor, context.organization, project.facts):
        raise Forbidden
    return project


def _said(verdict: Evaluation) -> dict[str, JSON]:
    said: dict[str, JSON] = {"fired": verdict.fired, "resolved": verdict.resolved}
    return said if verdict.ignored is None else said | {"ignored": verdict.ignored.value}


@dataclass(frozen=True, slots=True)
class _Case:
    """A value and what it is a value of."""

    command: ObserveMetric
    rule: AlertRule
    project: LoadedProject
    context: CommandContext

    def judge(self, incident: Incident | None) -> Evaluation:
        said, book = self.rule.definition, self.context.facts.rules
        progress = book.progress_of(self.rule, self.project.facts.id)
        if said.dataset == "transactions" and not self.context.organization.has(Feature.PERFORMANCE):
            return ignore(progress, Ignored.NOT_IN_PLAN)
        command = self.command
        seen = Observation(
            self.project.slug, command.value, command.timestamp, self.context.accepted_at, command.comparison_value
        )
        return evaluate(said, progress, book.active_triggers_of(incident), seen)

    def carry_out(self, steps: Sequence[TriggerTransition], incident: Incident | None) -> Incident | None:
        """One step after the other, then the actions, once for where they led; the incident that it is about now."""
        changes: dict[int, list[StatusChange]] = {}
        for step in steps:
            if incident is None or not incident.is_open:
                incident = self._open()
            status = TriggerStatus.ACTIVE if step.fired else TriggerStatus.RESOLVED
            set_trigger_state(incident, step.trigger.id, TriggerState(step.trigger.label, status), self.context)
            if step.severity is not None and step.severity is not incident.status:
                changes.setdefault(incident.identifier, []).append(self._change(incident, step.severity))
            self._announce(step, incident)
        for identifier, made in changes.items():
            self._tell(self.context.facts.incidents[self.context.organization.id, identifier], made)
        return incident

    def _open(self) -> Incident:
        opening = NewIncident(
            title=self.rule.definition.name,
            projects=[self.project],
            date_started=window_start(self.rule.definition, self.command.timestamp),
            date_detected=self.command.timestamp,
            rule=self.rule,
        )
        return create_incident(opening, self.context)

    def _change(self, incident: Incident, new: IncidentStatus) -> StatusChange:
        closed_at = window_start(self.rule.definition, self.command.timestamp)
        return change_status(incident, new, self.context, by=StatusMethod.RULE_TRIGGERED, closed_at=closed_at)

    def _announce(self, step: TriggerTransition, incident: Incident) -> None:
        what = TriggerFired if step.fired else TriggerResolved
        event = what(step.trigger.id, step.trigger.label, self.project.slug, self.command.value, self.command.timestamp)
        self.context.emit_for_rule(self.rule, event, incident=incident)

    def _tell(self, incident: Incident, changes: Sequence[StatusChange]) -> None:
        old, last = changes[0].old, changes[-1]
        if old is not last.new:
            was_critical = self.context.facts.rules.was_critical(incident)
            selection = select_on_change(self.rule.definition, old, last.new, was_critical=was_critical)
            plan_deliveries(selection, self.rule, incident, last, self.context)

    def note(self, verdict: Evaluation, incident: Incident | None) -> None:
        """Where the rule stands now, and what the value did, for whoever asks why."""
        place, progress, metrics = (
            (self.rule.id, self.project.facts.id),
            verdict.progress,
            self.context.changes.observed,
        )
        self.context.facts.rules.progress[place] = metrics.progress[place] = progress
        counted = {
            trigger.label: {"alerts": counter.alerts, "resolves": counter.resolves}
            for trigger in self.rule.definition.triggers
            if (counter := progress.counters.get(trigger.id)) is not None
        }
        result = _said(verdict) | {"incident": incident and str(incident.identifier), "counted": counted}
        metrics.observations[*place, progress.observed % KEPT_OBSERVATIONS] = NewObservation(
            *place,
            progress.observed,
            self.command.timestamp,
            self.command.value,
            self.command.comparison_value,
            result,
            self.context.accepted_at,
        )
