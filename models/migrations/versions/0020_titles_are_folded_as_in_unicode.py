"""Fold the titles in the incident list as Unicode folds case, and not only to lower case.

Revision: 0020, after 0019. It can be applied while the previous release is running: triggers write the folded titles,
and the previous release finds those that folding leaves as they were in lower case. Existing rows are rewritten in small
transactions. If the migration is interrupted, it can be run again.
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

BATCH = 1_000

# Letters that differ from their lower case in Unicode's case folding, after canonical decomposition.
SINGLE = {
    "\\00B5": "μ", "\\017F": "s", "\\0345": "ι", "\\03C2": "σ", "\\03D0": "β", "\\03D1": "θ", "\\03D5": "φ",
    "\\03D6": "π", "\\03F0": "κ", "\\03F1": "ρ", "\\03F5": "ε", "\\1C80": "в", "\\1C81": "д", "\\1C82": "о",
    "\\1C83": "с", "\\1C84": "т", "\\1C85": "т", "\\1C86": "ъ", "\\1C87": "ѣ", "\\1C88": "ꙋ",
}  # fmt: skip
SEVERAL = {
    "\\00DF": "ss", "\\0149": "ʼn", "\\0587": "եւ", "\\1E9A": "aʾ", "\\FB00": "ff", "\\FB01": "fi", "\\FB02": "fl",
    "\\FB03": "ffi", "\\FB04": "ffl", "\\FB05": "st", "\\FB06": "st", "\\FB13": "մն", "\\FB14": "մե", "\\FB15": "մի",
    "\\FB16": "վն", "\\FB17": "մխ", "i\\0307": "i",
}  # fmt: skip


def _folding() -> str:
    folded = f"translate(lower(normalize(title, NFD)), U&'{''.join(SINGLE)}', '{''.join(SINGLE.values())}')"
    for letter, letters in SEVERAL.items():
        folded = f"replace({folded}, U&'{letter}', '{letters}')"
    return f"normalize({folded}, NFC)"


# Only titles in other than ASCII letters need more than their lower case.
FOLD_TITLE = f"""
CREATE OR REPLACE FUNCTION fold_title(title text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(title) = length(title) THEN lower(title) ELSE {_folding()} END
$$
"""

NEXT = "SELECT max(id) FROM (SELECT id FROM incidents WHERE id > :after ORDER BY id LIMIT :batch) AS batch"

# The lock on each incident prevents a change between reading its title and writing the row.
REWRITE = """
UPDATE incident_listing AS l SET folded_title = fold_title(i.title)
FROM (
    SELECT id, title FROM incidents
    WHERE id > :after AND id <= :until AND octet_length(title) <> length(title)
    FOR SHARE
) AS i
WHERE l.incident_id = i.id AND l.folded_title <> fold_title(i.title)
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(FOLD_TITLE)
        for function in _functions():
            op.execute(
                function.replace("lower(i.title)", "fold_title(i.title)").replace("lower(NEW.", "fold_title(NEW.")
            )
        connection = op.get_bind()
        after = 0
        while until := connection.execute(sa.text(NEXT), {"after": after, "batch": BATCH}).scalar():
            connection.execute(sa.text(REWRITE), {"after": after, "until": until})
            after = until


def downgrade() -> None:
    for function in _functions():
        op.execute(function)
    op.execute(
        "UPDATE incident_listing l SET folded_title = lower(i.title) FROM incidents i WHERE i.id = l.incident_id"
    )
    op.execute("DROP FUNCTION fold_title(text)")


def _functions() -> tuple[str, str]:
    """Return the functions that write the list's titles, as the previous release has them."""
    listing = import_module("models.migrations.versions.0007_titles_by_their_letters")
    incident = import_module("models.migrations.versions.0005_the_incident_list")
    return listing.WRITE_LISTING, incident.FOLLOW_INCIDENT
