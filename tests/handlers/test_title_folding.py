"""The SQL function by which titles are searched agrees with Python's case folding."""

from __future__ import annotations

import sys
import unicodedata

from sqlalchemy import text

from models.incidents.title_folding import fold_title
from tests.conftest import Database

ASSIGNED = [
    chr(code) for code in range(1, sys.maxunicode + 1) if unicodedata.category(chr(code)) not in {"Cs", "Cn", "Co"}
]


def test_the_database_folds_every_letter_as_python_does_and_not_twice(database: Database) -> None:
    query = text(
        "SELECT letter FROM unnest(CAST(:letters AS text[]), CAST(:folded AS text[])) AS given(letter, folded)"
        " WHERE fold_title(letter) <> fold_title(folded)"
        " OR fold_title(fold_title(letter)) <> fold_title(letter)"
    )

    with database.engine.connect() as connection:
        differing = connection.execute(query, {"letters": ASSIGNED, "folded": [fold_title(each) for each in ASSIGNED]})

        assert [f"{ord(letter):x}" for letter in differing.scalars()] == []
