"""Give every incident one subject, and every waiting or dead command the subject of its incident.

Revision: 0009, after 0008. All processes of the previous release must be stopped before it is applied: they would order
commands by the old subjects. Only 0.1.0 uses the old subjects.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# An incident has either a rule or a key. If both were given when it was opened, the rule keeps it.
DROP_KEYS = "UPDATE incidents SET dedup_key = NULL WHERE alert_rule_id IS NOT NULL AND dedup_key IS NOT NULL"
CHECK = """
ALTER TABLE incidents ADD CONSTRAINT incidents_one_subject_check CHECK (alert_rule_id IS NULL OR dedup_key IS NULL)
"""

OPEN_COMMANDS = """
UPDATE commands SET subject = CASE
    WHEN payload ? 'alert_rule' THEN 'rule:' || (payload->>'alert_rule')
    WHEN payload ? 'dedup_key' THEN 'key:' || organization_id || ':' || md5(payload->>'dedup_key')
    ELSE 'command:' || id END
WHERE state IN ('accepted', 'dead') AND type IN ('incident.open', 'alertmanager.receive')
"""
BY_KEY = """
UPDATE commands SET subject = 'key:' || organization_id || ':' || md5(substr(payload->>'incident', 7))
WHERE state IN ('accepted', 'dead') AND payload->>'incident' LIKE 'dedup:%%'
"""
BY_NUMBER = """
UPDATE commands c SET subject = CASE
    WHEN i.alert_rule_id IS NOT NULL THEN 'rule:' || i.alert_rule_id
    ELSE 'key:' || i.organization_id || ':' || md5(i.dedup_key) END
FROM incidents i
WHERE c.state IN ('accepted', 'dead') AND c.subject = 'incident:' || i.organization_id || ':' || i.identifier
    AND (i.alert_rule_id IS NOT NULL OR i.dedup_key IS NOT NULL)
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(DROP_KEYS)
    op.get_bind().exec_driver_sql(CHECK)
    for statement in (OPEN_COMMANDS, BY_KEY, BY_NUMBER):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.drop_constraint("incidents_one_subject_check", "incidents")
    op.get_bind().exec_driver_sql("""
        UPDATE commands SET subject = 'org:' || organization_id
        WHERE state IN ('accepted', 'dead') AND (type IN ('incident.open', 'alertmanager.receive')
            OR payload->>'incident' LIKE 'dedup:%%')
    """)
    op.get_bind().exec_driver_sql("""
        UPDATE commands SET subject = 'incident:' || organization_id || ':' || (payload->>'incident')
        WHERE state IN ('accepted', 'dead') AND payload->>'incident' ~ '^[0-9]+$'
    """)
