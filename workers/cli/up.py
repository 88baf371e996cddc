"""`tocsin up`: the whole stack, in one terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from workers.cli.frame import AsJson, Data, data_folder


def up(
    *,
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")] = 8400,
    demo: Annotated[
        bool, typer.Option("--demo", help="Also import a directory and open incidents to play with.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    as_json: AsJson = False,  # noqa: ARG001 - every command takes it; the lines of a start stay lines
) -> None:
    """Start everything that is not configured, and keep it running until Ctrl-C."""
    from workers.stack import demo as demo_stack
    from workers.stack.catching import Catching
    from workers.stack.settings import StackSettings
    from workers.stack.up import Stack, Wishes
    from workers.stack.voice import Voice

    wishes = Wishes(data=data_folder(data), host=host, port=port, workers=workers)
    Stack(wishes, StackSettings.from_environment(), Voice(), [Catching(), demo_stack] if demo else []).run()
