"""Packages for Node with which tests read what tocsin sends: ``standardwebhooks`` and ``mailparser``.

They are installed from the npm registry, in the versions that ``node/package-lock.json`` lists.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.delivery.webhook_receiver import ReceivedRequest

_LOCKED: Final = Path(__file__).parent / "node"

_VERIFY: Final = """
const { Webhook } = require("standardwebhooks");
const { secret, headers, body } = JSON.parse(require("fs").readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(Buffer.from(body, "base64"), headers);
  console.log(JSON.stringify("verified"));
} catch (error) {
  console.log(JSON.stringify(error.message));
}
"""

_READ_MAIL: Final = """
const { simpleParser } = require("mailparser");
simpleParser(require("fs").readFileSync(0)).then((mail) => {
  const { subject, messageId, inReplyTo, references, text, html, from, to } = mail;
  console.log(JSON.stringify({
    subject, messageId, inReplyTo, references, text, html,
    from: from.value, to: to.value, list: mail.headers.get("list"),
  }));
});
"""


class NodePackages:
    """The packages, installed in a folder."""

    def __init__(self, folder: Path) -> None:
        """Install the packages into the folder. Without Node, skip the test; in CI, fail."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            if "CI" in os.environ:
                pytest.fail("node and npm are not installed here: install them, as .ci/run does")
            pytest.skip("Node is not installed here")
        self._folder = folder
        shutil.copytree(_LOCKED, folder, dirs_exist_ok=True)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=folder, check=True, timeout=120)

    def verify(self, request: ReceivedRequest, secret: str) -> str:
        """Verify a request as a receiver does. Return ``verified``, or the error message of ``standardwebhooks``."""
        body = base64.b64encode(request.body).decode()
        given = json.dumps({"secret": secret, "headers": request.headers, "body": body})
        return str(self._run(_VERIFY, given.encode()))

    def read_mail(self, message: bytes) -> Any:
        """Return what ``mailparser`` finds in a mail: addresses, ids, texts, and the URLs of ``List-`` fields."""
        return self._run(_READ_MAIL, message)

    def _run(self, script: str, given: bytes) -> Any:
        result = subprocess.run(
            ["node", "-e", script], cwd=self._folder, input=given, capture_output=True, check=True, timeout=60
        )
        return json.loads(result.stdout)
