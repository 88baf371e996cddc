"""Add a table of the tickets that have been used and may be used only once.

Revision: 0012, after 0011. It can be applied while the previous release is running.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "used_tickets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column(
            "expires_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("used_tickets_pkey")),
    )
    op.create_index("used_tickets_expires_at_idx", "used_tickets", ["expires_at"])


def downgrade() -> None:
    op.drop_table("used_tickets")
