"""The operators' pages over HTTP: who may see and do what, and what they say while a server is away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
import pytest
from sqlalchemy import func, insert, select

from gateway.container import Timeouts
from gateway.ops.console.advice import ADVICE
from gateway.ops.console.charts import RANGES
from gateway.ops.console.dead import DISCARD_PATH, REQUEUE_PATH
from gateway.ops.console.queues import STATES
from gateway.ops.console.routes import PAGES
from gateway.settings import GatewaySettings
from models.base import new_id
from models.messaging.hold import holds
from models.operations.overview import read_overview
from models.operations.processes import REPORT, ProcessFacts, ProcessReport, report_parameters
from models.operations.tables import minute_series
from models.serializers.operations import BrokerState, QueueState
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import Gateway, running_gateway
from tests.ops.ledger import accept_comments, bury
from tests.ops.test_ops_api_login import log_in

START_PAGES: Final = sorted(
    path
    for path, methods in PAGES.items()
    if "GET" in methods and "{" not in path and path not in (REQUEUE_PATH, DISCARD_PATH)
)
"""The pages that need nothing in their address."""

HOLDS: Final = "/ops/holds/"
A_HOLD: Final = {"scope": "queue", "target": "bulk", "minutes": "60", "reason": "the import floods acme"}


@pytest.fixture
def operator(gateway: Gateway) -> Iterator[httpx.Client]:
    """A browser in which an operator is logged in."""
    with gateway.client(None) as client:
        log_in(client)
        yield client


@pytest.fixture
def viewer(gateway: Gateway) -> Iterator[httpx.Client]:
    """A browser in which a viewer is logged in."""
    with gateway.client(None) as client:
        log_in(client, "dev-viewer")
        yield client


def form_token(client: httpx.Client, path: str = HOLDS) -> str:
    """Return the token that a form on a page must send."""
    found = re.search('name="form_token" value="([^"]+)"', client.get(path).text)
    assert found
    return found[1]


def send(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Send the form of the page of holds, or of one hold."""
    return client.post(path, data={"form_token": form_token(client), **fields})


def held(harness: Harness) -> list[str]:
    with harness.engine.connect() as connection:
        return list(connection.execute(select(holds.c.target).where(holds.c.released_at.is_(None))).scalars())


# --- every page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", START_PAGES)
def test_every_page_has_a_strict_policy_and_says_where_one_is(viewer: httpx.Client, path: str) -> None:
    page = viewer.get(path)

    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert f'<a href="{path}" aria-current="page">' in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", page.text)


@pytest.mark.parametrize("path", START_PAGES)
def test_no_page_offers_a_viewer_a_change(viewer: httpx.Client, path: str) -> None:
    forms = re.findall('<form[^>]*method="post"[^>]*action="([^"]+)"', viewer.get(path).text)

    assert forms == ["/ops/logout/"]


@pytest.mark.parametrize("path", START_PAGES)
def test_every_page_is_answered_without_broker_and_valkey(lonely_gateway: Gateway, path: str) -> None:
    with lonely_gateway.client(None) as client:
        log_in(client)
        page = client.get(path)

    assert page.status_code == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/ops/", "tocsin cannot know how many consumers a queue has"),
        ("/ops/queues/", "The number of consumers is therefore unknown."),
    ],
)
def test_a_page_says_what_it_cannot_know_without_the_broker(lonely_gateway: Gateway, path: str, said: str) -> None:
    with lonely_gateway.client(None) as client:
        log_in(client)
        text = client.get(path).text

    assert said in text


def test_without_the_database_every_page_says_so(
    gateway: Gateway, settings: Callable[..., GatewaySettings], operator: httpx.Client
) -> None:
    away = settings(DATABASE_URL="postgresql://nobody@/nothing?host=/nowhere")
    with running_gateway(away, Timeouts()) as alone:
        responses = [httpx.get(f"{alone.url}{path}", cookies=operator.cookies) for path in START_PAGES]

    assert {response.status_code for response in responses} == {503}
    assert all("The database does not answer" in response.text for response in responses)
    assert all(response.headers["retry-after"] for response in responses)


# --- overview, queues, workers -------------------------------------------------------------------------------------


def test_the_overview_says_what_is_wrong_and_what_to_do(operator: httpx.Client, harness: Harness, acme: Acme) -> None:
    calm = operator.get("/ops/").text
    bury(harness, accept_comments(harness, 2, **acme.by("mem")))

    page = operator.get("/ops/").text

    assert "<h1>Nothing needs attention</h1>" in calm
    assert "<h1>One thing needs attention</h1>" in page
    assert "2 dead letters wait for a decision." in page
    assert ADVICE["dead"] in page
    assert 'href="/ops/dead/?group=1"' in page


