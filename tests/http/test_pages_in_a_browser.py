"""The pages in a real browser, as on a phone: without scripts, and under their own policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser
from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from models.enums import IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.notifications.tickets import Tickets
from tests.builders import a_comment
from tests.chromium import DESKTOP, PHONE, open_tab
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, Worker, running_gateway

pytestmark = pytest.mark.slow

SECRET = "a secret for the tests"
MEM, ANA = 11, 12
PAGE = "/organizations/acme/alerts/1/"
LONG_WORD = "x" * 200
TABLE = f"| {LONG_WORD} | b |\n|--:|:-:|\n| 1 | 2 |\n\n```sh\n{LONG_WORD}\n```"


@pytest.fixture
def gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that can sign."""
    with running_gateway(settings(secret=SECRET)) as running:
        yield running


@pytest.fixture
def link(gateway: Gateway, acme: Acme, incident: int) -> str:
    """The link in a mail to mem about incident 1."""
    ticket = Tickets((SECRET,)).page_ticket(MEM, acme.organizations["acme"], incident, 1)
    return f"{gateway.url}{PAGE}?ticket={ticket}&referrer=alert_email"


def test_a_person_comments_and_resolves_on_a_phone_without_scripts(
    chromium: Browser, link: str, ledger: Engine, incident: int, busy_worker: Worker
) -> None:
    with open_tab(chromium, PHONE, scripts=False) as tab:
        page = tab.page
        page.goto(link)
        assert "ticket=" not in page.url

        page.get_by_label("Comment").fill("On it.")
        page.get_by_role("button", name="Post comment").click()
        page.get_by_text("Your comment was posted.").wait_for()
        page.get_by_role("button", name="Resolve").click()
        page.get_by_text("The incident is resolved.").wait_for()

        assert page.locator(".timeline").get_by_text("On it.").count() == 1
        assert tab.complaints == []
    with ledger.connect() as connection:
        comments = connection.execute(select(activities.c.comment).where(activities.c.user_id == MEM)).scalars().all()
        status = connection.execute(select(incidents.c.status).where(incidents.c.id == incident)).scalar_one()
    assert comments[0] == "On it."
    assert status == IncidentStatus.CLOSED


@pytest.mark.parametrize("size", [PHONE, DESKTOP, {"width": 320, "height": 568}], ids=lambda size: str(size["width"]))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_screen_or_breaks_its_policy(
    chromium: Browser, gateway: Gateway, link: str, ledger: Engine, incident: int, size: dict[str, int], scheme: str
) -> None:
    with ledger.begin() as connection:
        connection.execute(update(incidents).values(title=f"Disk {LONG_WORD}"))
        a_comment(connection, incident, by=ANA, text=f"https://x.test/{LONG_WORD}\n{LONG_WORD}\n\n{TABLE}")
    with open_tab(chromium, size, scheme=scheme) as tab:
        overflows = {}
        for address in (link, f"{gateway.url}/", f"{gateway.url}/login/", f"{gateway.url}/unsubscribe/x/"):
            tab.page.goto(address)
            overflows[tab.page.url] = tab.overflow

    assert set(overflows.values()) == {0}
    # A browser reports the status of the page for the invalid ticket.
    assert [each for each in tab.complaints if "404" not in each] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(chromium: Browser, link: str, scheme: str) -> None:
    with open_tab(chromium, PHONE, scheme=scheme) as tab:
        tab.page.goto(link)
        colours = tab.page.evaluate(
            "() => { const style = getComputedStyle(document.documentElement);"
            " return Object.fromEntries(['text', 'muted', 'accent', 'open', 'warning', 'critical', 'resolved',"
            " 'background', 'surface', 'on-accent'].map(name => [name, style.getPropertyValue('--' + name).trim()])); }"
        )

    texts = ("text", "muted", "accent", "open", "warning", "critical", "resolved")
    pairs = [(text, below) for text in texts for below in ("background", "surface")]
    pairs.append(("on-accent", "accent"))
    too_weak = {pair for pair in pairs if _contrast(colours[pair[0]], colours[pair[1]]) < 4.5}
    assert too_weak == set()


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, as WCAG 2.2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    assert re.fullmatch("#[0-9a-f]{6}", colour)
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
