"""The handler for observations: it evaluates a value, and opens, changes or closes the rule's incident accordingly."""

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
from models.directory.policy_facts import NamedProject
from models.enums import Feature, IncidentStatus, StatusMethod
from models.incidents.incident import Incident
from models.policy import has_project_access
from models.refusals import Forbidden, ForbiddenCode, InvalidFields, NotFound
from models.serializers.observations import observed_json
from models.types import JSON
from tasks.commands.observations import ObserveMetric
from tasks.events import TriggerFired, TriggerResolved
from workers.batch import needs
from workers.batch.changes import NewObservation
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.batch.rule_facts import TriggerState
from workers.domain.incidents import NewIncident, StatusChange, change_status, create_incident
from workers.domain.rule_actions import plan_deliveries, set_trigger_state


@handles(ObserveMetric, needs.rule, needs.project, needs.rule_progress, needs.new_incident, needs.action_recipients)
def observe_metric(command: ObserveMetric, context: CommandContext) -> CommandResult:
    """Evaluate a value. Return 201 with the triggers that it fired and resolved, or 200 if it was ignored."""
    rule = _require_rule(command, context)
    project = _require_project(command, rule, context)
    observed = _Observed(command, rule, project, context)
    incident = context.facts.open_incident_of_rule(rule, project.facts.id)
    evaluation = observed.evaluate(incident)
    if evaluation.transitions:
        # The effects are attributed to the system, whoever sent the value.
        incident = _Observed(command, rule, project, context.as_system()).apply(evaluation.transitions, incident)
    observed.record(evaluation, incident)
    listed = None if incident is None else context.listed_incident_json(incident)
    return CommandResult(201 if evaluation.ignored is None else 200, observed_json(evaluation, incident=listed))


def _require_rule(command: ObserveMetric, context: CommandContext) -> AlertRule:
    rule = context.find_rule(command.alert_rule)
    if rule is None:
        raise NotFound
    if not context.can_read_rule(rule):
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)
    return rule


def _require_project(command: ObserveMetric, rule: AlertRule, context: CommandContext) -> NamedProject:
    project = context.facts.find_active_project(context.organization.id, command.project)
    if project is None or project.facts.id not in rule.projects:
        raise InvalidFields({"project": ["Invalid project"]})
    if not has_project_access(context.actor, context.organization, project.facts):
        raise Forbidden(code=ForbiddenCode.NO_PROJECT_ACCESS)
    return project


def _result(evaluation: Evaluation) -> dict[str, JSON]:
    result: dict[str, JSON] = {"fired": evaluation.fired, "resolved": evaluation.resolved}
    return result if evaluation.ignored is None else result | {"ignored": evaluation.ignored.value}


@dataclass(frozen=True, slots=True)
class _Observed:
    """An observed value with its rule and project."""

    command: ObserveMetric
    rule: AlertRule
    project: NamedProject
    context: CommandContext

    def evaluate(self, incident: Incident | None) -> Evaluation:
        definition, rules = self.rule.definition, self.context.facts.rules
        progress = rules.progress_of(self.rule, self.project.facts.id)
        if definition.dataset == "transactions" and not self.context.organization.has(Feature.PERFORMANCE):
            return ignore(progress, Ignored.NOT_IN_PLAN)
        command = self.command
        observation = Observation(
            self.project.slug, command.value, command.timestamp, self.context.accepted_at, command.comparison_value
        )
        return evaluate(definition, progress, rules.active_triggers_of(incident), observation)

    def apply(self, transitions: Sequence[TriggerTransition], incident: Incident | None) -> Incident | None:
        """Apply the trigger transitions in order, then plan each incident's actions. Return the last incident."""
        changes: dict[int, list[StatusChange]] = {}
        for transition in transitions:
            if incident is None or not incident.is_open:
                incident = self._open()
            trigger, severity = transition.trigger, transition.severity
            status = TriggerStatus.ACTIVE if transition.fired else TriggerStatus.RESOLVED
            set_trigger_state(incident, trigger.id, TriggerState(trigger.label, status), self.context)
            if severity is not None and severity is not incident.status:
                changes.setdefault(incident.identifier, []).append(self._change_status(incident, severity))
            self._emit(transition, incident)
        for identifier, status_changes in changes.items():
            changed = self.context.facts.incidents[self.context.organization.id, identifier]
            self._plan_actions(changed, status_changes)
        return incident

    def _open(self) -> Incident:
        new = NewIncident(
            title=self.rule.definition.name,
            projects=[self.project],
            date_started=window_start(self.rule.definition, self.command.timestamp),
            date_detected=self.command.timestamp,
            rule=self.rule,
        )
        return create_incident(new, self.context)

    def _change_status(self, incident: Incident, new: IncidentStatus) -> StatusChange:
        closed_at = window_start(self.rule.definition, self.command.timestamp)
        return change_status(incident, new, self.context, by=StatusMethod.RULE_TRIGGERED, closed_at=closed_at)

    def _emit(self, transition: TriggerTransition, incident: Incident) -> None:
        event_class = TriggerFired if transition.fired else TriggerResolved
        event = event_class(
            trigger=transition.trigger.id,
            label=transition.trigger.label,
            project=self.project.slug,
            value=self.command.value,
            timestamp=self.command.timestamp,
        )
        self.context.emit_for_rule(self.rule, event, incident=incident)

    def _plan_actions(self, incident: Incident, changes: Sequence[StatusChange]) -> None:
        old, last = changes[0].old, changes[-1]
        if old is not last.new:
            was_critical = self.context.facts.rules.was_critical(incident)
            selection = select_on_change(self.rule.definition, old, last.new, was_critical=was_critical)
            plan_deliveries(selection, self.rule, incident, last, self.context)

    def record(self, evaluation: Evaluation, incident: Incident | None) -> None:
        """Record the rule's progress on the project, and the effects of the value."""
        rule_id, project_id, progress = self.rule.id, self.project.facts.id, evaluation.progress
        changes = self.context.changes.observed
        self.context.facts.rules.progress[rule_id, project_id] = progress
        changes.progress[rule_id, project_id] = progress
        counters = {
            trigger.label: {"alerts": counter.alerts, "resolves": counter.resolves}
            for trigger in self.rule.definition.triggers
            if (counter := progress.counters.get(trigger.id)) is not None
        }
        result = _result(evaluation) | {"incident": incident and str(incident.identifier), "counted": counters}
        slot = progress.observed % KEPT_OBSERVATIONS
        changes.observations[rule_id, project_id, slot] = NewObservation(
            rule_id=rule_id,
            project_id=project_id,
            slot=slot,
            number=progress.observed,
            timestamp=self.command.timestamp,
            value=self.command.value,
            comparison_value=self.command.comparison_value,
            result=result,
            accepted_at=self.context.accepted_at,
        )
