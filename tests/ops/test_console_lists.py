"""The operators' pages with lists: filters in the URL, pages, what viewers see, and text that users wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import insert, update

from gateway.settings import GatewaySettings
from models.base import new_id
from models.messaging.command_ledger import commands
from models.notifications.delivery import deliveries, delivery_attempts
from models.operations import commands as search
from models.operations.audit import record_audit
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import a_webhook, a_webhook_delivery
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.browser_session import Browser, Document
from tests.http.gateway_server import A_COMMENT, COMMENTS, Gateway, running_gateway
from tests.ops.console import VIEWER, console
from tests.ops.ledger import accept_comments, bury
from workers.notify.notifier import Notifier

LISTS = ("/ops/commands/", "/ops/dead/", "/ops/deliveries/", "/ops/explain/", "/ops/audit/")
HOSTILE = "<script>alert(1)</script>\"'&amp;\u202e"


def links_to(page: Document, prefix: str) -> list[str]:
    """Return what follows the prefix in the addresses of the page's links that begin with it."""
    addresses = [each["href"] or "" for each in page.attributes("a")]
    return [address.removeprefix(prefix) for address in addresses if address.startswith(prefix)]


def shown(page: Document, what: str = "commands") -> list[str]:
    """Return the ids of the commands, or the deliveries, in the page's table."""
    return [link.rstrip("/") for link in links_to(page, f"/ops/{what}/") if len(link) == 37]


def neighbour(page: Document, rel: str) -> str | None:
    return next((each["href"] for each in page.attributes("a") if each.get("rel") == rel), None)


def field(page: Document, name: str) -> dict[str, str | None]:
    return next(each for each in page.attributes("input") if each.get("name") == name)


def plan_notifications(harness: Harness) -> None:
    Notifier(harness.engine, broker_settings(UNREACHABLE_BROKER), notify_window=0).plan_batch()


def test_an_empty_list_says_what_would_be_here_also_while_broker_and_valkey_are_away(lonely_gateway: Gateway) -> None:
    with console(lonely_gateway, VIEWER) as browser:
        for path in LISTS:
            page = browser.open(path)

            assert browser.response.status_code == 200
            assert [each for each in page.attributes("p") if each.get("class") == "empty"], path


def test_without_a_database_every_page_says_so(
    gateway: Gateway, settings: Callable[..., GatewaySettings], operators: Acme
) -> None:
    with console(gateway) as browser, running_gateway(settings(DATABASE_URL="postgresql://x@/x?host=/nowhere")) as cut:
        browser.client.base_url = cut.url
        for path in (*LISTS, f"/ops/commands/{new_id()}/", "/ops/dead/requeue/?all=1", "/ops/operations/1/"):
            browser.open(path)

            assert browser.response.status_code == 503, path
            assert "retry-after" in browser.response.headers


