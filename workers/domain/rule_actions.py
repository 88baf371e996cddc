"""Functions that plan the deliveries for alert rule actions when an incident's status changes.

Snoozes are applied here and recorded as decisions. Access to the incident is checked later, when a delivery is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from models.alert_rules.action_selection import ActionSelection, SelectedAction, select_on_close
from models.alert_rules.alert_rule import Action, AlertRule, TriggerStatus
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.enums import DecisionOutcome
from models.incidents.incident import Incident
from models.notifications.delivery import NewDelivery, target_key
from models.notifications.notification import NewDecision
from models.notifications.suppression import ALERT_ACTION, NO_ACCESS, SNOOZED
from workers.batch.changes import TriggerStateChange
from workers.batch.context import CommandContext
from workers.batch.rule_facts import TriggerState
from workers.domain.incidents import StatusChange


def resolve_manual_close(incident: Incident, change: StatusChange, context: CommandContext) -> None:
    """Resolve the triggers of an incident that a status command closed, and plan every action of its rule.

    The command came from a person, or from the system after a change to the rule. The actions are those that the rule
    had in the generation that opened the incident.
    """
    rules = context.facts.rules
    snapshot = rules.snapshot_for(incident)
    if snapshot is None:
        return
    for trigger_id, state in list(rules.trigger_states.get(incident.id, {}).items()):
        if state.status is TriggerStatus.ACTIVE:
            set_trigger_state(incident, trigger_id, TriggerState(state.label, TriggerStatus.RESOLVED), context)
    plan_deliveries(select_on_close(snapshot.definition), snapshot.rule, incident, change, context)


def set_trigger_state(incident: Incident, trigger_id: int, state: TriggerState, context: CommandContext) -> None:
    """Set a trigger's state in the incident, in both the facts and the changes."""
    context.facts.rules.trigger_states.setdefault(incident.id, {})[trigger_id] = state
    context.changes.observed.trigger_states[incident.id, trigger_id] = TriggerStateChange(
        incident.id, trigger_id, state, context.accepted_at
    )


def plan_deliveries(
    selection: ActionSelection, rule: AlertRule, incident: Incident, change: StatusChange, context: CommandContext
) -> None:
    """Plan each selected action for each of the incident's projects. A person gets at most one e-mail per project."""
    plan = _DeliveryPlan(
        selection, rule, incident, change, context, context.facts.rules.snoozed_users(rule.id, context.accepted_at)
    )
    for selected in selection.selected:
        for project_id in sorted(incident.projects):
            if selected.action.type is ActionType.EMAIL:
                plan.plan_emails(selected, project_id)
            elif None not in plan.snoozed_users:
                plan.add_delivery(selected, project_id, user_id=None, target=selected.action.target)


@dataclass(slots=True)
class _DeliveryPlan:
    """The deliveries for one status change.

    ``planned`` holds a pair of project id and user id for each e-mail on which a decision has been made.
    """

    selection: ActionSelection
    rule: AlertRule
    incident: Incident
    change: StatusChange
    context: CommandContext
    snoozed_users: set[int | None]
    planned: set[tuple[int, int]] = field(default_factory=set)

    def plan_emails(self, selected: SelectedAction, project_id: int) -> None:
        for person_id in _recipients(selected.action, self.context):
            if (project_id, person_id) in self.planned:
                continue
            self.planned.add((project_id, person_id))
            if not self.snoozed_users.isdisjoint({None, person_id}):
                self._add_decision(selected, person_id, DecisionOutcome.SUPPRESSED, SNOOZED)
            elif not _is_active_member(person_id, selected.action, self.context):
                self._add_decision(selected, person_id, DecisionOutcome.SUPPRESSED, NO_ACCESS)
            else:
                self._add_decision(selected, person_id, DecisionOutcome.PENDING, ALERT_ACTION)
                self.add_delivery(selected, project_id, user_id=person_id, target=None)

    def add_delivery(
        self, selected: SelectedAction, project_id: int, *, user_id: int | None, target: str | None
    ) -> None:
        self.context.changes.deliveries.append(
            NewDelivery(
                id=new_id(),
                organization_id=self.incident.organization_id,
                incident_id=self.incident.id,
                activity_id=self.change.activity_id,
                event_id=self.change.event_id,
                rule_id=self.rule.id,
                action_id=selected.action.id,
                project_id=project_id,
                channel=selected.action.type.value,
                user_id=user_id,
                target=target,
                method=self.selection.method,
                status=int(self.change.new),
                due_at=self.context.accepted_at,
                target_key=target_key(selected.action.type.value, self.incident.organization_id, target),
            )
        )

    def _add_decision(self, selected: SelectedAction, person_id: int, outcome: DecisionOutcome, rule: str) -> None:
        self.context.changes.decisions.append(
            NewDecision(
                activity_id=self.change.activity_id,
                user_id=person_id,
                channel=selected.action.type.value,
                incident_id=self.incident.id,
                event_id=self.change.event_id,
                outcome=outcome,
                rule=rule,
                detail=f"action {selected.action.id} of {selected.label}",
            )
        )


def _recipients(action: Action, context: CommandContext) -> Iterable[int]:
    """Return the ids of the people whom an e-mail action notifies. People without an account are excluded."""
    target = int(action.target)
    if action.target_type is TargetType.USER:
        return (target,) if target in context.facts.people else ()
    team = context.facts.mentioned_teams.get(target)
    return sorted(team.people) if team is not None and team.organization_id == context.organization.id else ()


def _is_active_member(person_id: int, action: Action, context: CommandContext) -> bool:
    # A team is loaded with its active members only.
    if action.target_type is TargetType.TEAM:
        return True
    return context.facts.people[person_id].is_active and (context.organization.id, person_id) in context.facts.members
