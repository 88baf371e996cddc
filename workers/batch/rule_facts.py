"""The facts about alert rules on which a batch is decided. Handlers keep them current."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from models.alert_rules.alert_rule import AlertRule, Definition, Snooze, TriggerStatus
from models.alert_rules.enums import CRITICAL
from models.alert_rules.evaluation import ActiveTriggers, Progress
from models.alert_rules.serializers import RuleSnapshot
from models.incidents.incident import Incident
from models.policy import TeamFacts


class PastGeneration(NamedTuple):
    """A rule's definition in a generation that has ended."""

    definition: Definition
    date_modified: datetime


class RuleTeam(NamedTuple):
    """A team that a rule's action notifies."""

    slug: str
    facts: TeamFacts


class TriggerState(NamedTuple):
    """A trigger's state in an incident."""

    label: str
    status: TriggerStatus


@dataclass(slots=True)
class RuleFacts:
    """The facts about the rules that a batch names, and about those that opened its incidents.

    Keyed by rule id: ``by_id``, ``snoozes`` and, for rules whose open incidents may be closed, ``open_incidents``
    (generations by identifier) and ``last_generations_with_incident``. ``past_generations`` is keyed by rule id and
    generation, ``progress`` by rule id and project id, ``trigger_states`` by incident id, then by trigger id.
    ``rule_counts`` holds the number of live rules by organization id. Ids for new rules, triggers and actions are
    popped from ``new_ids``.
    """

    by_id: dict[int, AlertRule] = field(default_factory=dict)
    past_generations: dict[tuple[int, int], PastGeneration] = field(default_factory=dict)
    snoozes: dict[int, list[Snooze]] = field(default_factory=dict)
    teams: Mapping[int, RuleTeam] = field(default_factory=dict)
    open_incidents: Mapping[int, dict[int, int | None]] = field(default_factory=dict)
    last_generations_with_incident: Mapping[int, int] = field(default_factory=dict)
    rule_counts: dict[int, int] = field(default_factory=dict)
    new_ids: list[int] = field(default_factory=list)
    progress: dict[tuple[int, int], Progress] = field(default_factory=dict)
    trigger_states: dict[int, dict[int, TriggerState]] = field(default_factory=dict)

    @property
    def team_slugs(self) -> dict[int, str]:
        """The slugs of the teams, by id."""
        return {id_: team.slug for id_, team in self.teams.items()}

    def find_rule(self, organization_id: int, id_: int) -> AlertRule | None:
        """Return the organization's live rule with this id, if there is one."""
        rule = self.by_id.get(id_)
        return rule if rule is not None and rule.organization_id == organization_id and rule.is_live else None

    def snapshot_for(self, incident: Incident) -> RuleSnapshot | None:
        """Return the rule that opened the incident, as it was then, or ``None`` if no rule did."""
        rule = self.by_id.get(incident.alert_rule_id or 0)
        if rule is None:
            return None
        past = self.past_generations.get((rule.id, incident.alert_rule_generation or 0))
        if past is None:
            return RuleSnapshot.current(rule)
        return RuleSnapshot(rule, past.definition, past.date_modified, is_snapshot=True)

    def progress_of(self, rule: AlertRule, project_id: int) -> Progress:
        """Return the rule's progress on a project in its current generation."""
        known = self.progress.get((rule.id, project_id))
        return Progress(rule.generation) if known is None else known.for_generation(rule.generation)

    def active_triggers_of(self, incident: Incident | None) -> ActiveTriggers:
        """Return the triggers that are active in a rule's open incident, or no triggers if there is no incident."""
        if incident is None:
            return ActiveTriggers()
        states = self.trigger_states.get(incident.id, {}).items()
        active = frozenset(id_ for id_, state in states if state.status is TriggerStatus.ACTIVE)
        return ActiveTriggers(incident.date_added, active)

    def was_critical(self, incident: Incident) -> bool:
        """Return whether the critical trigger ever fired in the incident."""
        return any(state.label == CRITICAL for state in self.trigger_states.get(incident.id, {}).values())

    def snoozed_users(self, rule_id: int, at: datetime) -> set[int | None]:
        """Return the users for whom the rule is snoozed; ``None`` stands for everyone."""
        return {each.user_id for each in self.snoozes.get(rule_id, ()) if each.is_active(at)}

    def is_snoozed(self, rule_id: int, user_id: int | None, at: datetime) -> bool:
        """Return whether the rule is snoozed for everyone or for this user."""
        return any(
            each.is_active(at) and (each.user_id is None or each.user_id == user_id)
            for each in self.snoozes.get(rule_id, ())
        )

    def archive_generation(self, rule: AlertRule) -> None:
        """Keep the rule's current definition as that of a past generation. Call this before the rule is redefined."""
        self.past_generations[rule.id, rule.generation] = PastGeneration(rule.definition, rule.date_modified)

    def snooze(self, snooze: Snooze) -> None:
        """Add a snooze, replacing the same user's previous one."""
        self.unsnooze(snooze.rule_id, snooze.user_id)
        self.snoozes.setdefault(snooze.rule_id, []).append(snooze)

    def unsnooze(self, rule_id: int, user_id: int | None) -> None:
        """Remove a user's snooze or, if ``user_id`` is ``None``, the one for everyone."""
        self.snoozes[rule_id] = [each for each in self.snoozes.get(rule_id, ()) if each.user_id != user_id]
