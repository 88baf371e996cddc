"""Titles by their letters: a row beside each row of the incident list that changes only with title or date.

Revision: 0007, after 0006. It works with the previous release still running: triggers of the list keep the rows; what is
there already is copied in small transactions, then indexed. If it is interrupted it starts again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BATCH = 1_000

# Hashes keep an entry short; they are those of hash partitioning, the same on every version and platform. ~ keeps a
# project apart from the organization of the same number. The letters around a space tell apart what is said of two
# things: "disk full" where all speak of disks, and of what is full, but not of full disks. A title of more letters than
# anybody reads would be more entries than anybody wants to wait for.
TITLE_KEYS = """
CREATE OR REPLACE FUNCTION title_keys(organization bigint, project bigint, started timestamptz, folded_title text)
RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    era CONSTANT bigint := floor(date_part('epoch', started AT TIME ZONE 'UTC') / 10800);
    of_organization CONSTANT bigint := hashint8extended(era >> 8, organization);
    of_project CONSTANT bigint := hashint8extended(era >> 8, ~project);
    keys bigint[] := ARRAY[hashtextextended('2 days:' || (era >> 4), organization),
                           hashtextextended('3 hours:' || era, organization)];
    letters text;
BEGIN
    IF length(folded_title) > 1000 THEN
        RETURN keys || hashtextextended('long', organization)
                    || hashtextextended('', of_organization) || hashtextextended('', of_project);
    END IF;
    FOR place IN 1 .. length(folded_title) - 2 LOOP
        letters := substr(folded_title, place, 3);
        keys := keys || hashtextextended(letters, of_organization);
        keys := keys || hashtextextended(letters, of_project);
        IF substr(folded_title, place + 3, 1) = ' ' AND place + 7 <= length(folded_title) THEN
            letters := substr(folded_title, place, 8);
            keys := keys || hashtextextended(letters, of_organization);
            keys := keys || hashtextextended(letters, of_project);
        END IF;
    END LOOP;
    RETURN keys;
END $$
"""

WRITE_TITLES = """
CREATE OR REPLACE FUNCTION write_incident_titles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO incident_titles (incident_id, project_id, organization_id, date_started, folded_title)
    SELECT incident_id, project_id, organization_id, date_started, folded_title FROM added
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""

FOLLOW_LISTING = """
CREATE OR REPLACE FUNCTION follow_incident_listing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE incident_titles SET date_started = NEW.date_started, folded_title = NEW.folded_title
    WHERE incident_id = NEW.incident_id AND project_id = NEW.project_id;
    RETURN NULL;
END $$
"""

TRIGGERS = (
    """
    CREATE OR REPLACE TRIGGER incident_listing_titles AFTER INSERT ON incident_listing
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION write_incident_titles()
    """,
    # A change of status does not come here.
    """
    CREATE OR REPLACE TRIGGER incident_listing_titles_follow AFTER UPDATE ON incident_listing FOR EACH ROW
    WHEN ((OLD.date_started, OLD.folded_title) IS DISTINCT FROM (NEW.date_started, NEW.folded_title))
    EXECUTE FUNCTION follow_incident_listing()
    """,
)

# The lock on each row lets no change slip between its reading and the copy being there for the trigger.
COPY = """
INSERT INTO incident_titles (incident_id, project_id, organization_id, date_started, folded_title)
SELECT incident_id, project_id, organization_id, date_started, folded_title FROM incident_listing WHERE incident_id > :after AND incident_id <= :until
FOR SHARE
ON CONFLICT DO NOTHING
"""

NEXT = """
SELECT max(incident_id) FROM (
    SELECT incident_id FROM incident_listing WHERE incident_id > :after ORDER BY incident_id LIMIT :batch
) AS batch
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for trigger in ("incident_listing_titles", "incident_listing_titles_follow"):
            op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON incident_listing")
        op.execute("DROP TABLE IF EXISTS incident_titles")
        _create_table()
        for statement in (TITLE_KEYS, WRITE_TITLES, FOLLOW_LISTING, *TRIGGERS):
            op.execute(statement)
        _copy()
        for index in ("incident_listing_unfinished_idx", "incident_listing_unfinished_keys_idx"):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
        op.create_index(
            "incident_listing_unfinished_idx",
            "incident_listing",
            ["organization_id", "date_started", "incident_id"],
            postgresql_where=sa.text("status <> 2"),
            postgresql_concurrently=True,
        )
        _index_letters("incident_titles_keys_idx", "incident_titles")
        _index_letters("incident_listing_unfinished_keys_idx", "incident_listing", sa.text("status <> 2"))
        op.execute("ANALYZE incident_titles")


def downgrade() -> None:
    op.drop_index("incident_listing_unfinished_keys_idx", table_name="incident_listing")
    op.drop_index("incident_listing_unfinished_idx", table_name="incident_listing")
    op.execute("DROP TRIGGER incident_listing_titles ON incident_listing")
    op.execute("DROP TRIGGER incident_listing_titles_follow ON incident_listing")
    op.drop_table("incident_titles")
    for function in ("follow_incident_listing()", "write_incident_titles()"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP FUNCTION title_keys(bigint, bigint, timestamptz, text)")


def _create_table() -> None:
    op.create_table(
        "incident_titles",
        sa.Column("incident_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("date_started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("folded_title", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["incident_id", "project_id"],
            ["incident_listing.incident_id", "incident_listing.project_id"],
            name=op.f("incident_titles_incident_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("incident_id", "project_id", name=op.f("incident_titles_pkey")),
        comment="a row of incident_listing, by what never changes as long as an incident lives",
    )


def _index_letters(name: str, table: str, where: sa.TextClause | None = None) -> None:
    # A short list of rows still to be indexed keeps openings cheap; every search reads that list.
    op.create_index(
        name,
        table,
        [sa.literal_column("title_keys(organization_id, project_id, date_started, folded_title)")],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "64"},
        postgresql_where=where,
        postgresql_concurrently=True,
    )
    # It knows thousands of letters: a few samples tell as much as many.
    op.execute(f"ALTER INDEX {name} ALTER COLUMN 1 SET STATISTICS 10")


def _copy() -> None:
    connection = op.get_bind()
    after = 0
    while until := connection.execute(sa.text(NEXT), {"after": after, "batch": BATCH}).scalar():
        connection.execute(sa.text(COPY), {"after": after, "until": until})
        after = until
