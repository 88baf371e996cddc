"""The class of command handlers, and the decorator that turns a function into one."""

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
    """A command's handler: a function from facts to changes and events, and the needs that select the facts to load."""

    command_class: type[C]
    needs: tuple[Need[C], ...]
    apply: Callable[[C, CommandContext], CommandResult]


def handles(
    command_class: type[C], *needs: Need[C]
) -> Callable[[Callable[[C, CommandContext], CommandResult]], CommandHandler[C]]:
    """Return a decorator that turns a function into the command's handler.

    ``needs`` must cover all the facts that the function reads.
    """

    def decorate(apply: Callable[[C, CommandContext], CommandResult]) -> CommandHandler[C]:
        return CommandHandler(command_class, needs, apply)

    return decorate
