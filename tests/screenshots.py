"""Take pictures of a running demo's pages for the README: `python -m tests.screenshots NAME=URL …`.

A name that ends with `-phone` is taken at the width of a phone, and one that ends with `-dark` in dark colours.
Pictures are written to docs/images/. Tests take some themselves, into the folder that the environment variable
SCREENSHOTS names: `SCREENSHOTS=docs/images python -m pytest tests/ops`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import Page

from tests.chromium import DESKTOP, PHONE, find_chromium, open_tab, running_chromium

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"


def take_screenshots(pictures: dict[str, str], folder: Path = IMAGES) -> list[Path]:
    """Take a picture of each URL; return the files, which are named like the pictures."""
    program = find_chromium()
    if program is None:
        sys.exit("chromium is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with running_chromium(program) as browser:
        for name, url in pictures.items():
            size = PHONE if "-phone" in name else DESKTOP
            with open_tab(browser, size, scheme="dark" if "-dark" in name else "light") as tab:
                tab.page.goto(url)
                tab.page.wait_for_load_state()
                files.append(folder / f"{name}.png")
                tab.page.screenshot(path=files[-1])
    return files


def keep_screenshot(page: Page, name: str, *, size: dict[str, int] | None = None) -> None:
    """Take a picture in a test, if the environment names the folder in SCREENSHOTS; of a tab of this size, if given."""
    if folder := os.environ.get("SCREENSHOTS"):
        usual = page.viewport_size
        if size is not None:
            page.set_viewport_size({"width": size["width"], "height": size["height"]})
        page.screenshot(path=Path(folder) / f"{name}.png")
        if usual is not None:
            page.set_viewport_size(usual)


if __name__ == "__main__":
    for file in take_screenshots(dict(argument.split("=", 1) for argument in sys.argv[1:])):
        sys.stdout.write(f"{file}\n")
