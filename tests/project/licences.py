"""The licences of the distributions in requirements.lock. ``python -m tests.project.licences`` prints the table."""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from tests.project.tree import ROOT

LOCK = ROOT / "requirements.lock"
PAGE = ROOT / "docs" / "licences.md"

ACCEPTED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0",
    "PSF-2.0",
}  # fmt: skip
"""Licences under which a dependency may be used and shipped beside Apache-2.0, as SPDX identifiers. ``BSD`` is one of
the BSD licences, if the metadata does not say which."""

SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "New BSD": "BSD-3-Clause",
}
"""The SPDX identifiers of other names that occur in metadata."""


def locked_names() -> list[str]:
    """Return the normalized names of all distributions in the lock."""
    return re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE)


def licence_of(name: str) -> str | None:
    """Return a distribution's licence as an SPDX expression where possible, or ``None`` if it is not installed."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return _expression(found) or _from_text(found) or _from_classifiers(found)


def documented_licences() -> dict[str, str]:
    """Return the licences in docs/licences.md by distribution."""
    return dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))


def unknown_licences(expression: str) -> set[str]:
    """Return the licences of an expression, such as ``MPL-2.0 AND (Apache-2.0 OR MIT)``, that are not accepted."""
    return set(re.split(r"[()\s]+|\bAND\b|\bOR\b", expression)) - ACCEPTED - {""}


def _expression(found: Distribution) -> str:
    return _field(found, "License-Expression")


def _from_text(found: Distribution) -> str:
    # Some distributions have the whole text here.
    text = _field(found, "License")
    text = SPDX.get(text, text)
    return "" if unknown_licences(text) else text


def _from_classifiers(found: Distribution) -> str:
    names = [
        entry.rpartition(" :: ")[2]
        for entry in found.metadata.get_all("Classifier") or []
        if entry.startswith("License :: OSI Approved :: ")
    ]
    return " OR ".join(sorted({SPDX.get(name, name) for name in names})) or "unknown"


def _field(found: Distribution, name: str) -> str:
    return str((found.metadata.get_all(name) or [""])[0]).strip()


if __name__ == "__main__":
    for each in locked_names():
        sys.stdout.write(f"| `{each}` | {licence_of(each) or 'not installed'} |\n")
