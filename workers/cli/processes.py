"""`tocsin gateway`, `tocsin worker`, `tocsin relay` and `tocsin notifier`, each of which runs one process.

The processes are found through entry points, because the packages must not import each other.
"""

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
from workers.stack.process_settings import process_setting_names

_GROUP = "tocsin.processes"


def gateway(
    *,
    data: DataOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8400,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds without a response on its own port, after which it ends itself.")
    ] = PATIENCE_SECONDS,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Run a gateway, which accepts commands and serves reads over HTTP."""
    use_stack_environment(data, names=process_setting_names("gateway"))
    _load_process("gateway")(host=host, port=port, patience_seconds=patience)


def worker(
    *,
    data: DataOption = None,
    lanes: Annotated[str, typer.Option(help="Lanes to consume, separated by commas.")] = "commands,bulk,deliveries",
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds without progress while work waits, after which it ends itself.")
    ] = PATIENCE_SECONDS,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Run a worker, which applies commands."""
    names = [lane.strip() for lane in lanes.split(",") if lane.strip()]
    if not names or not set(names) <= set(Lane):
        raise typer.BadParameter(f"--lanes must be some of {','.join(Lane)}, not {lanes!r}")
    use_stack_environment(data, names=process_setting_names("worker"))
    _load_process("worker")(lanes=names, patience_seconds=patience)


def relay(*, data: DataOption = None, as_json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes it
    """Run a relay, which publishes events in order and sends new hints for overdue commands."""
    use_stack_environment(data, names=process_setting_names("relay"))
    _load_process("relay")()


def notifier(*, data: DataOption = None, as_json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes it
    """Run a notifier, which decides who is notified about each event."""
    use_stack_environment(data, names=process_setting_names("notifier"))
    _load_process("notifier")()


def _load_process(name: str) -> Callable[..., Any]:
    for entry in entry_points(group=_GROUP, name=name):
        with importing():
            process: Callable[..., Any] = entry.load()
        return process
    raise CliError(f"this installation has no {name}: reinstall tocsin (`make setup` in a clone)")
