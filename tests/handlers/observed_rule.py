"""An alert rule with observations, and queries for their effects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.engine import Engine

from models.alert_rules.alert_rule import Trigger, incident_triggers
from models.incidents.incident import incidents
from models.messaging.command_ledger import commands
from models.notifications.delivery import deliveries
from models.notifications.notification import decisions
from models.types import JSON
from tasks.commands.observations import ObserveMetric
from tests.builders import a_trigger, an_action, an_alert_rule
from tests.handlers.acme import Acme
from tests.harness import Harness

MEM, ANA, BEN = 11, 12, 13
START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class ObservedRule:
    """A rule in the organization acme, by default on project p1. Timestamps of its observations are a minute apart."""

    def __init__(
        self, harness: Harness, acme: Acme, *triggers: Trigger, projects: Iterable[str] = ("p1",), **says: Any
    ):
        self.harness, self.acme = harness, acme
        self.engine: Engine = harness.engine
        self.organization = acme.organizations["acme"]
        self.minutes = 0
        with self.engine.begin() as connection:
            ids = [acme.projects["acme", slug] for slug in projects]
            self.rule_id = an_alert_rule(connection, self.organization, projects=ids, triggers=triggers or None, **says)

    def by_service(self) -> dict[str, Any]:
        """Return the identity of the service that sends observations, acting as itself."""
        return self.acme.by_service()

    def observation(self, value: float | None, **fields: Any) -> ObserveMetric:
        """Return the command for an observed value, by default a minute after the previous one."""
        self.minutes += 1
        timestamp = (START + timedelta(minutes=self.minutes)).isoformat()
        defaults = {"alertRule": self.rule_id, "project": "p1", "value": value, "timestamp": timestamp}
        return ObserveMetric.model_validate(defaults | fields)

    def accept(self, value: float | None, *, at: datetime | None = None, **fields: Any) -> UUID:
        """Insert the command for a value into the ledger, accepted now or at the given time; return the command id."""
        id_ = self.harness.accept(self.observation(value, **fields), **self.by_service())
        if at is not None:
            with self.engine.begin() as connection:
                connection.execute(update(commands).where(commands.c.id == id_).values(accepted_at=at))
        return id_

    def observe(self, value: float | None, *, at: datetime | None = None, **fields: Any) -> tuple[int, JSON]:
        """Accept and apply the command for a value; return the outcome's status and body."""
        id_ = self.accept(value, at=at, **fields)
        self.harness.apply()
        row = self.harness.ledger_row(id_)
        return row["outcome_status"], row["outcome_body"]

    # --- effects -----------------------------------------------------------------------------------------------

    def incidents(self) -> list[Any]:
        """Return the rule's incidents, oldest first."""
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    select(incidents).where(incidents.c.alert_rule_id == self.rule_id).order_by(incidents.c.id)
                )
            )

    def status_changes(self) -> list[tuple[int, int]]:
        """Return the old and the new status for every status change of the rule's incidents, in order."""
        return [
            (int(row.previous_value), int(row.value))
            for row in self.rows(
                "SELECT a.previous_value, a.value FROM incident_activities a JOIN incidents i ON i.id = a.incident_id"
                " WHERE i.alert_rule_id = :rule AND a.type = 2 ORDER BY a.id"
            )
        ]

    def events(self, subject: str) -> list[dict[str, Any]]:
        """Return the bodies of a subject's events, by sequence."""
        rows = self.rows("SELECT body FROM events WHERE subject = :subject ORDER BY sequence", subject=subject)
        return [row.body for row in rows]

    def trigger_statuses(self) -> dict[str, int]:
        """Return the status of every trigger that has fired for an incident (0: active, 1: resolved), by label."""
        with self.engine.connect() as connection:
            return {row.label: row.status for row in connection.execute(select(incident_triggers))}

    def deliveries(self) -> list[tuple[str, int | str | None, str, int]]:
        """Return channel, user id or target, method and incident status for every delivery, in order."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(deliveries).order_by(deliveries.c.id))
            return [(row.channel, row.user_id or row.target, row.method, row.status) for row in rows]

    def decisions(self) -> list[tuple[int, str, str]]:
        """Return user id, outcome and rule for every decision about an e-mail."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(decisions).where(decisions.c.channel == "email").order_by(decisions.c.at, decisions.c.user_id)
            )
            return [(row.user_id, row.outcome, row.rule) for row in rows]

    def observation_results(self) -> list[dict[str, Any]]:
        """Return the recorded result for every observation, oldest first."""
        rows = self.rows("SELECT result FROM alert_rule_observations WHERE rule_id = :rule ORDER BY number")
        return [row.result for row in rows]

    def rows(self, statement: str, **facts: Any) -> list[Any]:
        """Return the rows that a statement selects; ``:rule`` in it stands for the rule's id."""
        parameters = {"rule": self.rule_id} if ":rule" in statement else {}
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), parameters | facts))


def rule_with_two_triggers(harness: Harness, acme: Acme) -> ObservedRule:
    """Return a rule that notifies Mem of values above 50 (warning) and Ana of values above 100 (critical)."""
    critical, warning = a_trigger("critical", 100, an_action(ANA)), a_trigger("warning", 50, an_action(MEM))
    return ObservedRule(harness, acme, critical, warning, name="Errors")
