"""Subjects: their text, and the kinds that it denotes."""

from __future__ import annotations

from uuid import UUID

import pytest

from models.messaging.subject import Subject, SubjectKind, is_of_kind

ID = UUID(int=7)
TEXTS = {
    "incident:12:7": Subject.incident(12, 7),
    "key:12:5d41402abc4b2a76b9719d911017c592": Subject.dedup_key(12, "hello"),
    "rule:5": Subject.rule(5),
    "user:5": Subject.user(5),
    "org:12": Subject.organization(12),
    "command:00000000-0000-0000-0000-000000000007": Subject.command(ID),
}


@pytest.mark.parametrize(("text", "subject"), TEXTS.items())
def test_a_subject_is_stored_as_its_kind_and_name(text: str, subject: Subject) -> None:
    assert str(subject) == text
    assert is_of_kind(text, subject.kind)


def test_a_kind_is_not_confused_with_one_that_has_the_same_prefix() -> None:
    assert not is_of_kind("organization:5", SubjectKind.ORGANIZATION)
