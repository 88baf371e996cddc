"""Add the function with which an import moves a sequence of the directory past the ids in its document.

Revision: 0019, after 0018. Database roles may not move sequences themselves: `models/database/grants.py`.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# It runs with the rights of its owner, so its search path is fixed, and it moves a sequence only forward.
ADVANCE_SEQUENCE = """
CREATE OR REPLACE FUNCTION advance_directory_sequence(sequence text, past bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
    IF sequence NOT IN
        ('organizations_id_seq', 'users_id_seq', 'projects_id_seq', 'teams_id_seq', 'members_id_seq', 'tokens_id_seq')
    THEN
        RAISE EXCEPTION '% is not a sequence of the directory', sequence USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF past > coalesce(pg_sequence_last_value(sequence::regclass), 0) THEN
        PERFORM setval(sequence::regclass, past);
    END IF;
END $$
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(ADVANCE_SEQUENCE.format(schema=schema))


def downgrade() -> None:
    op.execute("DROP FUNCTION advance_directory_sequence(text, bigint)")
