from __future__ import annotations

import pytest

from models.policy import Permission
from tasks.commands.catalog import CATALOG
from tasks.events import EVENTS
from tests.project.paragraphs import examples, paragraphs
from workers.handlers import HANDLERS


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_has_a_handler(command: str) -> None:
    assert command in HANDLERS, (
        f"{command} is in tasks/commands/catalog.py; its handler in workers/handlers/ is missing"
    )


@pytest.mark.parametrize("command", HANDLERS)
def test_every_handler_has_a_command(command: str) -> None:
    assert command in CATALOG, f"{command} has a handler; its line in tasks/commands/catalog.py is missing"


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_needs_a_right_that_its_method_names(command: str) -> None:
    entry = CATALOG[command]

    assert isinstance(entry.permission, Permission)
    assert entry.permission.scopes.get(entry.method), f"no scope opens {entry.method} for {command}"


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_is_explained_with_an_example(command: str) -> None:
    paragraph = paragraphs("Commands").get(command, "")

    assert examples(paragraph), f"docs/messages.md, Commands: a heading for `{command}` and a json block are missing"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_explained_with_an_example(event: str) -> None:
    paragraph = paragraphs("Events").get(event, "")

    assert examples(paragraph), f"docs/messages.md, Events: a heading for `{event}` and a json block are missing"


def test_nothing_is_explained_that_does_not_exist() -> None:
    assert set(paragraphs("Commands")) <= set(CATALOG)
    assert set(paragraphs("Events")) <= set(EVENTS)
