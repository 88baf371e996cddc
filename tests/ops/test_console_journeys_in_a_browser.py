"""What operators do in a browser, under the pages' own policy: find out what happened, and mend what is dead."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select, update

from models.messaging.command_ledger import commands
from models.notifications.delivery import deliveries
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.chromium import DESKTOP, PHONE, Tab, open_tab
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import COMMENTS, Gateway, Worker
from tests.ops.accessibility import Axe
from tests.ops.ledger import accept_comments, apply_until_dead, bury, cure, poison
from tests.screenshots import keep_screenshot
from workers.notify.notifier import Notifier
from workers.relay.sweeper import Sweeper
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.slow

PATIENCE_MS = 30_000
TALL = {"width": 1280, "height": 1340}
LOW = {"width": 1280, "height": 480}


class NoHints:
    """Stands for a broker: the worker of these tests looks for work by itself."""

    def publish(self, *_: object) -> None:
        pass


@contextmanager
def logged_in(chromium: Browser, gateway: Gateway, size: dict[str, int] = DESKTOP, **options: Any) -> Iterator[Tab]:
    """Open a tab in which the operator otto is logged in."""
    with open_tab(chromium, size, **options) as tab:
        tab.page.set_default_timeout(PATIENCE_MS)
        tab.page.goto(f"{gateway.url}/ops/login/")
        tab.page.get_by_label("Your operations token").fill("dev-operator")
        tab.page.get_by_role("button", name="Log in").click()
        tab.page.get_by_role("heading", level=1).wait_for()
        tab.page.wait_for_url("**/ops/")
        yield tab


def open_section(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Operations").get_by_role("link", name=name).click()


@contextmanager
def at_work(harness: Harness, servers: EmbeddedServers) -> Iterator[None]:
    """Run a worker and a relay's sweeper, which carries out requeues, for the duration of the block."""
    worker, stop = Worker(harness.url, servers.redis_url), threading.Event()
    sweeper = Sweeper(harness.engine, NoHints())  # type: ignore[arg-type]
    thread = threading.Thread(target=sweeper.run, args=(stop,))
    worker.start()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        worker.stop()


def a_told_comment(gateway: Gateway, harness: Harness) -> str:
    """Post a comment that mentions ana, and do everything that follows; return the command's id."""
    sent = {"comment": "Ana, can you look? https://grafana.x.test/d/1", "mentions": ["user:12"]}
    id_ = gateway.post(COMMENTS, sent, Prefer="respond-async", Idempotency_Key="order-66").headers["command-id"]
    harness.apply()
    settings = broker_settings(UNREACHABLE_BROKER)
    Notifier(harness.engine, settings, notify_window=0).plan_batch()
    return str(id_)


def test_a_command_is_found_by_its_id_and_its_timeline_says_what_happened(
    chromium: Browser, gateway: Gateway, harness: Harness
) -> None:
    id_ = a_told_comment(gateway, harness)
    with logged_in(chromium, gateway) as tab:
        page = tab.page
        open_section(page, "Commands")
        page.get_by_label("Find by id").fill(id_)
        page.get_by_role("button", name="Filter").click()
        page.get_by_role("link", name="comment.post").click()

        steps = page.locator(".steps strong").all_inner_texts()
        keep_screenshot(page, "ops-timeline", size=TALL)
        page.get_by_role("link", name="Who was told").click()
        page.get_by_role("row", name="ana").get_by_text("the comment mentions this person").first.wait_for()
        page.get_by_label("People", exact=True).select_option("Not told")
        page.get_by_role("button", name="Filter").click()
        untold = page.get_by_role("row", name="mem").inner_text()

        assert page.get_by_role("row", name="ana").count() == 0
        assert tab.complaints == []
    assert steps[:2] == ["Accepted", "Claimed"]
    assert {"Applied", "Event written", "Recipients planned", "Decision"} <= set(steps)
    assert "this person's own" in untold


