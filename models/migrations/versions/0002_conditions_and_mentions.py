"""Add the expected version to commands, and to comments the people and teams that they have ever mentioned.

Revision: 0002, after 0001. It can be applied while the previous release is running.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("commands", sa.Column("expected_version", sa.BigInteger(), nullable=True))
    op.add_column("incident_activities", sa.Column("mentions", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("incident_activities", "mentions")
    op.drop_column("commands", "expected_version")
