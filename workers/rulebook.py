"""What a batch knows of alert rules, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from models.alert_rule import CRITICAL, AlertRule, Definition, Snooze, TriggerStatus
from models.incident import Incident
from models.metric import Progress, Standing
from models.rule_shapes import Edition


class Earlier(NamedTuple):
    """What a rule said in a generation that is over."""

    definition: Definition
    date_modified: datetime


class Hold(NamedTuple):
    """A trigger that holds, or held, an incident open."""

    label: str
    status: TriggerStatus


@dataclass(slots=True)
class Rulebook:
    """The rules that a batch names or whose incidents it touches; ``earlier`` is by rule and generation.

    ``progress`` is by rule and project; ``holds`` are by incident and trigger.
    """

    rules: dict[int, AlertRule] = field(default_factory=dict)
    earlier: dict[tuple[int, int], Earlier] = field(default_factory=dict)
    snoozes: dict[int, list[Snooze]] = field(default_factory=dict)
    team_slugs: Mapping[int, str] = field(default_factory=dict)
    progress: dict[tuple[int, int], Progress] = field(default_factory=dict)
    holds: dict[int, dict[int, Hold]] = field(default_factory=dict)

    def rule(self, organization: int, id_: int) -> AlertRule | None:
        """A live rule of the organization."""
        rule = self.rules.get(id_)
        return rule if rule is not None and rule.organization_id == organization and rule.is_live else None

    def edition_of(self, incident: Incident) -> Edition | None:
        """The rule that found an incident, as it was then; ``None`` if no rule did."""
        rule = self.rules.get(incident.alert_rule_id or 0)
        if rule is None:
            return None
        then = self.earlier.get((rule.id, incident.alert_rule_generation or 0))
        if then is None:
            return Edition.of(rule)
        return Edition(rule, then.definition, then.date_modified, is_snapshot=True)

    def progress_of(self, rule: AlertRule, project: int) -> Progress:
        """Where a rule stands on a project, by what it says now."""
        known = self.progress.get((rule.id, project))
        return Progress(rule.generation) if known is None else known.in_generation(rule.generation)

    def standing_of(self, incident: Incident | None) -> Standing:
        """What holds an open incident of a rule open."""
        if incident is None:
            return Standing()
        holds = self.holds.get(incident.id, {}).items()
        active = frozenset(id_ for id_, hold in holds if hold.status is TriggerStatus.ACTIVE)
        return Standing(incident.date_added, active)

    def was_critical(self, incident: Incident) -> bool:
        """Whether the critical trigger ever fired in the incident."""
        return any(hold.label == CRITICAL for hold in self.holds.get(incident.id, {}).values())

    def sleepers(self, rule: int, at: datetime) -> set[int | None]:
        """Who keeps the rule silent; ``None`` is everyone."""
        return {each.user_id for each in self.snoozes.get(rule, ()) if each.holds(at)}

    def is_snoozed(self, rule: int, viewer: int | None, at: datetime) -> bool:
        """Whether the rule is silent, for everyone or for this reader."""
        return any(
            each.holds(at) and (each.user_id is None or each.user_id == viewer) for each in self.snoozes.get(rule, ())
        )