def test_a_poisoned_command_is_requeued_once_its_cause_is_fixed(
    chromium: Browser, gateway: Gateway, harness: Harness, operators: Acme, servers: EmbeddedServers
) -> None:
    other = accept_comments(harness, 3, **operators.by("ana"))
    bury(harness, other, "OperationalError: canceling statement due to lock timeout")
    ids = accept_comments(harness, 2, **operators.by("mem"))
    payloads = poison(harness, ids)
    apply_until_dead(harness)
    with logged_in(chromium, gateway) as tab:
        page = tab.page
        open_section(page, "Dead letters")
        group = page.get_by_role("row", name="The stored command cannot be read")
        expect(group.get_by_role("cell", name="2", exact=True)).to_have_count(1)
        keep_screenshot(page, "ops-dead-letters", size=LOW)
        cure(harness, payloads)

        group.get_by_role("link", name="Requeue").click()
        page.get_by_text("This requeues 2 commands on 1 subject.").wait_for()
        page.get_by_label("Commands per second").fill("1000")
        page.get_by_label("Reason").fill("The deploy is rolled back")
        with at_work(harness, servers):
            page.get_by_role("button", name="Requeue 2 commands").click()
            page.get_by_text("2 of 2 dead letters are requeued").wait_for()
            page.locator(".badge.done").wait_for()
            expect(page.get_by_role("button", name="Stop the requeue")).to_be_hidden()
        page.goto(f"{gateway.url}/ops/commands/{ids[0]}/")
        page.locator(".badge.applied").wait_for()
        steps = page.locator(".steps strong").all_inner_texts()

        assert tab.complaints == []
    assert steps.index("Dead") < steps.index("Requeued") < steps.index("Applied")
    assert {str(harness.ledger_row(id_)["state"]) for id_ in ids} == {"applied"}
    assert {str(harness.ledger_row(id_)["state"]) for id_ in other} == {"dead"}


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC", "10:00:00.250"), ("Asia/Kolkata", "15:30:00.250"), ("America/New_York", "05:00:00.250")]
)
def test_times_are_those_of_the_reader(
    chromium: Browser, gateway: Gateway, harness: Harness, operators: Acme, zone: str, shown: str
) -> None:
    [id_] = accept_comments(harness, 1, **operators.by("mem"))
    with harness.engine.begin() as connection:
        moment = datetime(2026, 11, 23, 10, 0, 0, 250_000, UTC)
        connection.execute(update(commands).values(accepted_at=moment))
    with logged_in(chromium, gateway, zone=zone) as tab:
        tab.page.goto(f"{gateway.url}/ops/commands/{id_}/")
        time = tab.page.locator(".steps time.clock").first

        expect(time).to_have_text(shown)
        expect(time).to_have_attribute("title", re.compile(re.escape(f"{shown[:8]}")))
    with logged_in(chromium, gateway, zone=zone, scripts=False) as tab:
        tab.page.goto(f"{gateway.url}/ops/commands/{id_}/")
        expect(tab.page.locator(".steps time.clock").first).to_have_text("10:00:00.250")
        expect(tab.page.locator(".steps time.day").first).to_have_text("23 Nov 2026, UTC")


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_no_page_about_something_has_a_serious_fault(
    chromium: Browser,
    gateway: Gateway,
    harness: Harness,
    operators: Acme,
    axe: Axe,
    size: dict[str, int],
    scheme: str,
) -> None:
    id_ = a_told_comment(gateway, harness)
    dead = accept_comments(harness, 2, **operators.by("mem"))
    bury(harness, dead, f"ValueError: {'x' * 300}")
    with harness.engine.connect() as connection:
        delivery = connection.execute(select(deliveries.c.id)).scalars().first()
    explained = "explain/?organization=acme&incident=1"
    paths = [f"commands/{id_}/", f"commands/{dead[0]}/", "commands/?incident=x", "dead/?list=1", "dead/requeue/?all=1"]
    paths += ["dead/discard/?all=1", f"deliveries/{delivery}/", explained, f"{explained}&comment=1"]
    paths += [f"{explained}&user=ana"]
    faults = {}
    with logged_in(chromium, gateway, size, scheme=scheme) as tab:
        for path in paths:
            tab.page.goto(f"{gateway.url}/ops/{path}")
            faults[path] = axe.serious_faults(tab.page) + ([f"{tab.overflow} pixels too wide"] if tab.overflow else [])
        # A browser reports the status of the page for the filter that is not valid.
        faults["console"] = [each for each in tab.complaints if "400" not in each]

    assert {path: found for path, found in faults.items() if found} == {}


def test_dead_letters_are_selected_and_discarded_without_scripts(
    chromium: Browser, gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids)
    with logged_in(chromium, gateway, scripts=False) as tab:
        page = tab.page
        page.goto(f"{gateway.url}/ops/dead/?list=1")
        for id_ in ids[:2]:
            page.get_by_label(f"Select {id_}").check()
        page.get_by_role("button", name="Discard the selected").click()
        page.get_by_label("Reason").fill("noise")
        page.get_by_role("button", name="Discard 2 commands").click()
        page.get_by_text("Tick this box").wait_for()
        page.get_by_label("This cannot be undone").check()
        page.get_by_role("button", name="Discard 2 commands").click()
        page.get_by_text("2 dead letters are discarded.").wait_for()

        # A browser reports the status of the page for the form without the tick.
        assert [each for each in tab.complaints if "400" not in each] == []
    assert [str(harness.ledger_row(id_)["state"]) for id_ in ids] == ["discarded", "discarded", "dead"]


def test_numbers_are_fetched_again_without_losing_the_readers_place(
    chromium: Browser, gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    [id_] = accept_comments(harness, 1, **operators.by("mem"))
    with logged_in(chromium, gateway) as tab:
        page = tab.page
        page.goto(f"{gateway.url}/ops/commands/{id_}/")
        page.get_by_text("Payload, as it was sent").click()
        expect(page.locator("pre").first).to_be_hidden()
        harness.apply()

        page.locator(".badge.applied").wait_for()

        expect(page.locator("pre").first).to_be_hidden()
        assert tab.complaints == []
