"""Programs of other projects that read mails: Perl's Email::MIME, notmuch, and dkimpy on Debian's own Python.

.ci/run installs them. Without them, tests are skipped; in CI, they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

DEBIAN_PYTHON: Final = "/usr/bin/python3"

_PERL: Final = r"""
use strict; use warnings; use Email::MIME; use JSON::PP;
local $/; my $mail = Email::MIME->new(scalar <STDIN>);
my %parts; $mail->walk_parts(sub {
    my ($part) = @_;
    $parts{($part->content_type =~ m{^([^;]+)})[0]} = $part->body_str unless $part->subparts;
});
print JSON::PP->new->utf8->encode({
    headers => { map { lc($_) => $mail->header_str($_) } $mail->header_names },
    parts => \%parts,
});
"""

_DKIM: Final = """
import sys, json, dkim
record, message = sys.argv[1].encode(), sys.stdin.buffer.read()
print(json.dumps(dkim.verify(message, dnsfunc=lambda name, timeout=5: record)))
"""


def read_with_perl(message: bytes) -> Any:
    """Return the decoded headers, by lower-case name, and the parts, by content type."""
    require(["perl", "-MEmail::MIME", "-e", "1"], "libemail-mime-perl")
    run = subprocess.run(["perl", "-e", _PERL], input=message, capture_output=True, check=True)
    return json.loads(run.stdout)


class Notmuch:
    """An index of the mails in a folder."""

    def __init__(self, maildir: Path) -> None:
        require(["notmuch", "--version"], "notmuch")
        configuration = maildir.parent / "notmuch.conf"
        configuration.write_text(
            f"[database]\npath={maildir}\n[new]\ntags=new\n[user]\nname=T\nprimary_email=t@x.test\n"
        )
        self._environment = os.environ | {"NOTMUCH_CONFIG": str(configuration), "HOME": str(maildir.parent)}
        self._run("new")

    def threads(self) -> list[list[dict[str, Any]]]:
        """Return the mails of each thread, with their headers and texts."""
        threads = json.loads(self._run("show", "--format=json", "--entire-thread=true", "--include-html", "*"))
        return [_flattened(thread) for thread in threads]

    def _run(self, *arguments: str) -> str:
        command = ["notmuch", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, check=True, text=True).stdout


def _flattened(nodes: Any) -> list[dict[str, Any]]:
    found = []
    for node in nodes:
        if isinstance(node, list):
            found += _flattened(node)
        elif node is not None:
            found.append(node)
    return found


def dkim_verifies(message: bytes, record: str) -> bool:
    """Return whether dkimpy finds the signature valid, if the domain publishes this record."""
    require([DEBIAN_PYTHON, "-c", "import dkim, nacl"], "python3-dkim python3-nacl")
    command = [DEBIAN_PYTHON, "-c", _DKIM, record]
    return bool(json.loads(subprocess.run(command, input=message, capture_output=True, check=True).stdout))


def require(command: Sequence[str], package: str) -> None:
    """Skip the test if a program is not installed; in CI, fail."""
    if shutil.which(command[0]) and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return
    if "CI" in os.environ:
        pytest.fail(f"{package} is not installed here: install it, as .ci/run does")
    pytest.skip(f"{package} is not installed here")
