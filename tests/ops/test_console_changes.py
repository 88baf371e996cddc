"""What operators change on their pages: in two steps, with a reason, and with one entry in the audit log."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
from sqlalchemy import update

from models.base import new_id
from models.notifications.delivery import deliveries
from models.operations.dead import DeadSelection
from models.refusals import FIELD_REQUIRED
from tests.builders import a_webhook, a_webhook_delivery
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.browser_session import Browser, Document, Form
from tests.http.gateway_server import Gateway
from tests.ops.console import VIEWER, console
from tests.ops.ledger import accept_comments, advance, bury, requeue

REQUEUE, DISCARD = "/ops/dead/requeue/", "/ops/dead/discard/"
SOME_DELIVERY = UUID("01a224b3-4109-77a6-b7e9-0495fba1aaaa")
CHANGES = (REQUEUE, DISCARD, "/ops/operations/1/", f"/ops/deliveries/{SOME_DELIVERY}/")


@pytest.fixture
def dead(harness: Harness, operators: Acme) -> list[UUID]:
    """Three dead commands on one incident, of which the first two failed with the same error."""
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids[:2], "KeyError: 7")
    bury(harness, ids[2:], "ValueError: bad")
    return ids


def audit(gateway: Gateway) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = gateway.get("/ops/api/audit/", by="dev-viewer").json()
    return entries


def states(harness: Harness, ids: list[UUID]) -> list[str]:
    return [str(harness.ledger_row(id_)["state"]) for id_ in ids]


def follow(page: Document, text: str, browser: Browser) -> Document:
    """Open the address of the first link whose address contains a text."""
    address = next(each["href"] or "" for each in page.attributes("a") if text in (each["href"] or ""))
    return browser.open(address)


def change_form(browser: Browser) -> Form:
    """Return the page's form that changes something."""
    return browser.form(reason="")


def values(browser: Browser) -> dict[str, str]:
    return dict(change_form(browser).fields)


def test_a_group_is_requeued_after_a_dry_run(gateway: Gateway, harness: Harness, dead: list[UUID]) -> None:
    with console(gateway) as browser:
        groups = browser.open("/ops/dead/")
        fingerprint = harness.ledger_row(dead[0])["fingerprint"]
        preview = follow(groups, f"requeue/?fingerprint={fingerprint}", browser)
        assert "This requeues 2 commands on 1 subject." in preview.text
        assert "KeyError: 7" in preview.text
        assert (states(harness, dead), audit(gateway)) == (["dead"] * 3, [])

        running = browser.submit(change_form(browser), reason="fixed", ratePerSecond="100", stopAfter="3")
        assert browser.path == "/ops/operations/1/"
        assert "0 of 2 dead letters are requeued" in running.text
        while advance(harness):
            harness.apply()
        assert "2 of 2 dead letters are requeued" in browser.open("/ops/operations/1/").text
        assert "of 2" in browser.open("/ops/dead/").text

    assert states(harness, dead) == ["applied", "applied", "dead"]
    [entry] = audit(gateway)
    assert (entry["by"], entry["action"], entry["reason"]) == ("otto", "dead.requeued", "fixed")
    assert (entry["after"]["ratePerSecond"], entry["after"]["stopAfter"]) == (100, 3)


def test_selected_dead_letters_are_requeued(gateway: Gateway, harness: Harness, dead: list[UUID]) -> None:
    with console(gateway) as browser:
        listed = browser.open("/ops/dead/?list=1")
        assert [each["value"] for each in listed.attributes("input") if each.get("name") == "ids"] == [
            str(id_) for id_ in reversed(dead)
        ]
        preview = browser.open(f"{REQUEUE}?ids={dead[0]}&ids={dead[2]}&ids={new_id()}")
        assert "This requeues 2 commands on 1 subject." in preview.text
        browser.submit(change_form(browser), reason="fixed")
        while advance(harness):
            harness.apply()

    assert states(harness, dead) == ["applied", "dead", "applied"]


@pytest.mark.parametrize(
    ("typed", "field", "error"),
    [
        ({"reason": "  "}, "reason", FIELD_REQUIRED),
        ({"reason": "x" * 501}, "reason", "Ensure this field has no more than 500 characters."),
        ({"reason": "<b>", "ratePerSecond": "soon"}, "ratePerSecond", "A valid integer is required."),
        ({"reason": "<b>", "stopAfter": "0"}, "stopAfter", "Ensure this value is between 1 and 1000000."),
    ],
)
def test_a_refused_requeue_says_why_beside_the_field_and_keeps_what_was_typed(
    gateway: Gateway, harness: Harness, dead: list[UUID], typed: dict[str, str], field: str, error: str
) -> None:
    sent: dict[str, Any] = {"ratePerSecond": "7", "stopAfter": "5"} | typed
    with console(gateway) as browser:
        browser.open(f"{REQUEUE}?all=1")
        page = browser.submit(change_form(browser), **sent)

        assert browser.response.status_code == 400
        assert error in page.text
        assert [each["name"] for each in page.attributes("input") if "aria-invalid" in each] == [field]
        assert {name: values(browser)[name] for name in sent} == sent
        assert values(browser)["all"] == "1"
    assert (states(harness, dead), audit(gateway)) == (["dead"] * 3, [])


