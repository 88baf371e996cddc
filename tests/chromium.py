"""A real browser: Debian's chromium, driven by playwright. No browser is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PHONE: Final = {"width": 390, "height": 844}
DESKTOP: Final = {"width": 1280, "height": 900}

_OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def find_chromium() -> str | None:
    """Return the path of the browser, or ``None`` if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def running_chromium(program: str) -> Iterator[Browser]:
    """Run the browser without a window for the duration of the block."""
    # Its sandbox does not work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A tab of the browser. ``complaints`` holds its errors and warnings, such as violations of the page's policy."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", self._hear_failure)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _hear_failure(self, request: Request) -> None:
        # A page that is left ends its event stream.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {request.url}")

    @property
    def overflow(self) -> int:
        """How many pixels the page is wider than the tab."""
        return int(self.page.evaluate(_OVERFLOW))


@contextmanager
def open_tab(
    browser: Browser,
    size: dict[str, int],
    *,
    scripts: bool = True,
    scheme: str = "light",
    zone: str | None = None,
    locale: str | None = None,
) -> Iterator[Tab]:
    """Open a tab without cookies. Without ``scripts``, no page can run JavaScript. ``zone`` is its time zone."""
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        java_script_enabled=scripts,
        color_scheme="dark" if scheme == "dark" else "light",
        is_mobile=size["width"] < 600,
        has_touch=size["width"] < 600,
        timezone_id=zone,
        locale=locale,
    )
    try:
        yield Tab(context.new_page())
    finally:
        context.close()
