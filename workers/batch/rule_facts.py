"""What a batch knows of alert rules, and what it makes of them."""

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
    """What a rule said in a generation that is over."""

    definition: Definition
    date_modified: datetime


class RuleTeam(NamedTuple):
    """A team that a rule tells, or shall tell."""

    slug: str
    facts: TeamFacts


class TriggerState(NamedTuple):
    """A trigger that holds, or held, an incident open."""

    label: str
    status: TriggerStatus


@dataclass(slots=True)
class RuleFacts:
    """The rules that a batch names or whose incidents it touches; ``earlier`` is by rule and generation.

    ``progress`` is by rule and project; ``holds`` are by incident and trigger.
    Of the rules that may end, ``open_incidents`` are the identifiers of what they hold open, each with the generation
    in which it began, and ``last_found`` is the last generation in which they found anything. ``counts`` is how many
    live rules an organization has; ``new_ids`` are for rules, triggers and actions yet to be born, the lowest last.
    """

    rules: dict[int, AlertRule] = field(default_factory=dict)
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
        """What the teams are called."""
        return {id_: team.slug for id_, team in self.teams.items()}

    def find_rule(self, organization: int, id_: int) -> AlertRule | None:
        """A live rule of the organization."""
        rule = self.rules.get(id_)
        return rule if rule is not None and rule.organization_id == organization and rule.is_live else None

    def snapshot_for(self, incident: Incident) -> RuleSnapshot | None:
        """The rule that found an incident, as it was then; ``None`` if no rule did."""
        rule = self.rules.get(incident.alert_rule_id or 0)
        if rule is None:
            return None
        then = self.past_generations.get((rule.id, incident.alert_rule_generation or 0))
        if then is None:
            return RuleSnapshot.current(rule)
        return RuleSnapshot(rule, then.definition, then.date_modified, is_snapshot=True)

    def progress_of(self, rule: AlertRule, project: int) -> Progress:
        """Where a rule stands on a project, by what it says now."""
        known = self.progress.get((rule.id, project))
        return Progress(rule.generation) if known is None else known.for_generation(rule.generation)

    def active_triggers_of(self, incident: Incident | None) -> ActiveTriggers:
        """What holds an open incident of a rule open."""
        if incident is None:
            return ActiveTriggers()
        holds = self.trigger_states.get(incident.id, {}).items()
        active = frozenset(id_ for id_, hold in holds if hold.status is TriggerStatus.ACTIVE)
        return ActiveTriggers(incident.date_added, active)

    def was_critical(self, incident: Incident) -> bool:
        """Whether the critical trigger ever fired in the incident."""
        return any(hold.label == CRITICAL for hold in self.trigger_states.get(incident.id, {}).values())

    def snoozed_users(self, rule: int, at: datetime) -> set[int | None]:
        """Who keeps the rule silent; ``None`` is everyone."""
        return {each.user_id for each in self.snoozes.get(rule, ()) if each.is_active(at)}

    def is_snoozed(self, rule: int, viewer: int | None, at: datetime) -> bool:
        """Whether the rule is silent, for everyone or for this reader."""
        return any(
            each.is_active(at) and (each.user_id is None or each.user_id == viewer)
            for each in self.snoozes.get(rule, ())
        )

    def archive_generation(self, rule: AlertRule) -> None:
        """What the rule says now will be what it said in an earlier generation."""
        self.past_generations[rule.id, rule.generation] = PastGeneration(rule.definition, rule.date_modified)

    def snooze(self, snooze: Snooze) -> None:
        """The rule is silent from now on; what is asked later in the batch finds it so."""
        self.unsnooze(snooze.rule_id, snooze.user_id)
        self.snoozes.setdefault(snooze.rule_id, []).append(snooze)

    def unsnooze(self, rule: int, user: int | None) -> None:
        """The rule speaks again to this person, or (``None``) to everyone."""
        self.snoozes[rule] = [each for each in self.snoozes.get(rule, ()) if each.user_id != user]
