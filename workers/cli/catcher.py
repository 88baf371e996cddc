"""`tocsin catcher`: the demo's catcher of mails, webhooks and chat messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.common import DataOption, JsonOption
from workers.runtime.imports import importing


def catcher(
    *,
    data: DataOption = None,  # noqa: ARG001 - every command takes it
    smtp_port: Annotated[int, typer.Option(min=1, max=65535, help="Port for mail (SMTP).")] = 8425,
    http_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port for webhooks, chat messages and the page.")
    ] = 8480,
    webhook_secrets: Annotated[
        Path | None, typer.Option(help="JSON file with the secrets of webhooks by path, to check their signatures.")
    ] = None,
    as_json: JsonOption = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Receive mail, webhooks and chat messages on this machine, and show them."""
    with importing():
        from tasks.log_config import configure_logging
        from tasks.settings import LogLevel
        from workers.stack.mail_catcher import run

    configure_logging(LogLevel.WARNING)
    run(smtp_port=smtp_port, http_port=http_port, secrets_file=webhook_secrets)
