"""`tocsin up`: run the whole stack in one terminal."""

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
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 for any free port.")] = 8400,
    demo: Annotated[bool, typer.Option("--demo", help="Also import demo people and open demo incidents.")] = False,
    insecure_demo: Annotated[
        bool, typer.Option("--insecure-demo", help="Let --demo listen on an address that others can reach.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of worker processes.")] = 2,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Start all processes and every server for which no URL is configured, and keep them running until Ctrl-C."""
    with importing():
        from workers.stack.console import Console
        from workers.stack.settings import StackSettings
        from workers.stack.up import Stack, StackOptions

    options = StackOptions(
        data=resolve_data_dir(data), host=host, port=port, workers=workers, demo=demo, insecure_demo=insecure_demo
    )
    Stack(options, StackSettings.from_environment(), Console(), _demo() if demo else []).run()


def _demo() -> Sequence[StackExtension]:
    """Return the demo's stack extensions. They need an HTTP client, so they are imported only if requested."""
    with importing():
        from workers.stack import demo
        from workers.stack.demo_catcher import CatcherExtension
    return CatcherExtension(), demo
