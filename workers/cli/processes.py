"""One process of the production stack each; found by entry point, since the rooms do not import each other."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from models.enums import Lane
from tasks.watchdog import PATIENCE_SECONDS
from workers.cli.common import DataOption, JsonOption, use_stack_environment
from workers.cli.errors import CliError
from workers.runtime.imports import importing

_GROUP = "tocsin.processes"


def gateway(
    *,
    data: DataOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8400,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds without an answer at its own door, after which it ends itself.")
    ] = PATIENCE_SECONDS,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Take HTTP in and commands out."""
    use_stack_environment(data)
    _process("gateway")(host=host, port=port, patience_seconds=patience)


def worker(
    *,
    data: DataOption = None,
    lanes: Annotated[str, typer.Option(help="Lanes to work on, separated by commas.")] = "commands,bulk,deliveries",
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds without progress, while work waits, after which it ends itself.")
    ] = PATIENCE_SECONDS,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Apply commands and deliver notifications."""
    names = [lane.strip() for lane in lanes.split(",") if lane.strip()]
    if not names or not set(names) <= set(Lane):
        raise typer.BadParameter(f"--lanes takes some of {','.join(Lane)}, not {lanes!r}")
    use_stack_environment(data)
    _process("worker")(lanes=names, patience_seconds=patience)


def relay(*, data: DataOption = None, as_json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes it
    """Announce events in order, and sweep up forgotten work."""
    use_stack_environment(data)
    _process("relay")()


def notifier(*, data: DataOption = None, as_json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes it
    """Decide who hears of what."""
    use_stack_environment(data)
    _process("notifier")()


def _process(name: str) -> Callable[..., Any]:
    for entry in entry_points(group=_GROUP, name=name):
        with importing():
            process: Callable[..., Any] = entry.load()
        return process
    raise CliError(f"this installation has no {name}: install tocsin again (`make setup` in a clone)")
