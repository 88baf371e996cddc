"""`tocsin up`: the whole stack, in one terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.common import DataOption, JsonOption, resolve_data_dir
from workers.runtime.imports import importing

if TYPE_CHECKING:
    from workers.stack.up import StackExtension


def up(
    *,
    data: DataOption = None,
    host: Annotated[str, typer.Option(help="Address the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")] = 8400,
    demo: Annotated[
        bool, typer.Option("--demo", help="Also import a directory and open incidents to play with.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it; the lines of a start stay lines
) -> None:
    """Start everything that is not configured, and keep it running until Ctrl-C."""
    with importing():
        from workers.stack.console import Console
        from workers.stack.settings import StackSettings
        from workers.stack.up import Stack, StackOptions

    wishes = StackOptions(data=resolve_data_dir(data), host=host, port=port, workers=workers)
    Stack(wishes, StackSettings.from_environment(), Console(), _demo() if demo else []).run()


def _demo() -> Sequence[StackExtension]:
    """What only the demo needs: it asks over HTTP, and writes to the database."""
    with importing():
        from workers.stack import demo
        from workers.stack.demo_catcher import CatcherExtension
    return CatcherExtension(), demo
