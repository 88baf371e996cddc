"""Hints of every version can be read, and a malformed hint still wakes a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.broker.hints import MAX_SUBJECTS, Hint, InvalidHint

SAMPLE = json.loads((Path(__file__).parent / "hint-1.json").read_text())


def test_a_version_1_hint_can_be_read() -> None:
    hint = Hint.parse(SAMPLE)

    assert hint == Hint(("incident:12:7", "org:12", "user:5"), version=1)


def test_hints_are_written_as_version_1() -> None:
    hint = Hint(("incident:12:7", "org:12", "user:5"))

    assert hint.to_args() == SAMPLE


def test_known_fields_of_a_later_hint_version_are_read() -> None:
    later = [{"version": 2, "subjects": ["org:12"], "urgency": "high"}]

    assert Hint.parse_or_empty(later).subjects == ("org:12",)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["incident:12:7"],
        [None],
        [{}],
        [{"subjects": ["org:1"]}],
        [{"version": 1}],
        [{"version": 0, "subjects": ["org:1"]}],
        [{"version": "1", "subjects": ["org:1"]}],
        [{"version": 1, "subjects": "org:1"}],
        [{"version": 1, "subjects": [1]}],
        [{"version": 1, "subjects": [None]}],
        [{"version": 1, "subjects": [["org:1"]]}],
        [{"version": 1, "subjects": [""]}],
        [{"version": 1, "subjects": ["org:\ud800"]}],
        [{"version": 1, "subjects": ["org:1\n"]}],
        [{"version": 1, "subjects": ["x" * 201]}],
        [{"version": 1, "subjects": ["org:1"] * (MAX_SUBJECTS + 1)}],
        [{"version": 1, "subjects": ["org:1"]}, "more"],
    ],
    ids=repr,
)
def test_a_malformed_hint_wakes_the_worker_without_subjects(args: list[Any]) -> None:
    with pytest.raises(InvalidHint):
        Hint.parse(args)

    assert Hint.parse_or_empty(args) == Hint()


def test_many_subjects_are_split_into_hints_without_duplicates() -> None:
    subjects = [f"incident:1:{number}" for number in range(MAX_SUBJECTS + 1)]

    hints = list(Hint.for_subjects([*subjects, *subjects]))

    assert [len(hint.subjects) for hint in hints] == [MAX_SUBJECTS, 1]
    assert [subject for hint in hints for subject in hint.subjects] == subjects
