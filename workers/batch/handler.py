"""The class of command handlers, and the decorator that makes a function one."""

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
    """A command's handler: a function from facts to changes and events, and the needs that say which facts to load."""

    command_class: type[C]
    needs: tuple[Need[C], ...]
    apply: Callable[[C, CommandContext], CommandResult]


def handles(
    command_class: type[C], *needs: Need[C]
) -> Callable[[Callable[[C, CommandContext], CommandResult]], CommandHandler[C]]:
    """Return a decorator that makes a function the command's handler. ``needs`` cover the facts that it reads."""

    def decorate(apply: Callable[[C, CommandContext], CommandResult]) -> CommandHandler[C]:
        return CommandHandler(command_class, needs, apply)

    return decorate
