"""Commands that an earlier release accepted are applied by this one."""

from __future__ import annotations

import json

import pytest

from tasks.commands.catalog import CATALOG
from tests.messages.samples import COMMANDS, Sample, newest
from tests.messages.world import World

NEWEST = newest(COMMANDS)


def test_every_command_has_a_sample() -> None:
    assert set(NEWEST) == set(CATALOG)


@pytest.mark.parametrize("sample", COMMANDS, ids=str)
def test_a_command_accepted_by_an_earlier_release_is_applied(world: World, sample: Sample) -> None:
    row = world.apply(sample.type, sample.body)

    assert (row["state"], row["error"]) == ("applied", None)
    assert row["outcome_status"] in (200, 201, 202, 204)
    assert "command.dead" not in {event["type"] for event in world.event_bodies()}


@pytest.mark.parametrize("sample", NEWEST.values(), ids=str)
def test_the_newest_sample_of_each_command_matches_the_current_stored_format(sample: Sample) -> None:
    stored = CATALOG[sample.type].command_class.model_validate(sample.body).to_payload()

    assert json.loads(stored) == sample.body
