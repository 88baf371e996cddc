"""The tables for incidents, and the entity with the operations that change an incident."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)

from models.base import METADATA, Timestamp, foreign_key, id_column
from models.enums import IncidentStatus, IncidentType, StatusMethod
from models.messaging.subject import Subject

IS_OPEN: Final = f"status <> {IncidentStatus.CLOSED:d}"
"""The SQL condition for open incidents. It is a literal, because a partial index requires its predicate in the SQL."""

incidents = Table(
    "incidents",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("identifier", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("status_method", SmallInteger, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("dedup_key", Text, nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("event_sequence", BigInteger, nullable=False, server_default="0"),
    Column("date_started", Timestamp, nullable=False),
    Column("date_detected", Timestamp, nullable=False),
    Column("date_added", Timestamp, nullable=False),
    Column("date_closed", Timestamp, nullable=True),
    Column("last_activity_at", Timestamp, nullable=False),
    # The rule that opened the incident, and its generation at that time.
    Column("alert_rule_id", BigInteger, ForeignKey("alert_rules.id"), nullable=True),
    Column("alert_rule_generation", BigInteger, nullable=True),
    # When the incident is closed unless its alerts are mentioned again, and how many seconds after they were mentioned.
    Column("alerts_stale_at", Timestamp, nullable=True),
    Column("alerts_stale_seconds", Integer, nullable=True),
    UniqueConstraint("organization_id", "identifier"),
    # Whichever of the two is set determines the incident's subject.
    CheckConstraint("alert_rule_id IS NULL OR dedup_key IS NULL", name="one_subject"),
)
Index(
    "incidents_alert_rule_idx",
    incidents.c.alert_rule_id,
    incidents.c.alert_rule_generation,
    postgresql_where=text("alert_rule_id IS NOT NULL"),
)
Index(
    "incidents_open_alert_rule_idx",
    incidents.c.alert_rule_id,
    postgresql_where=text(f"{IS_OPEN} AND alert_rule_id IS NOT NULL"),
)
Index(
    "incidents_stale_alerts_idx",
    incidents.c.alerts_stale_at,
    postgresql_where=text(f"{IS_OPEN} AND alerts_stale_at IS NOT NULL"),
)
# Keys come from other systems and may be long, so a digest is indexed.
Index(
    "incidents_open_dedup_key",
    incidents.c.organization_id,
    func.md5(incidents.c.dedup_key),
    unique=True,
    postgresql_where=text(f"{IS_OPEN} AND dedup_key IS NOT NULL"),
)
Index(
    "incidents_dedup_key_idx",
    incidents.c.organization_id,
    func.md5(incidents.c.dedup_key),
    incidents.c.date_started,
    incidents.c.id,
    postgresql_where=text("dedup_key IS NOT NULL"),
)

incident_projects = Table(
    "incident_projects",
    METADATA,
    foreign_key("incident_id", "incidents.id", primary_key=True),
    foreign_key("project_id", "projects.id", primary_key=True),
)
Index("incident_projects_project_id_idx", incident_projects.c.project_id)

incident_seen = Table(
    "incident_seen",
    METADATA,
    foreign_key("incident_id", "incidents.id", primary_key=True),
    foreign_key("user_id", "users.id", primary_key=True),
    Column("last_seen", Timestamp, nullable=False),
)


@dataclass(slots=True)
class Incident:
    """An incident. ``projects`` holds ids."""

    id: int
    organization_id: int
    identifier: int
    title: str
    status: IncidentStatus
    status_method: StatusMethod
    type: IncidentType
    dedup_key: str | None
    version: int
    event_sequence: int
    date_started: datetime
    date_detected: datetime
    date_added: datetime
    date_closed: datetime | None
    last_activity_at: datetime
    alert_rule_id: int | None = None
    alert_rule_generation: int | None = None
    alerts_stale_at: datetime | None = None
    alerts_stale_seconds: int | None = None
    projects: frozenset[int] = field(default_factory=frozenset)

    @property
    def subject(self) -> Subject:
        """The subject of every command that may change the incident. It never changes."""
        return Subject.of_incident(
            self.organization_id, self.identifier, alert_rule_id=self.alert_rule_id, dedup_key=self.dedup_key
        )

    @property
    def is_open(self) -> bool:
        """Whether the incident is open."""
        return self.status is not IncidentStatus.CLOSED

    def record_activity(self, *, accepted_at: datetime) -> datetime:
        """Record that an activity was added, and return its date.

        The date is the time of acceptance, but never before the previous activity.
        """
        # Clients send the version back in If-Match, so every change that they might overwrite must increase it.
        self.last_activity_at = max(self.last_activity_at, accepted_at)
        self.version += 1
        return self.last_activity_at

    def set_status(self, status: IncidentStatus, *, by: StatusMethod, at: datetime) -> IncidentStatus:
        """Set the status and return the old one.

        Closing the incident sets ``date_closed``. Only setting the status to ``OPEN`` clears it again.
        """
        old, self.status, self.status_method = self.status, status, by
        if status is IncidentStatus.CLOSED:
            self.date_closed = at
            # It must not be closed again if somebody reopens it.
            self.alerts_stale_at = self.alerts_stale_seconds = None
        elif status is IncidentStatus.OPEN:
            self.date_closed = None
        return old

    def bump_version(self) -> None:
        """Increase the version after a comment was edited or deleted, because neither records an activity."""
        self.version += 1

    def expect_alerts(self, within_seconds: int | None, *, at: datetime) -> bool:
        """Set how long after ``at`` the incident is closed unless its alerts are mentioned again; ``None`` means never.

        Return whether anything changed. If that time is already over, the incident may be about to be closed. A new
        version prevents it, because the incident is closed on the condition that its version is still the same.
        """
        if self.alerts_stale_at is not None and self.alerts_stale_at <= at:
            self.version += 1
        stale_at = None if within_seconds is None else at + timedelta(seconds=within_seconds)
        changed = (stale_at, within_seconds) != (self.alerts_stale_at, self.alerts_stale_seconds)
        self.alerts_stale_at, self.alerts_stale_seconds = stale_at, within_seconds
        return changed

    def next_event_sequence(self) -> int:
        """Return the sequence number of the next event about this incident: 1, 2, 3, …"""
        self.event_sequence += 1
        return self.event_sequence
