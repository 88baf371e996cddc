"""The projection for the incident list: one row per incident and project.

A row holds everything that the list can be filtered by, so any combination of filters needs only one index scan, in
list order (newest first). Title trigrams and rule keys are searched in a second table, which status changes do not
touch.
Both tables are written only by database triggers, together with the incident (``migrations/versions/0005…``,
``0007…``).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, SmallInteger, Table, Text, func, literal_column

from models.base import METADATA, Timestamp
from models.incidents.incident import IS_OPEN


def _of_rule() -> tuple[Column[Any], ...]:
    """Return the columns that describe an incident's rule, as it was in the generation in which the incident began."""
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
"""The SQL expression for the period during which a closed incident was open.

Its index contains only closed incidents.
"""

Index(
    "incident_listing_life_idx",
    incident_listing.c.project_id,
    literal_column(LIFETIME),
    postgresql_using="gist",
    postgresql_where=literal_column("date_closed IS NOT NULL"),
)
# Only the previous release uses this index.
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
"""The number of consecutive characters in a trigram."""

BEFORE_SPACE: Final = 3
AROUND_SPACE: Final = 8
"""The length of the piece of text that is indexed around each space in a title.

The piece begins ``BEFORE_SPACE`` characters before the space.
"""


class TimeBucket(NamedTuple):
    """A kind of time bucket. All buckets of a kind have the same length and are numbered from 1970 onwards."""

    name: str
    seconds: int

    def number_of(self, timestamp: str) -> str:
        """Return the SQL expression for the number of the bucket that contains the SQL expression ``timestamp``."""
        return f"floor(date_part('epoch', {timestamp} AT TIME ZONE 'UTC') / {self.seconds})::bigint"


TIME_BUCKETS: Final = (
    TimeBucket("32 days", 32 * 86_400),
    TimeBucket("2 days", 2 * 86_400),
    TimeBucket("3 hours", 3 * 3_600),
)
"""The kinds of time buckets, longest first. Each length is a divisor of the one before it.

The keys of trigrams refer to buckets of the longest kind. Shorter buckets have separate keys.
"""


def search_key(text: str, scope: str, bucket: str) -> str:
    """Return the SQL expression for the index key of a text in a time bucket.

    The parameters are SQL expressions, too. ``scope`` is an organization's id, or ``~`` followed by a project's id. The
    text is one of these:

    - a trigram, or the text around a space
    - an empty text, for a title that has too many trigrams to be indexed
    - ``rule:5``, ``rule:5:2`` (the rule's generation) or ``environment:prod``, if the incident has them
    - ``team:21``, or ``team:`` if no team owns the rule
    - ``dataset:events`` or another dataset
    """
    return f"hashtextextended({text}, hashint8extended({bucket}, {scope}))"


def bucket_key(bucket: TimeBucket, number: str, organization: str) -> str:
    """Return the SQL expression for the index key of an organization's time bucket."""
    return f"hashtextextended('{bucket.name}:' || ({number}), {organization})"


def long_titles_key(organization: str) -> str:
    """Return the SQL expression for an organization's index key for titles that are too long to index by trigram."""
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
"""The SQL expression for a row's index keys.

They are the keys of trigrams and rules, per organization and per project, and the keys of time buckets.
"""

# A pending list makes inserts cheap. It is short because every search has to read it.
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
