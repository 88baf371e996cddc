"""What a batch knows of alert rules, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from models.alert_rule import AlertRule, Definition, Snooze
from models.incident import Incident
from models.rule_shapes import Edition


class Earlier(NamedTuple):
    """What a rule said in a generation that is over."""

    definition: Definition
    date_modified: datetime


@dataclass(slots=True)
class Rulebook:
    """The rules that a batch names or whose incidents it touches; ``earlier`` is by rule and generation."""

    rules: dict[int, AlertRule] = field(default_factory=dict)
    earlier: dict[tuple[int, int], Earlier] = field(default_factory=dict)
    snoozes: dict[int, list[Snooze]] = field(default_factory=dict)
    team_slugs: Mapping[int, str] = field(default_factory=dict)

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

    def is_snoozed(self, rule: int, viewer: int | None, at: datetime) -> bool:
        """Whether the rule is silent, for everyone or for this reader."""
        return any(
            each.holds(at) and (each.user_id is None or each.user_id == viewer) for each in self.snoozes.get(rule, ())
        )