def test_there_is_advice_for_every_kind_of_attention(harness: Harness, acme: Acme) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    bury(harness, accept_comments(harness, 1, **acme.by("mem")))
    accept_comments(harness, 1, **acme.by("mem"))
    with harness.engine.begin() as connection:
        facts = ProcessFacts(new_id(), "worker", "host", 1, "1", ["bulk"], "w1")
        connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(0, 0, 1)))
        connection.exec_driver_sql("UPDATE process_heartbeats SET ended_at = clock_timestamp()")
        connection.exec_driver_sql("UPDATE commands SET accepted_at = %s", (long_ago,))
        seen = read_overview(
            connection, broker={"status": BrokerState.UNREACHABLE, "kind": "valkey", "detail": "It is away."}
        )

    kinds = {each["kind"] for each in seen["attention"]}
    assert {"broker", "dead", "process"} <= kinds <= ADVICE.keys()
    assert STATES.keys() == set(QueueState)


@pytest.mark.parametrize("name", RANGES)
def test_each_chart_has_a_table_with_the_numbers_of_its_range(
    operator: httpx.Client, harness: Harness, name: str
) -> None:
    with harness.engine.begin() as connection:
        minute = connection.execute(select(func.date_trunc("minute", func.clock_timestamp()))).scalar_one()
        values = {"at": minute - timedelta(minutes=2), "numbers": {"accepted": 41, "dead": 3}}
        connection.execute(insert(minute_series).values(values))

    page = operator.get(f"/ops/?range={name}").text

    chart = RANGES[name]
    assert page.count('<figure class="chart"') == page.count("<details>") == 5
    assert page.count('<th scope="row"><time') == 5 * chart.minutes // chart.step_minutes
    assert page.count('<td data-value="41">41</td>') == page.count('<td data-value="3">3</td>') == 1
    assert f'range={name}#history" aria-current="true"' in page


def test_before_any_number_is_recorded_the_page_says_what_will_be_there(operator: httpx.Client) -> None:
    page = operator.get("/ops/?range=nonsense").text

    assert "Charts of commands and deliveries will be here" in page


def test_a_held_queue_says_who_holds_it_and_leads_to_its_release(operator: httpx.Client) -> None:
    send(operator, HOLDS, **A_HOLD | {"reason": "<b>import</b>"})

    page = operator.get("/ops/queues/").text

    assert "by otto: “&lt;b&gt;import&lt;/b&gt;”" in page
    assert re.search(r'<a href="/ops/holds/\d+/">Release bulk</a>', page)
    assert '<a href="/ops/holds/?scope=queue&amp;target=commands#place">Hold commands</a>' in page


def test_a_process_that_is_gone_is_still_listed(operator: httpx.Client, harness: Harness) -> None:
    with harness.engine.begin() as connection:
        for host in ("one", "two"):
            facts = ProcessFacts(new_id(), "worker", host, 42, "1.2.3", ["commands", "bulk"], host)
            connection.exec_driver_sql(REPORT, report_parameters(facts, ProcessReport(7, 7, 81_000_000)))
        connection.exec_driver_sql("UPDATE process_heartbeats SET ended_at = clock_timestamp() WHERE host = 'two'")

    page = operator.get("/ops/workers/").text

    rows = {host: re.search(f"<tr[^>]*>(?:(?!</tr>).)*{host}, process 42.*?</tr>", page, re.DOTALL) for host in
            ("one", "two")}  # fmt: skip
    assert rows["one"]
    assert rows["two"]
    assert all(each in rows["one"][0] for each in ("busy", "commands, bulk", "81 MB", "1.2.3"))
    assert "gone" in rows["two"][0]
    assert "1 worker," in page


# --- holds ---------------------------------------------------------------------------------------------------------


def test_an_operator_places_and_releases_a_hold(operator: httpx.Client, harness: Harness) -> None:
    filled_in = operator.get(f"{HOLDS}?scope=queue&target=bulk").text
    placed = send(operator, HOLDS, **A_HOLD)
    listed = operator.get(placed.headers["location"]).text
    link = re.search(r'href="(/ops/holds/\d+/)"', listed)
    assert link
    hold = operator.get(link[1])
    released = send(operator, link[1], reason="the import is over")

    assert 'value="bulk"' in filled_in
    assert placed.status_code == released.status_code == 303
    assert "The hold is in force" in listed
    assert "the import floods acme" in hold.text
    assert "The hold is released" in operator.get(released.headers["location"]).text
    assert held(harness) == []
    audit = operator.get("/ops/api/audit/").json()
    assert [(row["by"], row["action"], row["reason"]) for row in audit] == [
        ("otto", "hold.released", "the import is over"),
        ("otto", "hold.placed", "the import floods acme"),
    ]
    assert operator.get(link[1]).status_code == 404


