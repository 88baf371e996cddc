"""The incident list as it is read: a row per incident and project, in the order and by the filters of the list.

Everything that the list filters by stands in one row, so that any combination of filters is one walk along an index,
from the newest on. Parts of titles, and what the rules said that found the incidents, are searched for among rows of
their own, which a change of status leaves alone. The rows are copies: triggers of the database write them with the
incident (``migrations/versions/0005…``, ``0007…``), and nobody else does.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, SmallInteger, Table, Text, func, literal_column

from models.base import METADATA, Timestamp
from models.incidents.incident import IS_OPEN


def _of_rule() -> tuple[Column[Any], ...]:
    """What the rule that found an incident was, and said, in its generation: the same for as long as that lasts."""
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

LIFE: Final = "tstzrange(date_started, greatest(date_closed, date_started), '[]')"
"""From when to when a closed incident was open; only what is closed is indexed by it."""

Index(
    "incident_listing_life_idx",
    incident_listing.c.project_id,
    literal_column(LIFE),
    postgresql_using="gist",
    postgresql_where=literal_column("date_closed IS NOT NULL"),
)
# For the release before, which searches by it; this one does not.
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

# --- titles ----------------------------------------------------------------------------------------------------

LETTERS: Final = 3
"""How many letters in a row the index of titles knows."""

BEFORE_SPACE: Final = 3
AROUND_SPACE: Final = 8
"""And it knows so many, those before a space included, the space itself and what follows."""


class Era(NamedTuple):
    """A stretch of time, all of the same length, numbered from 1970 on."""

    name: str
    seconds: int

    def of(self, moment: str) -> str:
        """The number of the era that a moment is in, as SQL."""
        return f"floor(date_part('epoch', {moment} AT TIME ZONE 'UTC') / {self.seconds})::bigint"


ERAS: Final = (Era("32 days", 32 * 86_400), Era("2 days", 2 * 86_400), Era("3 hours", 3 * 3_600))
"""Each within the one before. Letters are known by the first; of the others the index knows what is in them."""


def letters_key(letters: str, name: str, era: str) -> str:
    """What the index calls letters in an era, in titles of ``name``: an organization, or the ``~`` of a project.

    Titles that have too many letters stand under none of them, but under the empty text. What the rule said is called
    the same way: ``rule:5``, ``rule:5:2`` (its generation), ``environment:prod``, and of every incident ``team:21`` or
    ``team:``, ``dataset:events`` or another.
    """
    return f"hashtextextended({letters}, hashint8extended({era}, {name}))"


def era_key(era: Era, number: str, organization: str) -> str:
    """What the index calls an era of an organization."""
    return f"hashtextextended('{era.name}:' || ({number}), {organization})"


def long_key(organization: str) -> str:
    """What the index calls all titles of an organization that have too many letters."""
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

TITLE_KEYS: Final = f"title_keys({', '.join(_KEYED)})"
"""Letters and rule in their era, once for the organization and once for the project; its shorter eras."""

# A short list of rows still to be indexed keeps openings cheap; every search reads that list.
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
