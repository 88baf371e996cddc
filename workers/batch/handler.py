"""Command handlers, each with the facts it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tasks.commands.base import Command
from workers.batch.context import CommandContext, CommandResult
from workers.batch.needs import Need

C = TypeVar("C", bound=Command)


@dataclass(frozen=True, slots=True)
class CommandHandler(Generic[C]):
    """The handler of a command: a function from facts to changes and events, and the facts to load for it."""

    command_class: type[C]
    needs: tuple[Need[C], ...]
    apply: Callable[[C, CommandContext], CommandResult]


def handles(
    command_class: type[C], *needs: Need[C]
) -> Callable[[Callable[[C, CommandContext], CommandResult]], CommandHandler[C]]:
    """Make a function the handler of a command. ``needs`` are the facts that the function reads from its context."""

    def decorate(apply: Callable[[C, CommandContext], CommandResult]) -> CommandHandler[C]:
        return CommandHandler(command_class, needs, apply)

    return decorate
