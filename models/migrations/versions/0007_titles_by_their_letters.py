"""Add the search index for titles and rules: a second, rarely changing row for each row of the incident list.

Revision: 0007, after 0006. It can be applied while the previous release is running: triggers on the list write the
rows. Existing rows are copied in small transactions, then indexed. If the migration is interrupted, it can be run
again.
"""

# ruff: noqa: S608 - the SQL is composed of our own fragments
from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BATCH = 1_000

# The definition of an incident's rule in the incident's generation, or the current one if no later one exists.
SAID = """
LEFT JOIN alert_rules r ON r.id = i.alert_rule_id
LEFT JOIN alert_rule_generations g ON g.rule_id = i.alert_rule_id AND g.generation = i.alert_rule_generation
CROSS JOIN LATERAL (SELECT coalesce(g.definition, r.definition) AS words) AS said
"""
WORDS = "(said.words->>'owner_team')::bigint, said.words->>'environment', said.words->>'dataset'"
RULE = "alert_rule_id, alert_rule_generation, owner_team, environment, dataset"

ADD_RULE = """
ALTER TABLE incident_listing
    ADD COLUMN IF NOT EXISTS alert_rule_id bigint, ADD COLUMN IF NOT EXISTS alert_rule_generation bigint,
    ADD COLUMN IF NOT EXISTS owner_team bigint, ADD COLUMN IF NOT EXISTS environment text,
    ADD COLUMN IF NOT EXISTS dataset text
"""

WRITE_LISTING = f"""
CREATE OR REPLACE FUNCTION write_incident_listing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO incident_listing
        (incident_id, project_id, organization_id, status, date_started, date_closed, folded_title, {RULE})
    SELECT i.id, a.project_id, i.organization_id, i.status, i.date_started, i.date_closed, lower(i.title),
           i.alert_rule_id, i.alert_rule_generation, {WORDS}
    FROM added a JOIN incidents i ON i.id = a.incident_id {SAID}
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""

# The rule columns are constant within a generation. This covers a generation whose rule is updated after its first
# incident was written.
FOLLOW_RULE = """
CREATE OR REPLACE FUNCTION follow_alert_rule() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE incident_listing l
    SET owner_team = (NEW.definition->>'owner_team')::bigint, environment = NEW.definition->>'environment',
        dataset = NEW.definition->>'dataset'
    FROM incidents i
    WHERE i.alert_rule_id = NEW.id AND i.alert_rule_generation = NEW.generation AND l.incident_id = i.id;
    RETURN NULL;
END $$
"""

# Hashes keep index entries short. These are the hash functions for hash partitioning, which do not change between
# versions. The operator ~ turns a project's id into a scope that no organization has. The text around a space finds
# combinations of common words, such as "disk full" among titles of which many contain "disk" and many contain "full".
# Titles above a length limit get a single key, because each trigram is an index entry. Rule keys cannot collide with
# trigrams, which have three characters, or with text around a space, whose fourth character is a space.
TITLE_KEYS = """
CREATE OR REPLACE FUNCTION title_keys(
    organization bigint, project bigint, started timestamptz, folded_title text,
    alert_rule bigint, generation bigint, owner_team bigint, environment text, dataset text
) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    era CONSTANT bigint := floor(date_part('epoch', started AT TIME ZONE 'UTC') / 10800);
    of_organization CONSTANT bigint := hashint8extended(era >> 8, organization);
    of_project CONSTANT bigint := hashint8extended(era >> 8, ~project);
    keys bigint[] := ARRAY[hashtextextended('2 days:' || (era >> 4), organization),
                           hashtextextended('3 hours:' || era, organization)];
    facts text[] := ARRAY['team:' || coalesce(owner_team::text, ''), 'dataset:' || coalesce(dataset, 'events')];
    letters text;
BEGIN
    IF alert_rule IS NOT NULL THEN
        facts := facts || ('rule:' || alert_rule) || concat('rule:', alert_rule, ':', generation);
    END IF;
    IF environment IS NOT NULL THEN
        facts := facts || ('environment:' || environment);
    END IF;
    FOREACH letters IN ARRAY facts LOOP
        keys := keys || hashtextextended(letters, of_organization);
        keys := keys || hashtextextended(letters, of_project);
    END LOOP;
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

TITLE = f"incident_id, project_id, organization_id, date_started, folded_title, {RULE}"

WRITE_TITLES = f"""
CREATE OR REPLACE FUNCTION write_incident_titles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO incident_titles ({TITLE}) SELECT {TITLE} FROM added
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""

FOLLOW_LISTING = """
CREATE OR REPLACE FUNCTION follow_incident_listing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE incident_titles
    SET date_started = NEW.date_started, folded_title = NEW.folded_title, alert_rule_id = NEW.alert_rule_id,
        alert_rule_generation = NEW.alert_rule_generation, owner_team = NEW.owner_team,
        environment = NEW.environment, dataset = NEW.dataset
    WHERE incident_id = NEW.incident_id AND project_id = NEW.project_id;
    RETURN NULL;
