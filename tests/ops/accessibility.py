"""Accessibility faults of a page in a browser, found by axe-core, which is installed from the npm registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page

PACKAGE: Final = Path(__file__).parent / "axe"
"""The package that names axe-core, and its lock file."""

TAGS: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
SERIOUS: Final = ("serious", "critical")

_RUN: Final = "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}}).then(found => found.violations)"


class Axe:
    """Finds the faults of pages."""

    def __init__(self, folder: Path) -> None:
        """Install axe-core into the folder."""
        shutil.copytree(PACKAGE, folder, dirs_exist_ok=True)
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"],
            cwd=folder,
            check=True,
            timeout=120,
        )
        self._script = (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()

    def serious_faults(self, page: Page) -> list[str]:
        """Return the serious and critical faults of a page: the rule, and the elements that break it."""
        # A script element would break the page's policy.
        page.evaluate(self._script)
        violations: list[dict[str, Any]] = page.evaluate(_RUN, TAGS)
        return [
            f"{each['id']}: {' '.join(str(node['target']) for node in each['nodes'])}"
            for each in violations
            if each["impact"] in SERIOUS
        ]
