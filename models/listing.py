"""The incident list as it is read: a row per incident and project, in the order and by the filters of the list.

Everything that the list filters by stands in one row, so that any combination of filters is one walk along an index,
from the newest on, or one search. The rows are copies: triggers of the database write them with the incident
(``migrations/versions/0002…``), and nobody else does.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, SmallInteger, Table, Text, literal_column

from models.base import METADATA, Moment

listing = Table(
    "incident_listing",
    METADATA,
    Column("incident_id", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("date_started", Moment, nullable=False),
    Column("date_closed", Moment, nullable=True),
    Column("folded_title", Text, nullable=False, comment="in lower case, as it is searched"),
    ForeignKeyConstraint(
        ["incident_id", "project_id"],
        ["incident_projects.incident_id", "incident_projects.project_id"],
        ondelete="CASCADE",
    ),
)

_IN_ORDER: Final = (listing.c.date_started, listing.c.incident_id)

Index("incident_listing_organization_idx", listing.c.organization_id, *_IN_ORDER)
Index("incident_listing_project_idx", listing.c.project_id, *_IN_ORDER)
Index("incident_listing_open_idx", listing.c.project_id, *_IN_ORDER, postgresql_where=literal_column("status <> 2"))
Index("incident_listing_status_idx", listing.c.project_id, listing.c.status, *_IN_ORDER)

LIFE: Final = "tstzrange(date_started, greatest(date_closed, date_started), '[]')"
"""From when to when a closed incident was open; only what is closed is indexed by it."""

Index(
    "incident_listing_life_idx",
    listing.c.project_id,
    literal_column(LIFE),
    postgresql_using="gist",
    postgresql_where=literal_column("date_closed IS NOT NULL"),
)
# Parts of titles, together with everything that could make a common part rare. A short list of rows still to be
# indexed keeps openings cheap; every search reads that list.
Index(
    "incident_listing_search_idx",
    listing.c.organization_id,
    listing.c.project_id,
    listing.c.status,
    listing.c.folded_title,
    postgresql_using="gin",
    postgresql_ops={"folded_title": "gin_trgm_ops"},
    postgresql_with={"gin_pending_list_limit": "256"},
)
