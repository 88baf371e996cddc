"""What all pages have in common: where they are, their headers and their layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway.http.responses import HttpResponse
from gateway.pages.sessions import COOKIE, MAX_AGE_SECONDS
from gateway.pages.text import CommentRenderer, time_element
from gateway.settings import GatewaySettings
from models.local_time import DEFAULT_ZONE

STATIC: Final = Path(__file__).parent / "static"
TEMPLATES: Final = (Path(__file__).parent / "templates", Path(__file__).parent.parent / "ops" / "console" / "templates")
"""The folders of the templates: those of the pages for everyone, and those of the operators' console."""

FILES_PATH: Final = "/pages/files"

HTML: Final = "text/html; charset=utf-8"

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Links in mails contain tickets.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""The headers of every page. No page runs a script."""


class Site:
    """The pages' place and layout. ``base_path`` is the path in ``TOCSIN_PUBLIC_URL``, without a slash at its end."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.comments = CommentRenderer()
        self.base_path = urlsplit(settings.public_url or "").path
        self._is_secure = (settings.public_url or "").startswith("https://")
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(time=time_element)
        self._templates.globals.update(base=self.base_path, files=f"{self.base_path}{FILES_PATH}")

    def add_filters(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        """Add filters that templates may use."""
        self._templates.filters.update(filters)

    def page(
        self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> HttpResponse:
        """Return a page. Its times are in the reader's ``zone``, or in UTC."""
        known = {
            "person": None,
            "zone": DEFAULT_ZONE,
            "form_token": None,
            "shows_inbox": False,
            "notice": None,
            "error": None,
        }
        text = self._templates.get_template(template).render(known | facts)
        return HttpResponse(status, text.encode(), dict(HEADERS) | dict(headers or {}), HTML)

    def message(self, status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """Return a page that says one thing."""
        return self.page("message.html", status, headers, title=title, text=text)

    def not_found(self) -> HttpResponse:
        """Return the page for whatever does not exist or is not accessible: the reader cannot tell which."""
        return self.page("not_found.html", 404)

    def not_allowed(self, methods: str) -> HttpResponse:
        """Return the page for a method that is not among those that a page supports."""
        return self.message(405, "Not possible", "This page cannot be used in this way.", {"Allow": methods})

    def redirect(self, path: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """Return a redirection (303) to a path of this site."""
        return HttpResponse(303, b"", dict(HEADERS) | {"Location": self.base_path + path} | dict(headers or {}), HTML)

    def set_cookie(
        self, value: str, *, name: str = COOKIE, max_age: int = MAX_AGE_SECONDS, path: str = "/"
    ) -> dict[str, str]:
        """Return the header that sets a session's cookie for a path of this site. An empty value deletes it."""
        age = max_age if value else 0
        secure = "; Secure" if self._is_secure else ""
        # Lax, not Strict: the browser must send the cookie when a link in a mail or a chat is opened.
        return {
            "Set-Cookie": f"{name}={value}; Max-Age={age}; Path={self.base_path}{path}; HttpOnly; SameSite=Lax{secure}"
        }

    def is_own_origin(self, origin: str, host: str | None) -> bool:
        """Whether a form with this ``Origin`` comes from one of our pages.

        Browsers send ``null`` because of ``Referrer-Policy: no-referrer``. It counts as unknown: the form's token
        decides.
        """
        own = self._settings.public_origin
        if origin == "null":
            return True
        return origin.lower() == own if own else urlsplit(origin).netloc.lower() == (host or "").lower()
