"""Add alert rules, their observations and deliveries, and a reference from an incident to its rule.

Revision: 0006, after 0005. It can be applied while the previous release is running. If the migration is
interrupted, it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OF_A_RULE = "alert_rule_id IS NOT NULL"
OPEN_OF_A_RULE = "status <> 2 AND alert_rule_id IS NOT NULL"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for column in ("alert_rule_id", "alert_rule_generation"):
            op.execute(f"ALTER TABLE incidents ADD COLUMN IF NOT EXISTS {column} bigint")
        _create_index("incidents_alert_rule_idx", ["alert_rule_id", "alert_rule_generation"], where=OF_A_RULE)
        _create_index("incidents_open_alert_rule_idx", ["alert_rule_id"], where=OPEN_OF_A_RULE)
    _create_tables()
    # No incident has a rule yet, so there is nothing to validate.
    op.execute(
        "ALTER TABLE incidents ADD CONSTRAINT incidents_alert_rule_id_fkey"
        " FOREIGN KEY (alert_rule_id) REFERENCES alert_rules (id) NOT VALID"
    )


def _create_index(name: str, columns: list[str], *, where: str) -> None:
    # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.create_index(name, "incidents", columns, postgresql_where=sa.text(where), postgresql_concurrently=True)


def _create_tables() -> None:
    op.create_table(
        "alert_rules",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("event_sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("date_added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("date_modified", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("alert_rules_created_by_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("alert_rules_organization_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("alert_rules_pkey")),
    )
    op.create_index(
        "alert_rules_live_idx",
        "alert_rules",
        ["organization_id", "date_added", "id"],
        unique=False,
        postgresql_where=sa.text("status <> 4"),
    )
    op.create_table(
        "environments",
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("environments_organization_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "name", name=op.f("environments_pkey")),
    )
    op.create_table(
        "alert_rule_activities",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("date_added", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_activities_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("alert_rule_activities_user_id_fkey"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("alert_rule_activities_pkey")),
    )
    op.create_index("alert_rule_activities_rule_id_idx", "alert_rule_activities", ["rule_id"], unique=False)
    op.create_table(
        "alert_rule_generations",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("date_modified", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_generations_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "generation", name=op.f("alert_rule_generations_pkey")),
    )
    op.create_table(
        "alert_rule_observations",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("comparison_value", sa.Double(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("alert_rule_observations_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_observations_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "project_id", "slot", name=op.f("alert_rule_observations_pkey")),
    )
    op.create_table(
        "alert_rule_progress",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("observed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_timestamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counters", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("alert_rule_progress_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_progress_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "project_id", name=op.f("alert_rule_progress_pkey")),
    )
    op.create_table(
        "alert_rule_projects",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("alert_rule_projects_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_projects_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "project_id", name=op.f("alert_rule_projects_pkey")),
    )
    op.create_index("alert_rule_projects_project_id_idx", "alert_rule_projects", ["project_id"], unique=False)
    op.create_table(
        "alert_rule_snoozes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("owner_id", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("date_added", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("alert_rule_snoozes_owner_id_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["alert_rules.id"], name=op.f("alert_rule_snoozes_rule_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("alert_rule_snoozes_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("alert_rule_snoozes_pkey")),
    )
    op.create_index(
        "alert_rule_snoozes_scope_key",
        "alert_rule_snoozes",
        ["rule_id", sa.literal_column("coalesce(user_id, 0)")],
        unique=True,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("activity_id", sa.BigInteger(), nullable=False),
        sa.Column("rule_id", sa.BigInteger(), nullable=True),
        sa.Column("action_id", sa.BigInteger(), nullable=True),
        sa.Column("project_id", sa.BigInteger(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column(
            "date_created", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("deliveries_incident_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("deliveries_organization_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("deliveries_user_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("deliveries_pkey")),
    )
    op.create_index(
        "deliveries_due_idx", "deliveries", ["due_at"], unique=False, postgresql_where=sa.text("state = 'pending'")
    )
    op.create_index("deliveries_incident_id_idx", "deliveries", ["incident_id"], unique=False)
    op.create_index(
        "deliveries_once_key",
        "deliveries",
        ["activity_id", "action_id", "project_id", sa.literal_column("coalesce(user_id, 0)")],
        unique=True,
    )
    op.create_table(
        "incident_triggers",
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("trigger_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("date_added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("date_modified", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("incident_triggers_incident_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("incident_id", "trigger_id", name=op.f("incident_triggers_pkey")),
    )


def downgrade() -> None:
    op.drop_constraint(op.f("incidents_alert_rule_id_fkey"), "incidents", type_="foreignkey")
    op.drop_index(
        "incidents_open_alert_rule_idx",
        table_name="incidents",
        postgresql_where=sa.text("status <> 2 AND alert_rule_id IS NOT NULL"),
    )
    op.drop_index(
        "incidents_alert_rule_idx", table_name="incidents", postgresql_where=sa.text("alert_rule_id IS NOT NULL")
    )
    op.drop_column("incidents", "alert_rule_generation")
    op.drop_column("incidents", "alert_rule_id")
    op.drop_table("incident_triggers")
    op.drop_index("deliveries_once_key", table_name="deliveries")
    op.drop_index("deliveries_incident_id_idx", table_name="deliveries")
    op.drop_index("deliveries_due_idx", table_name="deliveries", postgresql_where=sa.text("state = 'pending'"))
    op.drop_table("deliveries")
    op.drop_index("alert_rule_snoozes_scope_key", table_name="alert_rule_snoozes")
    op.drop_table("alert_rule_snoozes")
    op.drop_index("alert_rule_projects_project_id_idx", table_name="alert_rule_projects")
    op.drop_table("alert_rule_projects")
    op.drop_table("alert_rule_progress")
    op.drop_table("alert_rule_observations")
    op.drop_table("alert_rule_generations")
    op.drop_index("alert_rule_activities_rule_id_idx", table_name="alert_rule_activities")
    op.drop_table("alert_rule_activities")
    op.drop_table("environments")
    op.drop_index("alert_rules_live_idx", table_name="alert_rules", postgresql_where=sa.text("status <> 4"))
    op.drop_table("alert_rules")
