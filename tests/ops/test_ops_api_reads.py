"""What operators read over HTTP: every resource, by role, in pages, and while the broker is away."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from models.messaging.command_ledger import commands
from models.operations import commands as search
from models.operations.holds import place_hold
from tasks.commands.catalog import CATALOG
from tests.builders import a_webhook, a_webhook_delivery
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import A_COMMENT, COMMENTS, Gateway
from tests.ops.ledger import accept_comments, bury

API = "/ops/api"
READS = (
    "overview/",
    "queues/",
    "workers/",
    "commands/",
    "dead/",
    "dead/?group=1",
    "holds/",
    "deliveries/",
    "explain/?organization=acme&incident=1&user=mem",
    "series/",
    "audit/",
)


def read(gateway: Gateway, path: str, *, by: str = "dev-viewer") -> Any:
    response = gateway.get(f"{API}/{path}", by=by)
    assert response.status_code == 200, response.text
    return response.json()


def links(response: httpx.Response) -> dict[str, tuple[str, bool]]:
    """Return the URL and whether there are results, by rel."""
    return {name: (link["url"], link["results"] == "true") for name, link in response.links.items() if name is not None}


@pytest.mark.parametrize("path", READS)
def test_every_read_needs_the_token_of_an_operator_of_any_role(gateway: Gateway, path: str) -> None:
    callers = (None, "nobody", "dev-mem", "dev-bot", "dev-key", "dev-viewer", "dev-operator", "dev-ops")

    statuses = [gateway.get(f"{API}/{path}", by=by).status_code for by in callers]

    assert statuses == [401, 401, 403, 403, 403, 200, 200, 200]


def test_the_overview_and_the_queues_have_the_documented_fields(gateway: Gateway) -> None:
    overview = read(gateway, "overview/")
    queues = read(gateway, "queues/")

    assert (overview["database"], overview["broker"]["status"]) == ({"status": "ok"}, "ok")
    assert overview["broker"]["kind"] in ("valkey", "redis")
    assert [queue["name"] for queue in queues] == ["commands", "bulk", "deliveries"]


def test_while_the_broker_is_away_every_read_is_answered_and_says_so(lonely_gateway: Gateway) -> None:
    answers = {path: read(lonely_gateway, path) for path in READS}

    assert answers["overview/"]["broker"]["status"] == "unreachable"
    assert "broker" in [entry["kind"] for entry in answers["overview/"]["attention"]]
    assert {queue["consumers"] for queue in answers["queues/"]} == {None}


def test_a_viewer_sees_a_commands_timeline_but_not_what_a_user_wrote(gateway: Gateway, harness: Harness) -> None:
    key = "order-66"
    sent = {"comment": "the secret text"}
    id_ = gateway.post(COMMENTS, sent, Prefer="respond-async", Idempotency_Key=key).headers["command-id"]
    harness.apply()

    seen = {by: gateway.get(f"{API}/commands/{id_}/", by=by) for by in ("dev-viewer", "dev-operator", "dev-ops")}

    assert [answer.json()["payload"] is None for answer in seen.values()] == [True, False, False]
    assert ["the secret text" in answer.text for answer in seen.values()] == [False, True, True]
    shown = seen["dev-viewer"].json()
    assert shown["status"] == "applied"
    assert shown["outcome"] == {"status": 201, "body": None}
    assert shown["idempotencyKey"] == key
    assert shown["actor"]["name"] == "mem"
    assert [step["step"] for step in shown["timeline"]][:1] == ["accepted"]
    assert {"claimed", "applied", "event"} <= {step["step"] for step in shown["timeline"]}
    assert gateway.get(f"{API}/commands/{UUID(int=1)}/", by="dev-viewer").status_code == 404
    assert gateway.get(f"{API}/commands/nonsense/", by="dev-viewer").status_code == 404


def test_commands_are_found_by_each_filter(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    waiting = accept_comments(harness, 1, **operators.by("ana"))
    headers = {"Prefer": "respond-async", "Idempotency_Key": "k-1"}
    mine = gateway.post(COMMENTS, A_COMMENT, **headers).headers["command-id"]

    def found(query: str) -> list[str]:
        return [row["id"] for row in read(gateway, f"commands/?{query}")]

    assert found("") == [mine, str(waiting[0])]
    assert found("organization=acme&incident=1&state=accepted") == found("")
    assert found("user=ana") == [str(waiting[0])]
    assert found("query=k-1") == found(f"query={mine}") == [mine]
    assert found("type=incident.close") == found("queue=bulk") == found("organization=nobody") == []
    assert found("from=2026-01-01T00:00:00Z&to=2999-01-01T00:00:00Z") == found("from=0001-01-01T00:00:00Z")
    assert found("to=1969-01-01T00:00:00Z") == []
    assert "body" not in str(read(gateway, "commands/")[0]["outcome"])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("commands/?state=lost", "state"),
        ("commands/?queue=fast", "queue"),
        ("commands/?incident=x&organization=acme", "incident"),
        ("commands/?incident=1", "organization"),
        ("commands/?from=yesterday", "from"),
        ("commands/?user=%00", "user"),
        ("dead/?group=maybe", "group"),
        ("deliveries/?channel=pigeon", "channel"),
        ("deliveries/?state=lost", "state"),
        ("explain/?organization=acme&user=mem", "incident"),
        ("series/?metric=speed", "metric"),
        ("series/?minutes=0", "minutes"),
        ("series/?minutes=soon", "minutes"),
    ],
)
def test_a_filter_that_is_not_valid_is_named(gateway: Gateway, path: str, field: str) -> None:
    response = gateway.get(f"{API}/{path}", by="dev-viewer")

    assert (response.status_code, list(response.json())) == (400, [field])


@pytest.mark.parametrize(
    "path", ["commands/?per_page=101", "audit/?cursor=x", "deliveries/?cursor=W10", "dead/?per_page=0"]
)
def test_a_malformed_page_is_refused(gateway: Gateway, path: str) -> None:
    assert gateway.get(f"{API}/{path}", by="dev-viewer").status_code == 400


def test_a_list_is_paged_from_the_newest_to_the_oldest_and_back(
    gateway: Gateway, harness: Harness, operators: Acme
) -> None:
    ids = [str(id_) for id_ in reversed(accept_comments(harness, 5, **operators.by("mem")))]

    first = gateway.get(f"{API}/commands/?per_page=2", by="dev-viewer")
    second = gateway.get(links(first)["next"][0], by="dev-viewer")
    third = gateway.get(links(second)["next"][0], by="dev-viewer")
    back = gateway.get(links(third)["previous"][0], by="dev-viewer")

    pages = [[row["id"] for row in page.json()] for page in (first, second, third, back)]
    assert pages == [ids[:2], ids[2:4], ids[4:], ids[2:4]]
    assert [links(page)["next"][1] for page in (first, second, third)] == [True, True, False]
    assert [links(page)["previous"][1] for page in (first, second)] == [False, True]
    assert gateway.get(links(first)["previous"][0], by="dev-viewer").json() == []


def test_holds_and_the_audit_log_are_paged_too(gateway: Gateway, harness: Harness) -> None:
    with harness.engine.begin() as connection:
        for lane in ("commands", "bulk", "deliveries"):
            place_hold(connection, scope="queue", target=lane, reason="x", by="otto", known_types=frozenset(CATALOG))

    for path, name in (("holds", "target"), ("audit", "target")):
        first = gateway.get(f"{API}/{path}/?per_page=2", by="dev-viewer")
        second = gateway.get(links(first)["next"][0], by="dev-viewer")
        seen = [row[name].removeprefix("queue ") for row in [*first.json(), *second.json()]]
        assert seen == ["deliveries", "bulk", "commands"]


def test_dead_letters_are_listed_and_grouped(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    ids = accept_comments(harness, 3, **operators.by("mem"))
    bury(harness, ids[:2], "KeyError: 7")
    bury(harness, ids[2:], "ValueError: bad")

    letters = read(gateway, "dead/")
    groups = read(gateway, "dead/?group=1")

    assert [letter["id"] for letter in letters] == [str(id_) for id_ in reversed(ids)]
    assert {"error", "attempts", "diedAt", "fingerprint"} <= set(letters[0])
    assert [(group["error"], group["count"]) for group in groups] == [("ValueError: bad", 1), ("KeyError: 7", 2)]
    assert len(read(gateway, f"dead/?fingerprint={groups[1]['fingerprint']}")) == 2


def test_a_search_that_stops_early_says_where_it_continues(
    gateway: Gateway, harness: Harness, operators: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_comments(harness, 3, **operators.by("mem"))
    other = accept_comments(harness, 1, **operators.by("ana"))
    accept_comments(harness, 3, **operators.by("mem"))
    harness.apply()
    with harness.engine.begin() as connection:
        connection.execute(commands.update().where(commands.c.id == other[0]).values(lane="bulk"))
    monkeypatch.setattr(search, "_EVERY_ARM", search._EVERY_ARM._replace(rows=2))

    url, seen, pages = f"{API}/commands/?queue=bulk", list[str](), 0
    while True:
        page = gateway.get(url, by="dev-viewer")
        seen += [row["id"] for row in page.json()]
        pages += 1
        url, has_more = links(page)["next"]
        if not has_more:
            break

    assert seen == [str(other[0])]
    assert pages > 1


def test_deliveries_are_listed_and_shown_without_secrets(gateway: Gateway, harness: Harness, operators: Acme) -> None:
    with harness.engine.begin() as connection:
        webhook = a_webhook(connection, operators.organizations["acme"])
        older, newer = (a_webhook_delivery(connection, webhook) for _ in range(2))

    listed = read(gateway, "deliveries/?organization=acme&channel=webhook&state=pending")
    shown = read(gateway, f"deliveries/{newer}/")

    assert [delivery["id"] for delivery in listed] == [str(newer), str(older)]
    assert shown == listed[0]
    assert (shown["state"], shown["attempts"], shown["organization"]) == ("pending", [], "acme")
    first = gateway.get(f"{API}/deliveries/?per_page=1", by="dev-viewer")
    assert [row["id"] for row in gateway.get(links(first)["next"][0], by="dev-viewer").json()] == [str(older)]
    assert gateway.get(f"{API}/deliveries/{UUID(int=1)}/", by="dev-viewer").status_code == 404


def test_decisions_are_explained_for_any_person(gateway: Gateway, harness: Harness) -> None:
    gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")
    harness.apply()

    explained = read(gateway, "explain/?organization=acme&incident=1&user=mem")["decisions"]

    assert [(decision["channel"], decision["rule"]) for decision in explained] == [("inbox", "author")]
    by_id = read(gateway, "explain/?organization=acme&incident=1&user=11")
    assert by_id["decisions"] == explained
    for query in ("organization=x&incident=1&user=mem", "organization=acme&incident=99&user=mem"):
        assert gateway.get(f"{API}/explain/?{query}", by="dev-viewer").status_code == 404
    assert gateway.get(f"{API}/explain/?organization=acme&incident=1&user=xx", by="dev-viewer").status_code == 404


def test_series_have_a_number_or_null_for_each_minute(gateway: Gateway) -> None:
    series = read(gateway, "series/?metric=accepted,oldest&minutes=5")

    assert series["stepSeconds"] == 60
    assert series["series"] == {"accepted": [None] * 5, "oldest": [None] * 5}
    assert len(read(gateway, "series/")["series"]["dead"]) == 60


def test_the_gateways_own_process_is_listed(gateway: Gateway) -> None:
    processes = read(gateway, "workers/")

    assert [process["kind"] for process in processes] == ["gateway"]