END $$
"""

TRIGGERS = (
    """
    CREATE OR REPLACE TRIGGER incident_listing_titles AFTER INSERT ON incident_listing
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION write_incident_titles()
    """,
    # A change to the status does not fire the trigger.
    """
    CREATE OR REPLACE TRIGGER incident_listing_titles_follow AFTER UPDATE ON incident_listing FOR EACH ROW
    WHEN ((OLD.date_started, OLD.folded_title, OLD.alert_rule_id, OLD.alert_rule_generation, OLD.owner_team,
           OLD.environment, OLD.dataset)
          IS DISTINCT FROM (NEW.date_started, NEW.folded_title, NEW.alert_rule_id, NEW.alert_rule_generation,
                            NEW.owner_team, NEW.environment, NEW.dataset))
    EXECUTE FUNCTION follow_incident_listing()
    """,
    # A change to the recipients does not fire the trigger.
    """
    CREATE OR REPLACE TRIGGER alert_rules_listing AFTER UPDATE ON alert_rules FOR EACH ROW
    WHEN ((OLD.generation, OLD.definition->>'owner_team', OLD.definition->>'environment', OLD.definition->>'dataset')
          IS DISTINCT FROM (NEW.generation, NEW.definition->>'owner_team', NEW.definition->>'environment',
                            NEW.definition->>'dataset'))
    EXECUTE FUNCTION follow_alert_rule()
    """,
)

COPY_RULES = f"""
UPDATE incident_listing l
SET alert_rule_id = said.alert_rule_id, alert_rule_generation = said.alert_rule_generation,
    owner_team = said.owner_team, environment = said.environment, dataset = said.dataset
FROM (
    SELECT i.id, i.alert_rule_id, i.alert_rule_generation, {WORDS} FROM incidents i {SAID}
    WHERE i.alert_rule_id IS NOT NULL AND i.id > :after AND i.id <= :until
) AS said(id, {RULE})
WHERE l.incident_id = said.id
"""

NEXT_OF_RULES = """
SELECT max(id) FROM (
    SELECT id FROM incidents WHERE alert_rule_id IS NOT NULL AND id > :after ORDER BY id LIMIT :batch
) AS batch
"""

# The lock on each row prevents a change between reading it and inserting the copy that the trigger updates.
COPY = f"""
INSERT INTO incident_titles ({TITLE})
SELECT {TITLE} FROM incident_listing WHERE incident_id > :after AND incident_id <= :until
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
        op.execute(ADD_RULE)
        _create_table()
        for statement in (WRITE_LISTING, FOLLOW_RULE, TITLE_KEYS, WRITE_TITLES, FOLLOW_LISTING, *TRIGGERS):
            op.execute(statement)
        _copy(NEXT_OF_RULES, COPY_RULES)
        _copy(NEXT, COPY)
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
    op.execute("DROP TRIGGER alert_rules_listing ON alert_rules")
    op.execute("DROP TRIGGER incident_listing_titles ON incident_listing")
    op.execute("DROP TRIGGER incident_listing_titles_follow ON incident_listing")
    op.drop_table("incident_titles")
    op.execute(import_module("models.migrations.versions.0005_the_incident_list").WRITE_LISTING)
    for function in ("follow_alert_rule", "follow_incident_listing", "write_incident_titles", "title_keys"):
        op.execute(f"DROP FUNCTION {function}")
    for column in RULE.split(", "):
        op.drop_column("incident_listing", column)


def _create_table() -> None:
    op.create_table(
        "incident_titles",
        sa.Column("incident_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=False),
        sa.Column("date_started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("folded_title", sa.Text(), nullable=False),
        sa.Column("alert_rule_id", sa.BigInteger(), nullable=True),
        sa.Column("alert_rule_generation", sa.BigInteger(), nullable=True),
        sa.Column("owner_team", sa.BigInteger(), nullable=True),
        sa.Column("environment", sa.Text(), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
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
    # A pending list makes inserts cheap. It is short because every search has to read it.
    op.create_index(
        name,
        table,
        [sa.literal_column(f"title_keys(organization_id, project_id, date_started, folded_title, {RULE})")],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "64"},
        postgresql_where=where,
        postgresql_concurrently=True,
    )
    # A row has many keys, so a small sample is representative.
    op.execute(f"ALTER INDEX {name} ALTER COLUMN 1 SET STATISTICS 10")


def _copy(next_: str, copy: str) -> None:
    connection = op.get_bind()
    after = 0
    while until := connection.execute(sa.text(next_), {"after": after, "batch": BATCH}).scalar():
        connection.execute(sa.text(copy), {"after": after, "until": until})
        after = until
