"""Add the request id and trace context to commands, and the request id to events.

Revision: 0008, after 0007. It can be applied while the previous release is running.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("commands", sa.Column("request_id", sa.Text(), nullable=True))
    op.add_column("commands", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("events", sa.Column("request_id", sa.Text(), nullable=True))
    op.add_column("events", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("events", "traceparent")
    op.drop_column("events", "request_id")
    op.drop_column("commands", "traceparent")
    op.drop_column("commands", "request_id")
