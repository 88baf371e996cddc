"""A browser without scripts in which an operator is logged in, for tests of the operators' pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.http.browser_session import Browser
from tests.http.gateway_server import Gateway

VIEWER, OPERATOR = "dev-viewer", "dev-operator"


@contextmanager
def console(gateway: Gateway, token: str = OPERATOR) -> Iterator[Browser]:
    """Open a browser in which the operator with this token is logged in."""
    with Browser(gateway) as browser:
        browser.open("/ops/login/")
        browser.submit(browser.form(token=""), token=token)
        assert browser.path == "/ops/"
        yield browser
