"""The catcher for `tocsin up --demo`, an additional process of the stack, and the destinations that lead to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import httpx2

from tasks.startup import free_port
from workers.stack.own_processes import TocsinProcess, tocsin
from workers.stack.process_settings import process_environment
from workers.stack.up import Stack

LOOPBACK: Final = "127.0.0.1"

NOTIFY_WINDOW: Final = "2"
"""The demo's ``TOCSIN_NOTIFY_WINDOW`` unless it is configured: whoever tries the demo does not wait long for a mail."""

WEBHOOK_PATH: Final = "/hook/demo"
DESCRIPTION: Final = "The demo's catcher"
"""The description of the demo's webhook, and the name of its chat destination: those of an earlier run are replaced."""

CHAT_ROOM: Final = "on-call"

_PATIENCE_SECONDS: Final = 15


class CatcherExtension:
    """A stack extension that runs the catcher on free ports. It receives mail unless a mail server is configured.

    The demo's organization gets a webhook and a chat destination that post to it.
    """

    def __init__(self) -> None:
        self._page = ""
        self._http_port = 0

    @staticmethod
    def webhook_secrets(stack: Stack, /) -> Path:
        """Return the file from which the catcher reads the secrets of webhooks, as a JSON object of paths and secrets.

        Whoever creates a webhook that posts to the catcher may write its secret there.
        """
        return stack.data_dir.path / "webhook-secrets.json"

    def prepare(self, stack: Stack, /) -> None:
        """Start the catcher, and configure the processes that start later to send to it, soon after an event."""
        ports: set[int] = set()
        while len(ports) < 2:
            ports.add(free_port(LOOPBACK, 0))
        smtp_port, http_port = ports
        ports_and_secrets = ("--smtp-port", str(smtp_port), "--http-port", str(http_port), "--webhook-secrets")
        command = tocsin("catcher", *ports_and_secrets, str(self.webhook_secrets(stack)))
        log = stack.data_dir.logs / "catcher.log"
        environment = process_environment("catcher", os.environ | stack.environment)
        stack.supervisor.start([TocsinProcess("catcher", command, log=log, environment=environment)])
        stack.environment["TOCSIN_SMTP_URL"] = stack.settings.smtp_url or f"smtp://{LOOPBACK}:{smtp_port}"
        networks = [network for network in (stack.settings.webhook_allow, f"{LOOPBACK}/32") if network.strip()]
        stack.environment["TOCSIN_WEBHOOK_ALLOW"] = ",".join(networks)
        stack.environment["TOCSIN_NOTIFY_WINDOW"] = stack.settings.notify_window or NOTIFY_WINDOW
        self._http_port = http_port
        self._page = f"http://{LOOPBACK}:{http_port}"

    def ready_message(self, stack: Stack, /) -> list[str]:
        """Register the webhook and the chat destination. Return lines with the catcher's addresses, and any failure."""
        mail = "goes to TOCSIN_SMTP_URL" if stack.settings.smtp_url else stack.environment["TOCSIN_SMTP_URL"]
        return [
            f"catcher    {self._page}/ shows mail, webhooks and chat messages",
            f"mail       {mail}",
            f"webhooks   {self._page}/hook",
            f"chat       {self._page}/chat/NAME",
            *self._register(stack),
        ]

    def _register(self, stack: Stack) -> list[str]:
        webhook = {"url": f"{self._page}{WEBHOOK_PATH}", "events": ["incident.*"], "description": DESCRIPTION}
        # The catcher is a Mattermost server here, whose address has a path. The last part is the hook's key.
        url = f"mmost://{LOOPBACK}:{self._http_port}/chat/{CHAT_ROOM}/demo"
        chat = {"name": DESCRIPTION, "url": url, "events": ["incident.opened", "incident.status_changed"]}
        try:
            with httpx2.Client(
                base_url=f"{stack.url}/api/0/organizations/acme/",
                headers={"Authorization": "Bearer dev-own", "Prefer": f"wait={_PATIENCE_SECONDS}"},
                timeout=2 * _PATIENCE_SECONDS,
            ) as owner:
                secret = _replace(owner, "webhooks/", webhook, key="description")["secret"]
                self._write_secret(stack, str(secret))
                _replace(owner, "chat-destinations/", chat, key="name")
        except (httpx2.HTTPError, OSError, ValueError, KeyError) as error:
            return [f"the demo's webhook and chat destination have not been registered: {error!r}"]
        return []

    def _write_secret(self, stack: Stack, secret: str) -> None:
        path = self.webhook_secrets(stack)
        path.touch(mode=0o600)
        path.write_text(json.dumps({WEBHOOK_PATH: secret}))


def _replace(owner: httpx2.Client, path: str, body: dict[str, Any], *, key: str) -> dict[str, Any]:
    """Create a destination, and return it. One from an earlier run, when the catcher had other ports, is deleted."""
    for existing in owner.get(path).raise_for_status().json():
        if existing[key] == body[key]:
            owner.delete(f"{path}{existing['id']}/").raise_for_status()
    created: dict[str, Any] = owner.post(path, json=body).raise_for_status().json()
    return created
