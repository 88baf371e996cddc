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
from workers.batch.changes import Decision, Held
from workers.batch.context import Work
from workers.batch.rule_facts import Hold
from workers.domain.incidents import Change

ALERT_ACTION: Final = "alert_action"
SNOOZED: Final = "snoozed"
NO_ACCESS: Final = "no_access"
"""The rules that decide whether an action reaches somebody."""


def close_otherwise(incident: Incident, change: Change, work: Work) -> None:
    """No value, but a person or an edited rule closed it: nothing holds it open, and every action of its rule says so.

    The rule is taken as it was when it found the incident.
    """
    book = work.world.rulebook
    edition = book.edition_of(incident)
    if edition is None:
        return
    for trigger, hold in list(book.holds.get(incident.id, {}).items()):
        if hold.status is TriggerStatus.ACTIVE:
            mark(incident, trigger, Hold(hold.label, TriggerStatus.RESOLVED), work)
    take(select_on_close(edition.definition), edition.rule, incident, change, work)


def mark(incident: Incident, trigger: int, hold: Hold, work: Work) -> None:
    """A trigger holds the incident open from now on, or no more."""
    work.world.rulebook.holds.setdefault(incident.id, {})[trigger] = hold
    work.changes.metrics.held[incident.id, trigger] = Held(incident.id, trigger, hold, work.at)


def take(fan_out: ActionSelection, rule: AlertRule, incident: Incident, change: Change, work: Work) -> None:
    """Take actions, each for every project of the incident; a person is reached once for each."""
    taking = _Taking(fan_out, rule, incident, change, work, work.world.rulebook.sleepers(rule.id, work.at))
    for call in fan_out.selected:
        for project in sorted(incident.projects):
            if call.action.type is ActionType.EMAIL:
                taking.mail(call, project)
            elif None not in taking.sleepers:
                taking.deliver(call, project, user=None, target=call.action.target)


@dataclass(slots=True)
class _Taking:
    fan_out: ActionSelection
    rule: AlertRule
    incident: Incident
    change: Change
    work: Work
    sleepers: set[int | None]
    told: set[tuple[int, int]] = field(default_factory=set)

    def mail(self, call: SelectedAction, project: int) -> None:
        for person in _people(call.action, self.work):
            if (project, person) in self.told:
                continue
            self.told.add((project, person))
            if not self.sleepers.isdisjoint({None, person}):
                self._decide(call, person, DecisionOutcome.SUPPRESSED, SNOOZED)
            elif not _is_here(person, call.action, self.work):
                self._decide(call, person, DecisionOutcome.SUPPRESSED, NO_ACCESS)
            else:
                self._decide(call, person, DecisionOutcome.PENDING, ALERT_ACTION)
                self.deliver(call, project, user=person, target=None)

    def deliver(self, call: SelectedAction, project: int, *, user: int | None, target: str | None) -> None:
        self.work.changes.deliveries.append(
            NewDelivery(
                id=new_id(),
                organization_id=self.incident.organization_id,
                incident_id=self.incident.id,
                activity_id=self.change.activity,
                rule_id=self.rule.id,
                action_id=call.action.id,
                project_id=project,
                channel=call.action.type.value,
                user_id=user,
                target=target,
                method=self.fan_out.method,
                status=int(self.change.new),
                due_at=self.work.at,
            )
        )

    def _decide(self, call: SelectedAction, person: int, outcome: DecisionOutcome, rule: str) -> None:
        self.work.changes.decisions.append(
            Decision(
                activity_id=self.change.activity,
                user_id=person,
                channel=call.action.type.value,
                incident_id=self.incident.id,
                event_id=self.change.event,
                outcome=outcome,
                rule=rule,
                detail=f"action {call.action.id} of {call.label}",
            )
        )


def _people(action: Action, work: Work) -> Iterable[int]:
    """Whom an e-mail is for, if they still have an account."""
    target = int(action.target)
    if action.target_type is TargetType.USER:
        return (target,) if target in work.world.people else ()
    team = work.world.teams.get(target)
    return sorted(team.people) if team is not None and team.organization_id == work.organization.id else ()


def _is_here(person: int, action: Action, work: Work) -> bool:
    # A team means its active people with an active place: they are here.
    if action.target_type is TargetType.TEAM:
        return True
    return work.world.people[person].is_active and (work.organization.id, person) in work.world.members
