"""The page about an incident, the inbox and the login: who may open them, what they show, and what their forms do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from gateway.pages.incident import TIMELINE_ENTRIES
from gateway.pages.sessions import COOKIE, Session, Sessions
from gateway.settings import GatewaySettings
from models.directory.importer import import_directory
from models.directory.tables import tokens, users
from models.enums import IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import commands
from models.notifications.notification import notifications
from models.notifications.stored_preferences import incident_mutes
from models.notifications.tickets import MAX_AGE_SECONDS, TicketKind, Tickets
from tests.builders import a_comment
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.browser_session import Browser, Document
from tests.http.gateway_server import COMMENTS, Gateway, Worker, running_gateway
from tests.waiting import eventually
from workers.notify.notifier import Notifier

SECRET = "a secret for the tests"
MEM, ANA = 11, 12
PAGE = "/organizations/acme/alerts/1/"


@pytest.fixture
def signed_settings(settings: Callable[..., GatewaySettings]) -> GatewaySettings:
    return settings(secret=SECRET)


@pytest.fixture
def gateway(acme: Acme, signed_settings: GatewaySettings) -> Iterator[Gateway]:
    """A gateway that can sign."""
    with running_gateway(signed_settings) as running:
        yield running


@pytest.fixture
def browser(gateway: Gateway) -> Iterator[Browser]:
    with Browser(gateway) as opened:
        yield opened


@pytest.fixture
def tickets() -> Tickets:
    return Tickets((SECRET,))


@pytest.fixture
def ticket(tickets: Tickets, acme: Acme, incident: int) -> str:
    """A ticket for mem and incident 1."""
    return tickets.page_ticket(MEM, acme.organizations["acme"], incident, 1)


@pytest.fixture
def opened(browser: Browser, ticket: str) -> Browser:
    """A browser in which mem has opened incident 1 from a mail."""
    browser.open(f"{PAGE}?ticket={ticket}")
    assert browser.response.status_code == 200
    return browser


def is_login(browser: Browser) -> bool:
    return browser.path.startswith("/login/")


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_ticket_opens_the_page_and_disappears_from_the_address(browser: Browser, ticket: str) -> None:
    document = browser.open(f"{PAGE}?ticket={ticket}&referrer=alert_email")

    assert browser.response.status_code == 200
    assert browser.path == f"{PAGE}?referrer=alert_email"
    assert [each.status_code for each in browser.response.history] == [303]
    assert "You are Mem" in document.text
    assert "ticket=" not in browser.response.text


def test_the_session_opens_only_the_tickets_incident(opened: Browser, other_incident: int) -> None:
    opened.open("/organizations/acme/alerts/2/")
    assert is_login(opened)

    opened.open("/inbox/")
    assert is_login(opened)

    assert opened.open(PAGE).is_doctype_first
    assert opened.path == PAGE


def test_tickets_for_several_incidents_add_up(
    opened: Browser, tickets: Tickets, acme: Acme, other_incident: int
) -> None:
    ticket = tickets.page_ticket(MEM, acme.organizations["acme"], other_incident, 2)

    opened.open(f"/organizations/acme/alerts/2/?ticket={ticket}")

    assert opened.path == "/organizations/acme/alerts/2/"
    opened.open(PAGE)
    assert opened.path == PAGE


def test_another_persons_ticket_replaces_the_session(
    opened: Browser, tickets: Tickets, acme: Acme, incident: int, other_incident: int
) -> None:
    organization = acme.organizations["acme"]

    document = opened.open(
        f"/organizations/acme/alerts/2/?ticket={tickets.page_ticket(ANA, organization, other_incident, 2)}"
    )

    assert "You are Ana" in document.text
    opened.open(PAGE)
    assert is_login(opened)


def _changed(ticket: str) -> str:
    return ("A" if ticket[0] != "A" else "B") + ticket[1:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda at, ids: _changed(at(0).page_ticket(MEM, *ids)), "not valid", id="changed"),
        pytest.param(lambda at, ids: at(0).unsubscribe_ticket(MEM, *ids), "not valid", id="another kind"),
        pytest.param(lambda at, ids: at(0).inbox_ticket(MEM), "not valid", id="for the inbox"),
        pytest.param(lambda at, ids: at(0).page_ticket(MEM, *ids[:2], 2), "not valid", id="another incident"),
        pytest.param(lambda at, ids: at(1).page_ticket(MEM, *ids), "too old", id="expired"),
        pytest.param(lambda at, ids: "", "not valid", id="empty"),
    ],
)
def test_a_ticket_that_does_not_open_the_page_leads_to_the_login(
    browser: Browser, acme: Acme, incident: int, make: Callable[..., str], message: str
) -> None:
    def at(seconds_too_old: int) -> Tickets:
        age = (MAX_AGE_SECONDS[TicketKind.PAGE] + 60) * seconds_too_old
        return Tickets((SECRET,), clock=lambda: time.time() - age)

    document = browser.open(f"{PAGE}?ticket={make(at, (acme.organizations['acme'], incident, 1))}")

    assert is_login(browser)
    assert message in document.text


def test_a_login_leads_to_the_page_that_required_it(browser: Browser) -> None:
    browser.open(PAGE)
    assert is_login(browser)

    document = browser.submit(browser.form(token=""), token="dev-mem")

    assert browser.path == PAGE
    assert "You are Mem" in document.text


@pytest.mark.parametrize(
    "next_path",
    ["https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)", "/a b", "evil", "/\r\nX: y"],
)
def test_a_login_never_leads_to_another_site(browser: Browser, next_path: str) -> None:
    browser.open("/login/")

    browser.submit(browser.form(token=""), token="dev-mem", next=next_path)

    assert browser.path == "/inbox/"


@pytest.mark.parametrize("token", ["wrong", "", "dev-gone", "dev-key", "dev-bot", "dev-ops", "é\0"])
def test_only_a_valid_token_of_a_person_logs_in(browser: Browser, token: str) -> None:
    document = browser.log_in(token)

    assert browser.response.status_code == 403
    assert "oken" in document.text
    browser.open("/inbox/")
    assert is_login(browser)


def test_a_login_has_no_more_rights_than_its_token(gateway: Gateway, browser: Browser) -> None:
    browser.log_in("dev-mem-read")

    document = browser.open(PAGE)

    assert browser.response.status_code == 200
    assert [form for form in document.forms if form.value("action")] == []


def test_logging_out_ends_the_session(browser: Browser) -> None:
    browser.log_in("dev-mem")

    document = browser.submit(browser.document.forms[0])

    assert "logged out" in document.text
    browser.open("/inbox/")
    assert is_login(browser)


def test_a_revoked_token_ends_its_sessions(browser: Browser, ledger: Engine, acme: Acme) -> None:
    browser.log_in("dev-mem")
    with ledger.begin() as connection:
        connection.execute(
            update(tokens).where(tokens.c.id == acme.tokens["dev-mem"]).values(revoked_at=tokens.c.date_created)
        )

    browser.open("/inbox/")

    assert is_login(browser)


def test_a_deactivated_account_ends_its_sessions(opened: Browser, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.execute(update(users).where(users.c.id == MEM).values(is_active=False))

    opened.open(PAGE)

    assert is_login(opened)


def test_a_session_counts_for_no_api(opened: Browser, browser: Browser) -> None:
    assert opened.client.get("/api/0/organizations/acme/incidents/1/").status_code == 401

    opened.log_in("dev-mem")
    assert opened.client.get("/api/0/organizations/acme/incidents/1/").status_code == 401
    assert opened.client.post(COMMENTS, json={"comment": "Hi"}).status_code == 401


# --- access ----------------------------------------------------------------------------------------------------------


def _page_of(browser: Browser, path: str) -> tuple[int, str]:
    browser.open(path)
    return browser.response.status_code, browser.response.text


def test_unknown_and_inaccessible_incidents_have_the_same_page(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    answers = set()
    # Nobody but the owner of the form's token would see a difference there, so it is left out.
    for path in (
        "/organizations/acme/alerts/404/",
        "/organizations/acme/alerts/x/",
        "/organizations/acme/alerts/99999999999999999999/",
        "/organizations/closed/alerts/1/",
        "/organizations/plain/alerts/1/",
        "/organizations/nobody/alerts/1/",
        "/organizations/nob%00dy/alerts/1/",
    ):
        with Browser(gateway) as browser:
            browser.log_in("dev-mem")
            status, text = _page_of(browser, path)
            form_token = browser.document.forms[0].value("form_token") if browser.document.forms else ""
            answers.add((status, text.replace(form_token or "\0", "")))

    assert len(answers) == 1
    assert answers.pop()[0] == 404


def test_without_a_session_every_incident_leads_to_the_login(browser: Browser) -> None:
    for number in ("1", "404", "x"):
        browser.open(f"/organizations/acme/alerts/{number}/")

        assert is_login(browser)


def test_access_lost_since_the_ticket_was_opened_closes_the_page(opened: Browser, ledger: Engine) -> None:
    form = opened.form(action="comment")
    with ledger.begin() as connection:
        import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})

    assert _page_of(opened, PAGE)[0] == 404
    opened.submit(form, comment="Hello?")
    assert opened.response.status_code == 404
    assert _commands(ledger) == []


def test_access_lost_between_the_form_and_its_application_is_refused_by_the_worker(
    opened: Browser, ledger: Engine, worker: Worker
) -> None:
    form = opened.form(action="comment")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(opened.submit, form, comment="Hello?")
        eventually(lambda: _commands(ledger))
        with ledger.begin() as connection:
            import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})

        worker.apply()
        sent.result()

    assert opened.response.status_code == 404
    assert _commands(ledger) == [("comment.post", "rejected")]
    assert _texts(ledger) == []


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_the_page_shows_the_incident_with_its_timeline(
    opened: Browser, ledger: Engine, incident: int, named_first: None, busy_worker: Worker, gateway: Gateway
) -> None:
    gateway.post(COMMENTS, {"comment": "Disk is **full**.\nSee https://wiki.x.test/disks?a=1&b=2."}, by="dev-ana")
    with gateway.client("dev-ana") as ana:
        ana.put("/api/0/organizations/acme/incidents/1/", json={"status": 2, "comment": "Disk replaced."})

    document = opened.open(PAGE)

    assert "first" in document.text
    assert "#1" in document.text
    assert "p1" in document.text
    assert "Resolved" in document.text
    assert "Disk is full." in document.text
    assert "See https://wiki.x.test/disks?a=1&b=2." in document.text
    assert "<strong>full</strong>" in opened.response.text
    assert "changed the status from Open to Resolved" in document.text
    assert document.text.index("Disk replaced.") < document.text.index("Disk is full.")
    assert {"href": "https://wiki.x.test/disks?a=1&b=2", "rel": "noopener noreferrer"} in document.attributes("a")
    assert not [form for form in document.forms if form.value("action") == "close"]


def test_what_people_write_is_shown_and_never_interpreted(opened: Browser, ledger: Engine, incident: int) -> None:
    text = '<script>alert(1)</script> & {{ 7 * 7 }} javascript:alert(1) https://x.test/"onmouseover="alert(1) \''
    with ledger.begin() as connection:
        a_comment(connection, incident, by=ANA, text=text)
        connection.execute(update(incidents).values(title="<b>bold</b>"))
        connection.execute(update(users).where(users.c.id == ANA).values(name="<i>Ana</i>"))

    document = opened.open(PAGE)

    assert text in document.text
    assert "<b>bold</b>" in document.text
    assert "<i>Ana</i>" in document.text
    assert [each["href"] for each in document.attributes("a") if (each["href"] or "").startswith("http")] == [
        "https://x.test/%22onmouseover=%22alert(1)"
    ]
    assert not [tag for tag, attributes in document.elements if tag == "script" or "onmouseover" in attributes]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** and `code`", "<strong>bold</strong> and <code>code</code>"),
        ("| a |\n|--:|\n| 1 |", '<td align="right">1</td>'),
        ("[ours](https://x.test/)", "(https://x.test/)"),
        ("List<String> x\n---", "List&lt;String&gt; x"),
    ],
)
def test_comments_are_shown_as_in_mails(opened: Browser, ledger: Engine, incident: int, text: str, shown: str) -> None:
    with ledger.begin() as connection:
        a_comment(connection, incident, by=ANA, text=text)

    document = opened.open(PAGE)

    assert shown in opened.response.text
    assert not [tag for tag, attributes in document.elements if tag == "style" or "style" in attributes]


def test_links_lead_to_older_activity_and_back(opened: Browser, ledger: Engine, incident: int) -> None:
    with ledger.begin() as connection:
        for number in range(2 * TIMELINE_ENTRIES + 1):
            a_comment(connection, incident, by=ANA, text=f"comment {number:03}")
    document = opened.open(PAGE)
    seen = [re.findall(r"comment \d{3}", document.text)]
    while older := [href for href in _hrefs(document) if href.startswith(f"{PAGE}?cursor=")]:
        document = opened.open(older[0])
        seen.append(re.findall(r"comment \d{3}", document.text))

    assert [len(each) for each in seen] == [TIMELINE_ENTRIES, TIMELINE_ENTRIES, 1]
    assert [each for page in seen for each in page] == [
        f"comment {number:03}" for number in reversed(range(2 * TIMELINE_ENTRIES + 1))
    ]
    assert PAGE in _hrefs(document)


def test_a_cursor_that_cannot_be_read_is_refused_with_a_page(opened: Browser) -> None:
    opened.open(f"{PAGE}?cursor=x")

    assert opened.response.status_code == 400


def _hrefs(document: Document) -> list[str]:
    return [each["href"] or "" for each in document.attributes("a")]


@pytest.mark.parametrize(
    ("zone", "shown", "named"),
    [
        ("Europe/Berlin", "23 Nov 2026, 11:00 CET", "Europe/Berlin"),
        ("America/Sao_Paulo", "23 Nov 2026, 07:00 UTC-03", "America/Sao_Paulo"),
        ("Nowhere/Else", "23 Nov 2026, 10:00 UTC", "UTC"),
    ],
)
def test_times_are_in_the_readers_time_zone(
    opened: Browser, ledger: Engine, incident: int, zone: str, shown: str, named: str
) -> None:
    with ledger.begin() as connection:
        connection.execute(update(users).where(users.c.id == MEM).values(timezone=zone))
        a_comment(connection, incident, by=ANA)

    document = opened.open(PAGE)

    assert shown in document.text
    assert f"Times are in {named}." in document.text
    assert {"datetime": "2026-11-23T10:00:00+00:00"} in document.attributes("time")


# --- forms -----------------------------------------------------------------------------------------------------------


def _commands(ledger: Engine) -> list[tuple[str, str]]:
    with ledger.connect() as connection:
        rows = connection.execute(select(commands.c.type, commands.c.state).order_by(commands.c.seq))
        return [(row.type, row.state) for row in rows]


def _texts(ledger: Engine) -> list[tuple[int | None, str]]:
    with ledger.connect() as connection:
        rows = connection.execute(select(activities).where(activities.c.comment.is_not(None)).order_by(activities.c.id))
        return [(row.user_id, row.comment) for row in rows]


def test_a_comment_is_posted_in_the_persons_name(opened: Browser, ledger: Engine, busy_worker: Worker) -> None:
    document = opened.act("comment", comment="On it.\r\nGive me an hour.")

    assert opened.path == f"{PAGE}?done=comment"
    assert "Your comment was posted." in document.text
    assert "On it.\nGive me an hour." in document.text
    assert _texts(ledger) == [(MEM, "On it.\nGive me an hour.")]
    with ledger.connect() as connection:
        row = connection.execute(select(commands)).one()
    assert (row.caller, row.token_id, row.user_id) == ("user:11", None, MEM)


def test_an_invalid_comment_is_refused_and_kept_in_the_form(
    opened: Browser, ledger: Engine, busy_worker: Worker
) -> None:
    document = opened.act("comment", comment="  ")

    assert opened.response.status_code == 400
    assert "This field may not be blank." in document.text
    assert _commands(ledger) == []


def test_closing_resolves_the_incident(opened: Browser, ledger: Engine, busy_worker: Worker) -> None:
    document = opened.act("close")

    assert "The incident is resolved." in document.text
    with ledger.connect() as connection:
        statement = select(incidents.c.status).where(incidents.c.identifier == 1)
        assert IncidentStatus.CLOSED in connection.execute(statement).scalars().all()


def test_subscribing_and_unsubscribing_changes_the_subscription(
    opened: Browser, ledger: Engine, busy_worker: Worker
) -> None:
    def subscribers() -> list[int]:
        with ledger.connect() as connection:
            return list(connection.execute(select(subscriptions.c.user_id)).scalars())

    opened.act("subscribe")
    assert subscribers() == [MEM]

    document = opened.act("unsubscribe")
    assert subscribers() == []
    assert [form.value("action") for form in document.forms if form.value("action") == "subscribe"] == ["subscribe"]


def test_a_command_of_a_login_carries_its_token(
    browser: Browser, ledger: Engine, acme: Acme, busy_worker: Worker
) -> None:
    browser.log_in("dev-mem")
    browser.open(PAGE)

    browser.act("comment", comment="Hi")

    with ledger.connect() as connection:
        assert connection.execute(select(commands.c.token_id)).scalar_one() == acme.tokens["dev-mem"]


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        pytest.param({"form_token": ""}, {}, id="no token"),
        pytest.param({"form_token": "x.y.z"}, {}, id="a wrong token"),
        pytest.param({"form_token": Sessions((SECRET,)).form_token(Session("other"))}, {}, id="another session's"),
        pytest.param({}, {"Origin": "https://evil.test"}, id="another origin"),
        pytest.param({}, {"Sec-Fetch-Site": "cross-site"}, id="another site"),
        pytest.param({}, {"Sec-Fetch-Site": "same-site"}, id="a neighbour"),
    ],
)
def test_a_form_from_elsewhere_changes_nothing(
    opened: Browser, ledger: Engine, change: dict[str, str], headers: dict[str, str]
) -> None:
    opened.submit(opened.form(action="close"), headers=headers, **change)

    assert opened.response.status_code == 403
    assert "Nothing was changed" in opened.document.text
    assert _commands(ledger) == []


@pytest.mark.parametrize("origin", ["null", "own"])
def test_a_form_from_the_page_itself_is_accepted(
    opened: Browser, gateway: Gateway, busy_worker: Worker, origin: str
) -> None:
    headers = {"Origin": gateway.url if origin == "own" else origin, "Sec-Fetch-Site": "same-origin"}

    opened.submit(opened.form(action="close"), headers=headers)

    assert opened.response.status_code == 200


def test_a_login_form_from_elsewhere_opens_no_session(browser: Browser) -> None:
    browser.response = browser.client.post("/login/", data={"token": "dev-mem"})

    assert browser.response.status_code == 403
    browser.open("/inbox/")
    assert is_login(browser)


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        pytest.param(b'{"action": "close"}', "application/json", 400, id="JSON"),
        pytest.param(b"action=%FF", "application/x-www-form-urlencoded", 400, id="not UTF-8"),
        pytest.param(b"action=\xff", "application/x-www-form-urlencoded", 400, id="not ASCII"),
        pytest.param(b"&".join([b"a=1"] * 500), "application/x-www-form-urlencoded", 400, id="many fields"),
        pytest.param(b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413, id="too large"),
    ],
)
def test_what_is_no_form_is_refused_with_a_page(
    opened: Browser, ledger: Engine, content: bytes, content_type: str, status: int
) -> None:
    opened.response = opened.client.post(PAGE, content=content, headers={"Content-Type": content_type})

    assert opened.response.status_code == status
    assert opened.document.is_doctype_first
    assert _commands(ledger) == []


def test_an_unknown_action_is_refused(opened: Browser, ledger: Engine) -> None:
    opened.submit(opened.form(action="close"), action="delete")

    assert opened.response.status_code == 404
    assert _commands(ledger) == []


def test_the_rate_limit_counts_pages_and_api_together(
    settings: Callable[..., GatewaySettings], ticket: str, busy_worker: Worker
) -> None:
    with running_gateway(settings(secret=SECRET, rate=1)) as gateway, Browser(gateway) as browser:
        browser.open(f"{PAGE}?ticket={ticket}")
        for _ in range(5):
            gateway.post(COMMENTS, {"comment": "Hi"}, Prefer="respond-async")

        browser.act("comment", comment="One more")

        assert browser.response.status_code == 429


# --- the inbox -------------------------------------------------------------------------------------------------------


@pytest.fixture
def notifier(database: Database, signed_settings: GatewaySettings) -> Notifier:
    return Notifier(database.engine, signed_settings)


@pytest.fixture
def inbox(ledger: Engine, notifier: Notifier, incident: int, other_incident: int) -> None:
    """Mem was mentioned on incident 1, and then on incident 2."""
    with ledger.begin() as connection:
        a_comment(connection, incident, by=ANA, text="Mem, look.", mentioning=[MEM])
        a_comment(connection, other_incident, by=ANA, text="And here.", mentioning=[MEM])
    while notifier.plan_batch():
        pass


def unread(ledger: Engine) -> int:
    with ledger.connect() as connection:
        rows = connection.execute(select(notifications).where(notifications.c.date_read.is_(None)))
        return len(rows.all())


def test_the_inbox_shows_notifications_and_links_to_their_pages(browser: Browser, inbox: None) -> None:
    document = browser.log_in("dev-mem")

    assert browser.path == "/inbox/"
    assert document.text.index("And here.") < document.text.index("Mem, look.")
    links = [each["href"] for each in document.attributes("a") if each.get("class") == "row"]
    assert links == ["/organizations/acme/alerts/2/", PAGE]


def test_an_inbox_ticket_opens_the_inbox_and_what_is_in_it(browser: Browser, tickets: Tickets, inbox: None) -> None:
    document = browser.open(f"/inbox/?ticket={tickets.inbox_ticket(MEM)}")
    (link, _) = [each["href"] or "" for each in document.attributes("a") if each.get("class") == "row"]

    assert browser.path == "/inbox/"
    browser.open(link)
    assert (browser.response.status_code, browser.path) == (200, "/organizations/acme/alerts/2/")
    browser.open("/inbox/")
    assert browser.path == "/inbox/"


def test_read_items_come_after_unread_ones(browser: Browser, ledger: Engine, inbox: None) -> None:
    with ledger.begin() as connection:
        newest = select(notifications.c.id).order_by(notifications.c.id.desc()).limit(1).scalar_subquery()
        connection.execute(
            update(notifications).where(notifications.c.id == newest).values(date_read=notifications.c.date_created)
        )

    document = browser.log_in("dev-mem")

    assert document.text.index("Mem, look.") < document.text.index("And here.")


def test_marking_everything_as_read_marks_what_was_shown(
    browser: Browser, ledger: Engine, notifier: Notifier, incident: int, inbox: None, busy_worker: Worker
) -> None:
    browser.log_in("dev-mem")
    form = browser.form(shown="")
    with ledger.begin() as connection:
        a_comment(connection, incident, by=ANA, text="Written later.", mentioning=[MEM])
    while notifier.plan_batch():
        pass

    document = browser.submit(form)

    assert "Everything is marked as read." in document.text
    assert unread(ledger) == 1


def test_the_inbox_shows_nothing_of_incidents_that_are_out_of_reach(
    browser: Browser, ledger: Engine, inbox: None
) -> None:
    with ledger.begin() as connection:
        import_directory(connection, {"members": [{"organization": "acme", "user": "mem", "role": None}]})

    document = browser.log_in("dev-mem")

    assert browser.response.status_code == 200
    assert "Mem, look." not in document.text


def test_an_inbox_form_from_elsewhere_marks_nothing(browser: Browser, ledger: Engine, inbox: None) -> None:
    browser.log_in("dev-mem")

    browser.submit(browser.form(shown=""), form_token="")

    assert browser.response.status_code == 403
    assert unread(ledger) == 2


# --- headers, errors, settings ---------------------------------------------------------------------------------------

CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


@pytest.mark.parametrize("path", ["/", "/login/", "/inbox/", PAGE, "/nowhere/", "/unsubscribe/x/"])
def test_every_page_has_strict_headers(browser: Browser, path: str) -> None:
    document = browser.open(path)

    headers = browser.response.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert document.is_doctype_first
    assert not [tag for tag, attributes in document.elements if tag == "script" or "style" in attributes]


@pytest.mark.parametrize(
    ("public_url", "attributes"),
    [
        (None, {"path=/", "httponly", "samesite=lax", "max-age=86400"}),
        ("https://x.test", {"path=/", "httponly", "samesite=lax", "max-age=86400", "secure"}),
        ("https://x.test/base", {"path=/base/", "httponly", "samesite=lax", "max-age=86400", "secure"}),
    ],
)
def test_the_cookie_is_kept_from_scripts_and_other_sites(
    settings: Callable[..., GatewaySettings], ticket: str, public_url: str | None, attributes: set[str]
) -> None:
    with running_gateway(settings(secret=SECRET, public_url=public_url)) as gateway:
        answer = gateway.get(f"{PAGE}?ticket={ticket}", by=None)

    (cookie,) = answer.headers.get_list("set-cookie")
    assert {each.strip().lower() for each in cookie.split(";")[1:]} == attributes
    base = "/base" if public_url and "base" in public_url else ""
    assert answer.headers["location"] == base + PAGE


def test_a_changed_cookie_is_no_session(opened: Browser) -> None:
    value = opened.client.cookies[COOKIE]
    opened.client.cookies.set(COOKIE, _changed(value), domain="127.0.0.1")

    opened.open(PAGE)

    assert is_login(opened)


def test_without_a_secret_the_pages_say_what_to_set(settings: Callable[..., GatewaySettings], ticket: str) -> None:
    with running_gateway(settings(secret=None)) as gateway, Browser(gateway) as browser:
        for path in (f"{PAGE}?ticket={ticket}", "/inbox/", "/login/", "/unsubscribe/x/"):
            document = browser.open(path)

            assert browser.response.status_code == 503
            assert "TOCSIN_SECRET" in document.text
        browser.open("/")
        assert browser.response.status_code == 200


def test_the_first_page_leads_on(browser: Browser) -> None:
    document = browser.open("/")

    for link in [each["href"] or "" for each in document.attributes("a")]:
        assert browser.client.get(link).status_code == 200, link


@pytest.mark.parametrize(("accept", "media_type"), [("text/html,*/*;q=0.8", "text/html"), ("*/*", "application/json")])
def test_an_unknown_path_is_answered_in_the_form_that_the_caller_reads(
    gateway: Gateway, accept: str, media_type: str
) -> None:
    answer = gateway.get("/nowhere/", by=None, Accept=accept)

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith(media_type)


def test_an_unknown_path_of_the_api_is_answered_in_json_even_to_browsers(gateway: Gateway) -> None:
    answer = gateway.get("/api/0/nowhere/", by=None, Accept="text/html")

    assert answer.json() == {"detail": "The requested resource does not exist"}


def test_a_method_that_a_path_does_not_support_is_answered_in_the_form_that_the_caller_reads(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        page, plain = (client.post("/docs", headers={"Accept": accept}) for accept in ("text/html", "*/*"))

    assert (page.status_code, plain.status_code) == (405, 405)
    assert page.headers["content-type"].startswith("text/html")
    assert plain.json() == {"detail": 'Method "POST" not allowed.'}
    assert page.headers["allow"] == plain.headers["allow"]


def test_no_ticket_is_in_the_logs(gateway: Gateway, ticket: str, tickets: Tickets, acme: Acme, incident: int) -> None:
    unsubscribing = tickets.unsubscribe_ticket(MEM, acme.organizations["acme"], incident, 1)
    with capture_logs() as lines, gateway.client(None) as client:
        client.get(f"{PAGE}?ticket={ticket}")
        for path in (f"/unsubscribe/{unsubscribing}", f"/unsubscribe/{unsubscribing}/"):
            client.post(path, data={"List-Unsubscribe": "One-Click"})

    text = str(lines)
    assert tickets.read_page_ticket(ticket).id in text
    assert tickets.read_unsubscribe_ticket(unsubscribing).id in text
    assert ticket not in text
    assert unsubscribing not in text


def test_the_page_offers_to_mute_or_to_unmute(opened: Browser, ledger: Engine, busy_worker: Worker) -> None:
    before = opened.document
    muted = opened.act("mute", hours="8")
    unmuted = opened.act("unmute")

    assert "The incident is muted for you." in muted.text
    assert "no longer muted" in unmuted.text
    assert [_muting(each) for each in (before, muted, unmuted)] == [["mute"], ["unmute"], ["mute"]]
    assert _commands(ledger) == [("incident.mute", "applied"), ("incident.unmute", "applied")]


@pytest.mark.parametrize(
    ("until", "form", "shown"),
    [
        (None, "unmute", "until you unmute it."),
        (datetime(2099, 1, 2, 3, 4, tzinfo=UTC), "unmute", "until 2 Jan 2099, 03:04 UTC."),
        (datetime(2020, 1, 2, 3, 4, tzinfo=UTC), "mute", None),
    ],
)
def test_the_page_says_until_when_the_incident_is_muted(
    opened: Browser, ledger: Engine, incident: int, until: datetime | None, form: str, shown: str | None
) -> None:
    with ledger.begin() as connection:
        connection.execute(insert(incident_mutes).values(incident_id=incident, user_id=MEM, until=until))
        # Another person's mute is not shown.
        connection.execute(insert(incident_mutes).values(incident_id=incident, user_id=ANA))

    document = opened.open(PAGE)

    assert _muting(document) == [form]
    sentence = re.search(r"You get no messages about this incident (.*)", document.text)
    assert (sentence and sentence[1]) == shown


def _muting(document: Document) -> list[str]:
    return [action for each in document.forms if (action := each.value("action")) in ("mute", "unmute")]


def test_pages_answer_other_methods(gateway: Gateway, ticket: str) -> None:
    with gateway.client(None) as client:
        head, options, put = client.head("/login/"), client.options("/login/"), client.put("/login/")

    assert (head.status_code, head.content) == (200, b"")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, POST, HEAD, OPTIONS")
    assert (put.status_code, put.headers["allow"]) == (405, "GET, POST, HEAD, OPTIONS")
    assert put.headers["content-type"].startswith("text/html")
