"""The verification of webhooks with the ``standardwebhooks`` package for Node, installed from the npm registry."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Final

from tests.delivery.webhook_receiver import ReceivedRequest

PACKAGE: Final = "standardwebhooks@1.0.0"

_SCRIPT: Final = """
const { Webhook } = require("standardwebhooks");
const { secret, headers, body } = JSON.parse(require("fs").readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(Buffer.from(body, "base64"), headers);
  console.log("verified");
} catch (error) {
  console.log(error.message);
}
"""


class NodeVerifier:
    """Verifies requests as a receiver written for Node does."""

    def __init__(self, folder: Path) -> None:
        """Install the package into the folder."""
        self._folder = folder
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", PACKAGE],
            cwd=folder,
            check=True,
            timeout=120,
        )

    def verify(self, request: ReceivedRequest, secret: str) -> str:
        """Return ``verified``, or the package's error message."""
        body = base64.b64encode(request.body).decode()
        result = subprocess.run(
            ["node", "-e", _SCRIPT],
            cwd=self._folder,
            input=json.dumps({"secret": secret, "headers": request.headers, "body": body}),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return result.stdout.strip()
