"""What an alert rule does when an incident of its changes: whom its actions reach, written down for sending.

A snooze is heeded here and leaves a decision that says so; who may know of the incident is looked at when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from models.alert_rules.action_selection import ActionSelection, SelectedAction, select_on_close
from models.alert_rules.alert_rule import Action, AlertRule, TriggerStatus
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.enums import DecisionOutcome
from models.incidents.incident import Incident
from models.notifications.delivery import NewDelivery
from workers.batch.changes import NewDecision, TriggerStateChange
from workers.batch.context import CommandContext
from workers.batch.rule_facts import TriggerState
from workers.domain.incidents import StatusChange

ALERT_ACTION: Final = "alert_action"
SNOOZED: Final = "snoozed"
NO_ACCESS: Final = "no_access"
"""The rules that decide whether an action reaches somebody."""


def resolve_manual_close(incident: Incident, change: StatusChange, context: CommandContext) -> None:
    """No value, but a person or an edited rule closed it: nothing holds it open, and every action of its rule says so.

    The rule is taken as it was when it found the incident.
    """
    book = context.facts.rules
    edition = book.snapshot_for(incident)
    if edition is None:
        return
    for trigger, hold in list(book.trigger_states.get(incident.id, {}).items()):
        if hold.status is TriggerStatus.ACTIVE:
            set_trigger_state(incident, trigger, TriggerState(hold.label, TriggerStatus.RESOLVED), context)
    plan_deliveries(select_on_close(edition.definition), edition.rule, incident, change, context)


def set_trigger_state(incident: Incident, trigger: int, hold: TriggerState, context: CommandContext) -> None:
    """A trigger holds the incident open from now on, or no more."""
    context.facts.rules.trigger_states.setdefault(incident.id, {})[trigger] = hold
    context.changes.observed.trigger_states[incident.id, trigger] = TriggerStateChange(
        incident.id, trigger, hold, context.accepted_at
    )


def plan_deliveries(
    selection: ActionSelection, rule: AlertRule, incident: Incident, change: StatusChange, context: CommandContext
) -> None:
    """Take actions, each for every project of the incident; a person is reached once for each."""
    taking = _DeliveryPlan(
        selection, rule, incident, change, context, context.facts.rules.snoozed_users(rule.id, context.accepted_at)
    )
    for call in selection.selected:
        for project in sorted(incident.projects):
            if call.action.type is ActionType.EMAIL:
                taking.plan_emails(call, project)
            elif None not in taking.snoozed_users:
                taking.add_delivery(call, project, user=None, target=call.action.target)


@dataclass(slots=True)
class _DeliveryPlan:
    selection: ActionSelection
    rule: AlertRule
    incident: Incident
    change: StatusChange
    context: CommandContext
    snoozed_users: set[int | None]
    planned: set[tuple[int, int]] = field(default_factory=set)

    def plan_emails(self, call: SelectedAction, project: int) -> None:
        for person in _recipients(call.action, self.context):
            if (project, person) in self.planned:
                continue
            self.planned.add((project, person))
            if not self.snoozed_users.isdisjoint({None, person}):
                self._add_decision(call, person, DecisionOutcome.SUPPRESSED, SNOOZED)
            elif not _is_active_member(person, call.action, self.context):
                self._add_decision(call, person, DecisionOutcome.SUPPRESSED, NO_ACCESS)
            else:
                self._add_decision(call, person, DecisionOutcome.PENDING, ALERT_ACTION)
                self.add_delivery(call, project, user=person, target=None)

    def add_delivery(self, call: SelectedAction, project: int, *, user: int | None, target: str | None) -> None:
        self.context.changes.deliveries.append(
            NewDelivery(
                id=new_id(),
                organization_id=self.incident.organization_id,
                incident_id=self.incident.id,
                activity_id=self.change.activity_id,
                rule_id=self.rule.id,
                action_id=call.action.id,
                project_id=project,
                channel=call.action.type.value,
                user_id=user,
                target=target,
                method=self.selection.method,
                status=int(self.change.new),
                due_at=self.context.accepted_at,
            )
        )

    def _add_decision(self, call: SelectedAction, person: int, outcome: DecisionOutcome, rule: str) -> None:
        self.context.changes.decisions.append(
            NewDecision(
                activity_id=self.change.activity_id,
                user_id=person,
                channel=call.action.type.value,
                incident_id=self.incident.id,
                event_id=self.change.event_id,
                outcome=outcome,
                rule=rule,
                detail=f"action {call.action.id} of {call.label}",
            )
        )


def _recipients(action: Action, context: CommandContext) -> Iterable[int]:
    """Whom an e-mail is for, if they still have an account."""
    target = int(action.target)
    if action.target_type is TargetType.USER:
        return (target,) if target in context.facts.people else ()
    team = context.facts.mentioned_teams.get(target)
    return sorted(team.people) if team is not None and team.organization_id == context.organization.id else ()


def _is_active_member(person: int, action: Action, context: CommandContext) -> bool:
    # A team means its active people with an active place: they are here.
    if action.target_type is TargetType.TEAM:
        return True
    return context.facts.people[person].is_active and (context.organization.id, person) in context.facts.members
