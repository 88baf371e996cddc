"""The projection that the incident list reads: a row per incident and project.

A row holds everything that the list filters by, so that any combination of filters is one scan along an index in list
order, newest first. Trigrams of titles and keys of rules are searched in a second table, which a change of status does
not touch. Triggers of the database write both tables together with the incident (``migrations/versions/0005…``,
``0007…``); nothing else does.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, SmallInteger, Table, Text, func, literal_column

from models.base import METADATA, Timestamp
from models.incidents.incident import IS_OPEN


def _of_rule() -> tuple[Column[Any], ...]:
    """Return the columns of an incident's rule, as it was in the generation in which the incident began."""
    return (
        Column("alert_rule_id", BigInteger, nullable=True),
        Column("alert_rule_generation", BigInteger, nullable=True),
        Column("owner_team", BigInteger, nullable=True),
        Column("environment", Text, nullable=True),
        Column("dataset", Text, nullable=True),
    )


RULE_COLUMNS: Final = tuple(column.name for column in _of_rule())

incident_listing = Table(
    "incident_listing",
    METADATA,
    Column("incident_id", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("date_started", Timestamp, nullable=False),
    Column("date_closed", Timestamp, nullable=True),
    Column("folded_title", Text, nullable=False, comment="in lower case, as it is searched"),
    *_of_rule(),
    ForeignKeyConstraint(
        ["incident_id", "project_id"],
        ["incident_projects.incident_id", "incident_projects.project_id"],
        ondelete="CASCADE",
    ),
)

_IN_ORDER: Final = (incident_listing.c.date_started, incident_listing.c.incident_id)

Index("incident_listing_organization_idx", incident_listing.c.organization_id, *_IN_ORDER)
Index("incident_listing_project_idx", incident_listing.c.project_id, *_IN_ORDER)
Index(
    "incident_listing_open_idx",
    incident_listing.c.project_id,
    *_IN_ORDER,
    postgresql_where=literal_column(IS_OPEN),
)
Index(
    "incident_listing_unfinished_idx",
    incident_listing.c.organization_id,
    *_IN_ORDER,
    postgresql_where=literal_column(IS_OPEN),
)
Index("incident_listing_status_idx", incident_listing.c.project_id, incident_listing.c.status, *_IN_ORDER)

LIFETIME: Final = "tstzrange(date_started, greatest(date_closed, date_started), '[]')"
"""When a closed incident was open; indexed for closed incidents only."""

Index(
    "incident_listing_life_idx",
    incident_listing.c.project_id,
    literal_column(LIFETIME),
    postgresql_using="gist",
    postgresql_where=literal_column("date_closed IS NOT NULL"),
)
# Used by the previous release only.
Index(
    "incident_listing_search_idx",
    incident_listing.c.organization_id,
    incident_listing.c.project_id,
    incident_listing.c.status,
    incident_listing.c.folded_title,
    postgresql_using="gin",
    postgresql_ops={"folded_title": "gin_trgm_ops"},
    postgresql_with={"gin_pending_list_limit": "256"},
)

# --- search index ----------------------------------------------------------------------------------------------

TRIGRAM_LENGTH: Final = 3
"""How many consecutive characters make a trigram."""

BEFORE_SPACE: Final = 3
AROUND_SPACE: Final = 8
"""Around each space of a title the index also holds this many characters, ``BEFORE_SPACE`` of them before the space."""


class TimeBucket(NamedTuple):
    """A kind of time bucket; buckets of a kind have the same length and are numbered from 1970 on."""

    name: str
    seconds: int

    def number_of(self, timestamp: str) -> str:
        """Return the SQL of the number of the bucket that a timestamp (SQL, too) is in."""
        return f"floor(date_part('epoch', {timestamp} AT TIME ZONE 'UTC') / {self.seconds})::bigint"


TIME_BUCKETS: Final = (
    TimeBucket("32 days", 32 * 86_400),
    TimeBucket("2 days", 2 * 86_400),
    TimeBucket("3 hours", 3 * 3_600),
)
"""Each kind divides the one before. Trigrams are indexed by the longest; shorter buckets are keys of their own."""


def search_key(text: str, scope: str, bucket: str) -> str:
    """Return the SQL of the index key of a text in a bucket; ``scope`` is an organization's id, or ``~`` a project's.

    The text is a trigram, or empty for titles with too many trigrams to be indexed, or names the rule: ``rule:5``,
    ``rule:5:2`` (its generation), ``environment:prod``; every incident also has ``team:21``, or ``team:`` without an
    owner, and ``dataset:events`` or another.
    """
    return f"hashtextextended({text}, hashint8extended({bucket}, {scope}))"


def bucket_key(bucket: TimeBucket, number: str, organization: str) -> str:
    """Return the SQL of the index key of an organization's bucket."""
    return f"hashtextextended('{bucket.name}:' || ({number}), {organization})"


def long_titles_key(organization: str) -> str:
    """Return the SQL of the index key of an organization's titles that have too many trigrams to be indexed."""
    return f"hashtextextended('long', {organization})"


incident_titles = Table(
    "incident_titles",
    METADATA,
    Column("incident_id", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("date_started", Timestamp, nullable=False),
    Column("folded_title", Text, nullable=False),
    *_of_rule(),
    ForeignKeyConstraint(
        ["incident_id", "project_id"],
        ["incident_listing.incident_id", "incident_listing.project_id"],
        ondelete="CASCADE",
    ),
    comment="a row of incident_listing, by what never changes as long as an incident lives",
)

_KEYED: Final = ("organization_id", "project_id", "date_started", "folded_title", *RULE_COLUMNS)

SEARCH_KEYS: Final = f"title_keys({', '.join(_KEYED)})"
"""The index keys of a row: trigrams and rule in their bucket, per organization and project, and the shorter buckets."""

# A short pending list keeps inserts cheap; every search has to read that list.
for _table, _name, _where in (
    (incident_titles, "incident_titles_keys_idx", None),
    (incident_listing, "incident_listing_unfinished_keys_idx", literal_column(IS_OPEN)),
):
    Index(
        _name,
        func.title_keys(*(_table.c[name] for name in _KEYED)),
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "64"},
        postgresql_where=_where,
    )