@pytest.mark.parametrize(("minutes", "ends"), [("15", True), ("", False)])
def test_a_hold_ends_when_the_form_says(operator: httpx.Client, harness: Harness, minutes: str, ends: bool) -> None:
    send(operator, HOLDS, **A_HOLD | {"minutes": minutes})

    with harness.engine.connect() as connection:
        seconds = connection.execute(select(func.extract("epoch", holds.c.release_at - holds.c.since))).scalar_one()
    assert (seconds is not None) == ends
    assert not ends or 14 * 60 < seconds < 16 * 60


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"reason": " "}, "This field"),
        ({"target": "<bulk>"}, "&lt;bulk&gt;"),
        ({"scope": "planet"}, "is not one of"),
        ({"minutes": "7"}, "Choose one of these."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_form_says_what_is_wrong_and_keeps_the_rest(
    operator: httpx.Client, harness: Harness, wrong: dict[str, str], text: str
) -> None:
    response = send(operator, HOLDS, **A_HOLD | wrong)

    assert response.status_code == 400
    assert text in response.text
    assert 'aria-invalid="true"' in response.text
    assert 'value="bulk"' in response.text or 'value="the import floods acme"' in response.text
    assert held(harness) == []


def test_what_is_held_already_cannot_be_held_again(operator: httpx.Client) -> None:
    send(operator, HOLDS, **A_HOLD)

    response = send(operator, HOLDS, **A_HOLD)

    assert response.status_code == 409
    assert "is held already" in response.text


def test_a_release_needs_a_reason(operator: httpx.Client, harness: Harness) -> None:
    send(operator, HOLDS, **A_HOLD)
    with harness.engine.connect() as connection:
        path = f"{HOLDS}{connection.execute(select(holds.c.id)).scalar_one()}/"

    response = send(operator, path, reason="")

    assert response.status_code == 400
    assert 'aria-invalid="true"' in response.text
    assert held(harness) == ["bulk"]


@pytest.mark.parametrize("id_", ["1", "0", "x", "9" * 30])
def test_a_hold_that_is_not_in_force_is_not_found(operator: httpx.Client, id_: str) -> None:
    page = operator.get(f"{HOLDS}{id_}/")

    assert page.status_code == 404
    assert 'aria-label="Operations"' in page.text


# --- who may change something --------------------------------------------------------------------------------------


def test_a_viewer_cannot_send_a_form(viewer: httpx.Client, operator: httpx.Client, harness: Harness) -> None:
    response = viewer.post(HOLDS, data={"form_token": form_token(operator), **A_HOLD})

    assert response.status_code == 403
    assert held(harness) == []


def test_a_form_of_another_session_or_site_changes_nothing(
    gateway: Gateway, operator: httpx.Client, harness: Harness
) -> None:
    token = form_token(operator)
    with gateway.client(None) as other:
        log_in(other, "dev-ops")
        foreign = other.post(HOLDS, data={"form_token": token, **A_HOLD})
    without = operator.post(HOLDS, data=A_HOLD)
    elsewhere = operator.post(HOLDS, data={"form_token": token, **A_HOLD}, headers={"Origin": "https://evil.test"})

    assert [foreign.status_code, without.status_code, elsewhere.status_code] == [403, 403, 403]
    assert held(harness) == []


def test_a_login_leads_to_the_page_that_was_asked_for(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        refused = client.get("/ops/holds/?scope=queue&target=bulk")
        form = client.get(refused.headers["location"]).text
        target = re.search('name="next" value="([^"]+)"', form)
        assert target
        opened = client.post("/ops/login/", data={"token": "dev-operator", "next": target[1].replace("&amp;", "&")})

    assert opened.headers["location"] == "/ops/holds/?scope=queue&target=bulk"


@pytest.mark.parametrize(
    "target", ["https://evil.test/", "//evil.test/", "/ops/../api/", "/ops/\\evil.test", "/inbox/", "/ops/logout/",
               "/ops//evil.test", "/ops/holds/\r\nSet-Cookie: a=b"],
)  # fmt: skip
def test_a_login_leads_nowhere_else(gateway: Gateway, target: str) -> None:
    with gateway.client(None) as client:
        opened = client.post("/ops/login/", data={"token": "dev-operator", "next": target})

    assert opened.headers["location"] == "/ops/"