def test_commands_are_found_by_every_filter_in_the_url(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    [waiting] = accept_comments(harness, 1, **operators.by("ana"))
    headers = {"Prefer": "respond-async", "Idempotency_Key": "k-1"}
    mine = gateway.post(COMMENTS, A_COMMENT, **headers).headers["command-id"]
    found = {
        "": [mine, str(waiting)],
        "organization=acme&incident=1&state=accepted": [mine, str(waiting)],
        "user=ana": [str(waiting)],
        "query=k-1": [mine],
        f"query={mine}&type=comment.post": [mine],
        "queue=bulk": [],
        "from=2026-01-01&to=2999-01-01T00:00": [mine, str(waiting)],
        "to=1970-01-02": [],
    }
    with console(gateway, VIEWER) as browser:
        for query, ids in found.items():
            page = browser.open(f"/ops/commands/?{query}")

            assert shown(page) == ids, query
        # What was asked for stays in the form.
        page = browser.open("/ops/commands/?user=ana&state=accepted&query=%3Cb%3E")
        assert (field(page, "user")["value"], field(page, "query")["value"]) == ("ana", "<b>")
        assert [each["value"] for each in page.attributes("option") if "selected" in each] == ["accepted"]


def test_pages_follow_keys_and_keep_the_filters(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    ids = [str(id_) for id_ in reversed(accept_comments(harness, 5, **operators.by("mem")))]
    with console(gateway, VIEWER) as browser:
        first = browser.open("/ops/commands/?user=mem&per_page=2")
        address = neighbour(first, "next")
        second = browser.open(f"/ops/commands/{address}")
        third = browser.open(f"/ops/commands/{neighbour(second, 'next')}")
        back = browser.open(f"/ops/commands/{neighbour(third, 'prev')}")

    assert [shown(page) for page in (first, second, third, back)] == [ids[:2], ids[2:4], ids[4:], ids[2:4]]
    assert (neighbour(first, "prev"), neighbour(third, "next")) == (None, None)
    assert "user=mem&per_page=2&cursor=" in str(address)


def test_a_search_that_stops_early_offers_to_continue(
    gateway: Gateway, harness: Harness, operators: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_comments(harness, 5, **operators.by("mem"))
    harness.apply()
    monkeypatch.setattr(search, "_EVERY_ARM", search._EVERY_ARM._replace(rows=2))
    with console(gateway, VIEWER) as browser:
        page = browser.open("/ops/commands/?queue=bulk")

    assert "The search continues on the older page." in page.text
    assert neighbour(page, "next") is not None


@pytest.mark.parametrize(
    ("path", "name", "typed", "error"),
    [
        ("/ops/commands/?organization=acme&incident=x%22", "incident", 'x"', "A valid integer is required."),
        ("/ops/commands/?incident=1", "organization", "", "This field is required."),
        ("/ops/commands/?from=yesterday", "from", "yesterday", "Datetime has wrong format."),
        ("/ops/deliveries/?incident=1&user=ana", "user", "ana", "This field is required."),
        ("/ops/explain/?organization=nowhere&incident=1", "organization", "nowhere", "There is no such organization."),
        ("/ops/explain/?organization=acme&incident=99", "incident", "99", "This organization has no such incident."),
        ("/ops/explain/?organization=acme&incident=1&user=xx", "user", "xx", "There is no such user."),
        ("/ops/explain/?organization=acme&incident=1&comment=9", "comment", "9", "This incident has no such comment"),
        ("/ops/audit/?by=%00", "by", "\0", "Null characters are not allowed."),
    ],
)
def test_what_is_wrong_with_a_filter_stands_beside_it(
    shared: Browser, path: str, name: str, typed: str, error: str
) -> None:
    page = shared.open(path)

    assert shared.response.status_code == 400
    assert error in page.text
    assert (field(page, name)["value"] or "").replace("\ufffd", "\0") == typed
    assert "aria-invalid" in {key for each in page.attributes("input") for key in each}


@pytest.fixture
def shared(gateway: Gateway) -> Iterator[Browser]:
    with console(gateway, VIEWER) as browser:
        yield browser


def test_a_malformed_cursor_is_refused(shared: Browser) -> None:
    for path in LISTS:
        shared.open(f"{path}?cursor=x&list=1&organization=acme&incident=1&comment=1")

        assert shared.response.status_code == 400, path


def test_text_that_users_and_operators_wrote_is_shown_as_text(
    gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    id_ = gateway.post(COMMENTS, {"comment": HOSTILE}, Prefer="respond-async").headers["command-id"]
    harness.apply()
    dead = accept_comments(harness, 1, **operators.by("mem"))
    bury(harness, dead, f"ValueError: {HOSTILE}")
    with harness.engine.begin() as connection:
        webhook = a_webhook(connection, operators.organizations["acme"])
        delivery = a_webhook_delivery(connection, webhook, target=HOSTILE, detail=HOSTILE)
        attempt = {"delivery_id": delivery, "number": 1, "duration_ms": 1, "error": HOSTILE}
        connection.execute(insert(delivery_attempts).values(attempt))
        record_audit(
            connection, by=HOSTILE, action="hold.placed", target=HOSTILE, reason=HOSTILE, after={HOSTILE: HOSTILE}
        )
    explained = "/ops/explain/?organization=acme&incident=1"
    pages = (
        "/ops/dead/",
        "/ops/dead/?list=1",
        f"/ops/commands/{id_}/",
        f"/ops/commands/{dead[0]}/",
        f"/ops/dead/requeue/?ids={dead[0]}",
        "/ops/deliveries/",
        f"/ops/deliveries/{delivery}/",
        explained,
        f"{explained}&comment=1",
        "/ops/audit/",
    )
    with console(gateway) as browser:
        for path in pages:
            page = browser.open(path)

            assert browser.response.status_code == 200, path
            assert "<script>alert" not in browser.response.text, path
            if "requeue" not in path:
                assert "alert(1)" in page.text, path
            assert "script-src 'self'" in browser.response.headers["content-security-policy"]


def test_viewers_see_no_texts_and_no_forms(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    id_ = gateway.post(COMMENTS, {"comment": "the secret text"}, Prefer="respond-async").headers["command-id"]
    harness.apply()
    dead = accept_comments(harness, 1, **operators.by("mem"))
    bury(harness, dead)
    with harness.engine.begin() as connection:
        delivery = a_webhook_delivery(connection, a_webhook(connection, operators.organizations["acme"]))
    explained = "/ops/explain/?organization=acme&incident=1"
    pages = (
        f"/ops/commands/{id_}/",
        f"/ops/commands/{dead[0]}/",
        "/ops/dead/",
        "/ops/dead/?list=1",
        f"/ops/deliveries/{delivery}/",
        explained,
        f"{explained}&comment=1",
        f"{explained}&user=mem",
    )
    with console(gateway, VIEWER) as browser:
        for path in pages:
            page = browser.open(path)

            assert browser.response.status_code == 200
            assert "the secret text" not in page.text, path
            assert [form.action for form in page.forms if form.method == "post"] == ["/ops/logout/"], path
            assert links_to(page, "/ops/dead/requeue/") + links_to(page, "/ops/dead/discard/") == []
        for path in ("/ops/dead/requeue/?all=1", "/ops/dead/discard/?all=1"):
            browser.open(path)
            assert browser.response.status_code == 403
    with console(gateway) as browser:
        assert "the secret text" in browser.open(f"/ops/commands/{id_}/").text
        assert "the secret text" in browser.open(explained).text


def test_a_command_links_to_what_belongs_to_it(gateway: Gateway, harness: Harness) -> None:
    sent = {"comment": "Ana?", "mentions": ["user:12"]}
    id_ = gateway.post(COMMENTS, sent, Prefer="respond-async").headers["command-id"]
    harness.apply()
    plan_notifications(harness)
    with console(gateway, VIEWER) as browser:
        page = browser.open(f"/ops/commands/{id_}/")
        [delivery] = shown(page, "deliveries")
        of_incident = browser.open(f"/ops/commands/{links_to(page, '/ops/commands/')[1]}")
        told = browser.open(f"/ops/explain/{next(x for x in links_to(page, '/ops/explain/') if 'comment' in x)}")
        sent_to = browser.open(f"/ops/deliveries/{delivery}/")
        cause = browser.open(f"/ops/commands/{next(x for x in links_to(sent_to, '/ops/commands/') if 'query' in x)}")

        missing = browser.open(f"/ops/commands/{new_id()}/")
        assert (browser.response.status_code, "Not found" in missing.text) == (404, True)
        browser.open("/ops/commands/nonsense/")
        assert browser.response.status_code == 404
    assert shown(of_incident) == shown(cause) == [id_]
    assert "ana" in told.text
    assert "Notified in the inbox: the comment mentions this person." in told.text


def test_what_was_decided_about_a_person_is_said_in_order_with_what_decided(gateway: Gateway, harness: Harness) -> None:
    for text in ("Ana?", "Ana!"):
        gateway.post(COMMENTS, {"comment": text, "mentions": ["user:12"]}, Prefer="respond-async")
    harness.apply()
    plan_notifications(harness)
    with console(gateway) as browser:
        page = browser.open("/ops/explain/?organization=acme&incident=1&user=ana")
        one = browser.open("/ops/explain/?organization=acme&incident=1&user=ana&comment=1")
        untold = browser.open("/ops/explain/?organization=acme&incident=1&comment=1&told=no&per_page=2")
        rest = browser.open(f"/ops/explain/{neighbour(untold, 'next')}")

        newer = browser.open("/ops/explain/?organization=acme&incident=1&user=ana&per_page=1")
        older = browser.open(f"/ops/explain/{neighbour(newer, 'next')}")

    assert page.text.count("this decided") == 2
    assert [("Ana!" in each.text, "Ana?" in each.text) for each in (newer, older)] == [(True, False), (False, True)]
    assert ("Ana?" in one.text, "Ana!" in one.text) == (True, False)
    people = [
        [name for name in ("ana", "ben", "mem", "own") if f"user={name}&" in "".join(links_to(each, "/ops/explain/"))]
        for each in (untold, rest)
    ]
    assert people == [["ben", "mem"], ["own"]]


def test_deliveries_are_filtered_and_paged(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    with harness.engine.begin() as connection:
        webhook = a_webhook(connection, operators.organizations["acme"])
        older, newer = (a_webhook_delivery(connection, webhook) for _ in range(2))
        connection.execute(update(deliveries).where(deliveries.c.id == older).values(state="dead"))
    with console(gateway, VIEWER) as browser:
        everything = browser.open("/ops/deliveries/?organization=acme&channel=webhook&per_page=1")
        rest = browser.open(f"/ops/deliveries/{neighbour(everything, 'next')}")
        dead = browser.open("/ops/deliveries/?state=dead")
        none = browser.open("/ops/deliveries/?channel=email")

    assert [shown(page, "deliveries") for page in (everything, rest, dead)] == [
        [str(newer)],
        [str(older)],
        [str(older)],
    ]
    assert "No delivery matches these filters." in none.text


def test_dead_letters_are_grouped_by_error_and_listed(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids[:2], "KeyError: 7")
    bury(harness, ids[2:], "ValueError: bad")
    with console(gateway) as browser:
        groups = browser.open("/ops/dead/?group=1")
        bad, key = links_to(groups, "/ops/dead/?fingerprint=")
        of_group = browser.open(f"/ops/dead/?fingerprint={key}")
        listed = browser.open("/ops/dead/?list=1&per_page=2")

    assert bad != key
    assert shown(of_group) == [str(id_) for id_ in reversed(ids[:2])]
    assert shown(listed) == [str(id_) for id_ in reversed(ids[1:])]
    assert "list=1" in str(neighbour(listed, "next"))


def test_the_audit_log_is_filtered_by_who_what_and_target(gateway: Gateway, harness: Harness) -> None:
    with harness.engine.begin() as connection:
        for who, action, target in (
            ("otto", "hold.placed", "queue bulk"),
            ("ada", "dead.requeued", "all dead commands"),
        ):
            record_audit(connection, by=who, action=action, target=target, reason=f"{who} knows", after={"n": 1})
    with console(gateway, VIEWER) as browser:
        for query in ("by=otto", "action=hold", "target=BULK", "by=otto&action=hold.placed&target=queue"):
            page = browser.open(f"/ops/audit/?{query}")

            assert ("otto knows" in page.text, "ada knows" in page.text) == (True, False), query
        assert "n: 1" in page.text
    entries = gateway.get("/ops/api/audit/?action=dead", by="dev-viewer").json()
    assert [entry["by"] for entry in entries] == ["ada"]


def test_a_held_command_says_what_holds_it(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    [id_] = accept_comments(harness, 1, **operators.by("mem"))
    held = {"scope": "queue", "target": "commands", "reason": "deploying"}
    assert gateway.post("/ops/api/holds/", held, by="dev-operator").status_code == 201
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(attempts=2))
    with console(gateway, VIEWER) as browser:
        page = browser.open(f"/ops/commands/{id_}/")

    assert "with queue commands: deploying" in page.text