def test_discarding_needs_a_confirmation(gateway: Gateway, harness: Harness, dead: list[UUID]) -> None:
    with console(gateway) as browser:
        preview = browser.open(f"{DISCARD}?fingerprint={harness.ledger_row(dead[0])['fingerprint']}")
        assert "This discards 2 commands on 1 subject for good." in preview.text
        unconfirmed = Form(change_form(browser).action, "post", [*values(browser).items()])
        unconfirmed.fields.remove(("confirmed", "1"))
        refused = browser.submit(unconfirmed, reason="noise")
        assert browser.response.status_code == 400
        assert "Tick this box" in refused.text
        assert values(browser)["reason"] == "noise"
        assert states(harness, dead) == ["dead"] * 3

        done = browser.submit(change_form(browser), reason="noise", confirmed="1")

        assert "2 dead letters are discarded." in done.text
    assert states(harness, dead) == ["discarded", "discarded", "dead"]
    assert [entry["action"] for entry in audit(gateway)] == ["dead.discarded"]


def test_a_running_requeue_is_stopped_with_a_reason(gateway: Gateway, harness: Harness, dead: list[UUID]) -> None:
    started = requeue(harness, DeadSelection(all=True))
    with console(gateway) as browser:
        browser.open(f"/ops/operations/{started['id']}/")
        refused = browser.submit(change_form(browser), reason="")
        assert (browser.response.status_code, FIELD_REQUIRED in refused.text) == (400, True)

        stopped = browser.submit(change_form(browser), reason="wrong ones")

        assert "Stopped by otto: wrong ones." in stopped.text
        assert [form.action for form in stopped.forms] == ["/ops/logout/"]
    assert states(harness, dead) == ["dead"] * 3
    assert [entry["action"] for entry in audit(gateway)] == ["operation.stopped", "dead.requeued"]


def test_a_delivery_is_retried_unless_it_is_being_sent(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    with harness.engine.begin() as connection:
        failed = a_webhook_delivery(connection, a_webhook(connection, operators.organizations["acme"]), state="failed")
    path = f"/ops/deliveries/{failed}/"
    with console(gateway) as browser:
        browser.open(path)
        done = browser.submit(change_form(browser), reason="they are back")
        assert browser.path == f"{path}?done=retried"
        assert "The delivery is due now." in done.text
        with harness.engine.begin() as connection:
            connection.execute(update(deliveries).values(claimed_by=new_id()))

        busy = browser.submit(change_form(browser), reason="again")

        assert browser.response.status_code == 409
        assert "The delivery is being sent at this moment." in busy.text
        assert values(browser)["reason"] == "again"
    assert [entry["action"] for entry in audit(gateway)] == ["delivery.retried"]


@pytest.mark.parametrize(
    "query", ["", "ids=x", "ids=x&all=1", "all=0", "fingerprint=+", f"all=1&fingerprint=x&ids={SOME_DELIVERY}"]
)
def test_a_selection_that_is_not_clear_selects_nothing(
    gateway: Gateway, harness: Harness, dead: list[UUID], query: str
) -> None:
    with console(gateway) as browser:
        for path in (REQUEUE, DISCARD):
            page = browser.open(f"{path}?{query}")
            assert browser.response.status_code == 400
            assert "Nothing is selected." in page.text

            browser.open(f"{path}?all=1")
            fields = [(name, value) for name, value in change_form(browser).fields if name != "all"]
            fields += parse_qsl(query)
            browser.submit(Form(path, "post", fields), reason="x", confirmed="1")
            assert browser.response.status_code == 400
    assert (states(harness, dead), audit(gateway)) == (["dead"] * 3, [])


def test_a_form_without_this_sessions_token_or_by_a_viewer_changes_nothing(
    gateway: Gateway, harness: Harness, dead: list[UUID]
) -> None:
    with console(gateway) as operator, console(gateway, VIEWER) as viewer:
        page = viewer.open("/ops/dead/")
        assert "Requeue" not in page.text
        operator.open(f"{REQUEUE}?all=1")
        others_token = values(operator)["form_token"]
        for browser in (operator, viewer):
            for path in CHANGES:
                for token in ("", "x", others_token) if browser is viewer else ("", "x"):
                    fields = {"form_token": token, "all": "1", "reason": "x", "confirmed": "1"}
                    browser.submit(Form(path, "post", list(fields.items())))
                    assert browser.response.status_code == 403, (path, token)
    with gateway.client(None) as client:
        assert [client.post(path, data={"all": "1"}).status_code for path in CHANGES] == [303] * len(CHANGES)
    assert (states(harness, dead), audit(gateway)) == (["dead"] * 3, [])


def test_what_does_not_exist_is_not_found(gateway: Gateway) -> None:
    with console(gateway) as browser:
        browser.open(f"{REQUEUE}?all=1")
        for path in (f"/ops/deliveries/{SOME_DELIVERY}/", "/ops/operations/99/", "/ops/operations/x/"):
            page = browser.open(path)
            assert (browser.response.status_code, "Not found" in page.text) == (404, True)
