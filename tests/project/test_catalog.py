"""Every command has a handler and a permission, and every command and event is documented."""

from __future__ import annotations

import pytest

from models.permissions import Permission
from tasks.commands.catalog import CATALOG
from tasks.events import EVENTS
from tests.project.message_docs import examples, sections
from workers.handlers import HANDLERS


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_has_a_handler(command: str) -> None:
    assert command in HANDLERS, f"{command} is in tasks/commands/catalog.py; add a handler in workers/handlers/"


@pytest.mark.parametrize("command", HANDLERS)
def test_every_handler_has_a_command(command: str) -> None:
    assert command in CATALOG, f"{command} has a handler; add it to tasks/commands/catalog.py"


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_has_a_permission_with_scopes_for_its_method(command: str) -> None:
    entry = CATALOG[command]

    assert isinstance(entry.permission, Permission)
    assert entry.permission.scopes.get(entry.method), f"no scope opens {entry.method} for {command}"


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_is_documented_with_an_example(command: str) -> None:
    section = sections("Commands").get(command, "")

    assert examples(section), f"docs/messages.md, Commands: add a heading for `{command}` and a json block"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_documented_with_an_example(event: str) -> None:
    section = sections("Events").get(event, "")

    assert examples(section), f"docs/messages.md, Events: add a heading for `{event}` and a json block"


def test_only_existing_commands_and_events_are_documented() -> None:
    assert set(sections("Commands")) <= set(CATALOG)
    assert set(sections("Events")) <= set(EVENTS)
