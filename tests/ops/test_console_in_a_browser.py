"""The operators' pages in a real browser: what follows live, what works without scripts, and who can use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from math import sin

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import func, insert, select, update

from models.base import new_id
from models.enums import Lane
from models.messaging.canary import canaries
from models.operations.holds import place_hold
from models.operations.processes import REPORT, ProcessFacts, ProcessReport, report_parameters
from models.operations.tables import minute_series, process_heartbeats
from tasks.commands.catalog import CATALOG
from tests.chromium import DESKTOP, PHONE, Tab, open_tab
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import A_COMMENT, COMMENTS, Gateway, Worker
from tests.ops.accessibility import Axe
from tests.ops.ledger import accept_comments, bury
from tests.ops.test_console import START_PAGES
from tests.screenshots import keep_screenshot
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.slow

SMALL = {"width": 320, "height": 568}
PATIENCE_MS = 30_000


@pytest.fixture
def busy_worker(database: Database, servers: EmbeddedServers, acme: Acme) -> Iterator[Worker]:
    """A worker that applies commands as they arrive."""
    worker = Worker(database.url, servers.redis_url)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def eventful(harness: Harness, operators: Acme) -> None:
    """An hour of numbers, processes, dead letters, and a hold."""
    bury(harness, accept_comments(harness, 3, **operators.by("mem")))
    accept_comments(harness, 2, **operators.by("mem"))
    with harness.engine.begin() as connection:
        minute = connection.execute(select(func.date_trunc("minute", func.clock_timestamp()))).scalar_one()
        for minutes in range(60, 0, -1):
            accepted = round(300 + 180 * sin(minutes / 9))
            numbers: dict[str, float] = {
                "accepted": accepted,
                "finished": accepted - minutes % 7,
                "rejected": minutes % 4,
                "dead": 0,
            }
            numbers |= {"waiting": minutes % 7, "oldest": minutes % 7 / 5, "deliveries": accepted // 3}
            values = {"at": minute - timedelta(minutes=minutes), "numbers": numbers}
            connection.execute(insert(minute_series).values(values))
        for kind, lanes in (("gateway", []), ("worker", list(Lane)), ("relay", []), ("notifier", [])):
            facts = ProcessFacts(new_id(), kind, "host-1", 4_000, "0.1.0", lanes, kind)
            connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(9_000, 290, 120_000_000)))
        # However long the test takes, no process is gone, and every queue is consumed.
        later = func.clock_timestamp() + timedelta(minutes=10)
        connection.execute(update(process_heartbeats).values(last_seen_at=later))
        for lane in Lane:
            connection.execute(insert(canaries).values(queue=lane, sent_at=later, seen_at=later))
        place_hold(
            connection,
            scope="queue",
            target="commands",
            reason="the database moves to another host",
            by="ada",
            known_types=frozenset(CATALOG),
        )


def log_in(page: Page, gateway: Gateway, token: str = "dev-operator", path: str = "/ops/") -> None:
    page.goto(gateway.url + path)
    page.get_by_label("Your operations token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(gateway.url + path)


def number(page: Page, name: str) -> Callable[[str], None]:
    """Return a function that waits until a live number has a value."""
    return lambda text: expect(page.locator(f'[data-live="{name}"]')).to_have_text(text, timeout=PATIENCE_MS)


def test_an_operator_holds_a_queue_sees_a_command_wait_and_releases_it(
    chromium: Browser, gateway: Gateway, busy_worker: Worker
) -> None:
    with open_tab(chromium, DESKTOP) as tab:
        page = tab.page
        log_in(page, gateway, path="/ops/queues/")
        page.get_by_role("link", name="Hold commands").click()
        page.get_by_label("Reason").fill("mem asked for it")
        page.get_by_role("button", name="Hold").click()
        page.get_by_text("The hold is in force").wait_for()
        page.get_by_role("link", name="Queues").click()
        number(page, "queues.commands.waiting")("0")

        posted = gateway.post(COMMENTS, A_COMMENT)
        number(page, "queues.commands.waiting")("1")
        page.get_by_role("link", name="Release commands").click()
        page.get_by_label("Reason").fill("seen enough")
        page.get_by_role("button", name="Release").click()
        page.get_by_text("The hold is released").wait_for()
        page.get_by_role("link", name="Queues").click()

        assert posted.status_code == 202
        assert eventually(lambda: gateway.get(posted.headers["location"]).json()["status"] == "applied")
        number(page, "queues.commands.waiting")("0")
        assert tab.complaints == []


def test_a_hold_placed_elsewhere_appears_without_reloading(chromium: Browser, gateway: Gateway, eventful: None) -> None:
    with open_tab(chromium, DESKTOP) as tab:
        page = tab.page
        log_in(page, gateway)
        expect(page.get_by_role("heading", level=1)).to_have_text("2 things need attention")
        page.locator("details").first.locator("summary").click()
        plots = page.locator(".plot canvas")
        expect(plots).to_have_count(5)

        held = {"scope": "channel", "target": "email", "reason": "the provider is down"}
        assert gateway.post("/ops/api/holds/", held, by="dev-ops").status_code == 201

        expect(page.get_by_role("heading", level=1)).to_have_text("3 things need attention", timeout=PATIENCE_MS)
        expect(page.locator("details").first).to_have_attribute("open", "")
        expect(plots).to_have_count(5)
        assert tab.complaints == []


def test_a_page_says_when_it_has_lost_the_connection(chromium: Browser, gateway: Gateway) -> None:
    with open_tab(chromium, DESKTOP) as tab:
        log_in(tab.page, gateway)
        number(tab.page, "overview.waiting")("0")

        gateway.stop()

        expect(tab.page.get_by_role("status").filter(has_text="is lost")).to_be_visible(timeout=PATIENCE_MS)


def test_without_scripts_a_hold_is_placed_and_seen(chromium: Browser, gateway: Gateway) -> None:
    with open_tab(chromium, PHONE, scripts=False) as tab:
        page = tab.page
        log_in(page, gateway, path="/ops/holds/?scope=queue&target=bulk")
        page.get_by_label("Reason").fill("the import floods acme")
        page.get_by_role("button", name="Hold").click()
        page.get_by_role("link", name="Overview").click()

        page.get_by_text("otto has held the queue bulk").wait_for()
        assert page.get_by_role("link", name="Reload").count() == 1
        assert tab.complaints == []


def test_a_viewer_is_refused(chromium: Browser, gateway: Gateway, eventful: None) -> None:
    with open_tab(chromium, DESKTOP) as tab:
        page = tab.page
        log_in(page, gateway, "dev-viewer", "/ops/queues/")
        links = page.get_by_role("link", name="Hold", exact=False).all_inner_texts()
        page.goto(f"{gateway.url}/ops/holds/")

        assert links == ["Holds"]
        assert page.get_by_role("button").all_inner_texts() == ["Log out"]


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (SMALL, "dark")], ids=["desktop", "small"])
def test_no_page_has_a_serious_fault(
    chromium: Browser, gateway: Gateway, eventful: None, axe: Axe, size: dict[str, int], scheme: str
) -> None:
    with open_tab(chromium, size, scheme=scheme) as tab:
        tab.page.goto(f"{gateway.url}/ops/login/")
        faults = {"/ops/login/": _faults(tab, axe)}
        log_in(tab.page, gateway)
        for path in (*START_PAGES, "/ops/holds/1/", "/ops/holds/?scope=queue&target=bulk"):
            tab.page.goto(gateway.url + path)
            if path == "/ops/":
                expect(tab.page.locator(".plot canvas")).to_have_count(5)
                number(tab.page, "overview.held")("2")
                keep_screenshot(tab.page, f"ops-overview{'-phone-dark' if size == SMALL else ''}")
            faults[path] = _faults(tab, axe)

    assert {path: found for path, found in faults.items() if found} == {}


def _faults(tab: Tab, axe: Axe) -> list[str]:
    """Return what is wrong with the page in a tab."""
    faults = axe.serious_faults(tab.page)
    if tab.overflow:
        faults.append(f"{tab.overflow} pixels wider than the screen")
    faults += tab.complaints
    tab.complaints.clear()
    return faults


def test_times_and_numbers_are_shown_where_the_reader_is(chromium: Browser, gateway: Gateway, eventful: None) -> None:
    with open_tab(chromium, DESKTOP, zone="Asia/Tokyo", locale="de-DE") as tab:
        page = tab.page
        log_in(page, gateway)
        page.locator("details").first.locator("summary").click()

        times = page.locator("details").first.locator("time")

        expect(times.first).to_contain_text("GMT+9")
        assert (times.first.get_attribute("datetime") or "").endswith("Z")
        assert tab.complaints == []
