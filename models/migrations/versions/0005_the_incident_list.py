"""Add the projection for the incident list: one row per incident and project.

Revision: 0005, after 0004. It can be applied while the previous release is running: triggers write the rows, whichever
release writes the incident. Existing incidents are copied in small transactions. If the migration is interrupted, it
can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BATCH = 10_000

EXTENSIONS = ("pg_trgm", "btree_gin", "btree_gist")

# An incident's projects are inserted after the incident, many per statement.
WRITE_LISTING = """
CREATE OR REPLACE FUNCTION write_incident_listing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO incident_listing
        (incident_id, project_id, organization_id, status, date_started, date_closed, folded_title)
    SELECT i.id, a.project_id, i.organization_id, i.status, i.date_started, i.date_closed, lower(i.title)
    FROM added a JOIN incidents i ON i.id = a.incident_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""

FOLLOW_INCIDENT = """
CREATE OR REPLACE FUNCTION follow_incident() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE incident_listing
    SET status = NEW.status, date_started = NEW.date_started, date_closed = NEW.date_closed,
        folded_title = lower(NEW.title)
    WHERE incident_id = NEW.id;
    RETURN NULL;
END $$
"""

TRIGGERS = (
    """
    CREATE OR REPLACE TRIGGER incident_projects_listing AFTER INSERT ON incident_projects
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION write_incident_listing()
    """,
    # A comment changes only the incident's version, which the list does not contain: it does not fire the trigger.
    """
    CREATE OR REPLACE TRIGGER incidents_listing AFTER UPDATE ON incidents FOR EACH ROW
    WHEN ((OLD.status, OLD.date_started, OLD.date_closed, OLD.title)
          IS DISTINCT FROM (NEW.status, NEW.date_started, NEW.date_closed, NEW.title))
    EXECUTE FUNCTION follow_incident()
    """,
)

# The lock on each incident prevents a change between reading it and inserting the row that the trigger updates.
COPY = """
INSERT INTO incident_listing
    (incident_id, project_id, organization_id, status, date_started, date_closed, folded_title)
SELECT i.id, ip.project_id, i.organization_id, i.status, i.date_started, i.date_closed, lower(i.title)
FROM incidents i JOIN incident_projects ip ON ip.incident_id = i.id
WHERE i.id > :after AND i.id <= :until
FOR SHARE OF i
ON CONFLICT DO NOTHING
"""

NEXT = "SELECT max(id) FROM (SELECT id FROM incidents WHERE id > :after ORDER BY id LIMIT :batch) AS batch"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for extension in EXTENSIONS:
            op.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        for trigger, table in (("incidents_listing", "incidents"), ("incident_projects_listing", "incident_projects")):
            op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {table}")
        op.execute("DROP TABLE IF EXISTS incident_listing")
        _create_table()
        for statement in (WRITE_LISTING, FOLLOW_INCIDENT, *TRIGGERS):
            op.execute(statement)
        _copy()
        op.execute("ANALYZE incident_listing")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS incidents_dedup_key_idx")
        op.create_index(
            "incidents_dedup_key_idx",
            "incidents",
            ["organization_id", sa.literal_column("md5(dedup_key)"), "date_started", "id"],
            postgresql_where=sa.text("dedup_key IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("incidents_dedup_key_idx", table_name="incidents")
    op.execute("DROP TRIGGER incidents_listing ON incidents")
    op.execute("DROP TRIGGER incident_projects_listing ON incident_projects")
    op.drop_table("incident_listing")
    op.execute("DROP FUNCTION follow_incident()")
    op.execute("DROP FUNCTION write_incident_listing()")


def _create_table() -> None:
    op.create_table(
        "incident_listing",
        sa.Column("incident_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("date_started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("date_closed", sa.DateTime(timezone=True), nullable=True),
        sa.Column("folded_title", sa.Text(), nullable=False, comment="in lower case, as it is searched"),
        sa.ForeignKeyConstraint(
            ["incident_id", "project_id"],
            ["incident_projects.incident_id", "incident_projects.project_id"],
            name=op.f("incident_listing_incident_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("incident_id", "project_id", name=op.f("incident_listing_pkey")),
    )
    in_order = ["date_started", "incident_id"]
    op.create_index("incident_listing_organization_idx", "incident_listing", ["organization_id", *in_order])
    op.create_index("incident_listing_project_idx", "incident_listing", ["project_id", *in_order])
    op.create_index(
        "incident_listing_open_idx",
        "incident_listing",
        ["project_id", *in_order],
        postgresql_where=sa.text("status <> 2"),
    )
    op.create_index("incident_listing_status_idx", "incident_listing", ["project_id", "status", *in_order])
    op.create_index(
        "incident_listing_life_idx",
        "incident_listing",
        ["project_id", sa.literal_column("tstzrange(date_started, greatest(date_closed, date_started), '[]')")],
        postgresql_using="gist",
        postgresql_where=sa.text("date_closed IS NOT NULL"),
    )
    op.create_index(
        "incident_listing_search_idx",
        "incident_listing",
        ["organization_id", "project_id", "status", "folded_title"],
        postgresql_using="gin",
        postgresql_ops={"folded_title": "gin_trgm_ops"},
        postgresql_with={"gin_pending_list_limit": "256"},
    )


def _copy() -> None:
    connection = op.get_bind()
    after = 0
    while until := connection.execute(sa.text(NEXT), {"after": after, "batch": BATCH}).scalar():
        connection.execute(sa.text(COPY), {"after": after, "until": until})
        after = until
