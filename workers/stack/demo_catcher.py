"""The catcher for `tocsin up --demo`, run as an additional process of the stack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tasks.startup import free_port
from workers.stack.own_processes import TocsinProcess, tocsin
from workers.stack.up import Stack

LOOPBACK: Final = "127.0.0.1"


class CatcherExtension:
    """A stack extension that runs the catcher on free ports. It receives mail unless a mail server is configured."""

    def __init__(self) -> None:
        self._page = ""

    @staticmethod
    def webhook_secrets(stack: Stack, /) -> Path:
        """Return the file from which the catcher reads the secrets of webhooks, as a JSON object of paths and secrets.

        Whoever creates a webhook that posts to the catcher may write its secret there.
        """
        return stack.data_dir.path / "webhook-secrets.json"

    def prepare(self, stack: Stack, /) -> None:
        """Start the catcher, and set TOCSIN_SMTP_URL for the processes that start later."""
        ports: set[int] = set()
        while len(ports) < 2:
            ports.add(free_port(LOOPBACK, 0))
        smtp_port, http_port = ports
        ports_and_secrets = ("--smtp-port", str(smtp_port), "--http-port", str(http_port), "--webhook-secrets")
        command = tocsin("catcher", *ports_and_secrets, str(self.webhook_secrets(stack)))
        log = stack.data_dir.logs / "catcher.log"
        stack.supervisor.start([TocsinProcess("catcher", command, log=log, environment=os.environ | stack.environment)])
        stack.environment["TOCSIN_SMTP_URL"] = stack.settings.smtp_url or f"smtp://{LOOPBACK}:{smtp_port}"
        self._page = f"http://{LOOPBACK}:{http_port}"

    def ready_message(self, stack: Stack, /) -> list[str]:
        """Return lines that show the catcher's addresses."""
        mail = "goes to TOCSIN_SMTP_URL" if stack.settings.smtp_url else stack.environment["TOCSIN_SMTP_URL"]
        return [
            f"catcher    {self._page}/ shows mail, webhooks and chat messages",
            f"mail       {mail}",
            f"webhooks   {self._page}/hook",
            f"chat       {self._page}/chat/NAME",
        ]
