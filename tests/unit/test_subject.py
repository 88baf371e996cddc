from __future__ import annotations

import pytest

from models.messaging.subject import Subject, SubjectKind, subject_sql

TEXTS = {
    "incident:12:7": Subject.incident(12, 7),
    "rule:5": Subject.rule(5),
    "user:5": Subject.user(5),
    "org:12": Subject.organization(12),
}


@pytest.mark.parametrize(("text", "subject"), TEXTS.items())
def test_a_subject_is_stored_as_its_kind_and_ids(text: str, subject: Subject) -> None:
    assert str(subject) == text
    assert Subject.parse(text) == subject


@pytest.mark.parametrize("text", ["", "nonsense", "incident:12", "incident:12:x", "rule:", "rule:5:2", "canary:17"])
def test_text_in_any_other_form_is_not_a_subject(text: str) -> None:
    assert Subject.parse(text) is None


def test_subjects_built_in_sql_match_those_built_in_python() -> None:
    assert subject_sql(SubjectKind.INCIDENT, "i.organization_id", "i.identifier") == (
        "'incident:' || i.organization_id || ':' || i.identifier"
    )
