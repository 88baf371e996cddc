"""The comment preview: it shows whom a comment would notify and why, exactly as the notifier decides."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update
from sqlalchemy.engine import Engine

from models.directory.tables import organizations, projects
from models.incidents.incident import incidents
from models.notifications.preferences import STORM_BUDGET
from tests.builders import a_chat_destination, a_subscription
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker
from tests.http.pages import pages

PREVIEW = f"{COMMENTS}preview/"
WINDOW = timedelta(seconds=10)


def preview(gateway: Gateway, *mentions: str, by: str = "dev-mem") -> dict[str, str]:
    query = "&".join(f"mentions={quote(mention)}" for mention in mentions)
    response = gateway.get(f"{PREVIEW}?{query}", by=by)
    assert response.status_code == 200, response.text
    return {each["user"]["username"]: each["reason"] for each in response.json()}


def subscribe(acme: Acme, ledger: Engine, *users: int) -> None:
    with ledger.begin() as connection:
        incident = connection.execute(
            incidents.select().where(incidents.c.organization_id == acme.organizations["acme"])
        ).one()
        for user in users:
            a_subscription(connection, incident.id, user)


def test_the_strongest_reason_is_reported(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    subscribe(acme, ledger, 12, 15)

    assert preview(gateway) == {"ana": "subscribed", "own": "subscribed"}
    assert preview(gateway, "team:21") == {"ana": "team_mention", "ben": "team_mention", "own": "subscribed"}
    assert preview(gateway, "team:21", "ANA@x.test") == {"ana": "mention", "ben": "team_mention", "own": "subscribed"}


def test_the_author_is_not_notified(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    subscribe(acme, ledger, 11, 12)

    assert preview(gateway, "mem") == {"ana": "subscribed"}
    assert preview(gateway, "mem", by="dev-bot") == {"mem": "mention", "ana": "subscribed"}


def test_people_who_cannot_read_the_incident_are_not_notified(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    subscribe(acme, ledger, 12, 14, 15)

    assert preview(gateway) == {"ana": "subscribed", "own": "subscribed"}


@pytest.mark.parametrize("mentions", [["nobody"], [""], ["user:99"], ["ana", "out"], ["own"], ["team:22"], ["team:23"]])
def test_a_preview_refuses_the_same_invalid_mentions_as_a_post(
    gateway: Gateway, busy_worker: Worker, mentions: Iterable[str]
) -> None:
    query = "&".join(f"mentions={mention}" for mention in mentions)

    preview = gateway.get(f"{PREVIEW}?{query}")
    posted = gateway.post(COMMENTS, {"comment": "x", "mentions": list(mentions)})

    assert (preview.status_code, preview.json()) == (posted.status_code, posted.json())
    assert preview.status_code == 400


def test_a_preview_posts_nothing_and_subscribes_nobody(gateway: Gateway) -> None:
    before = gateway.get(f"{ACME}/incidents/1/activity/").json()

    preview(gateway, "ana")

    assert gateway.get(f"{ACME}/incidents/1/activity/").json() == before
    assert gateway.get(f"{ACME}/incidents/1/subscribers/").json() == []


def test_only_readers_of_the_incident_may_preview(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    assert gateway.get(f"{ACME}/incidents/9/comments/preview/?mentions=nobody").status_code == 404
    assert gateway.get(f"{PREVIEW}?mentions=nobody", by="dev-out").status_code == 403
    with ledger.begin() as connection:
        connection.execute(update(projects).values(status="inactive"))
        connection.execute(update(organizations).values(open_membership=False))
    assert gateway.get(f"{PREVIEW}?mentions=nobody").status_code == 403


def test_the_preview_is_paginated(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    subscribe(acme, ledger, 12, 13, 15)

    found = [[each["user"]["username"] for each in page] for page in pages(gateway, f"{PREVIEW}?per_page=2")]

    assert found == [["ana", "ben"], ["own"]]


def channels(gateway: Gateway, username: str, *mentions: str) -> list[dict[str, str | None]]:
    query = "&".join(f"mentions={mention}" for mention in mentions)
    rows = gateway.get(f"{PREVIEW}?{query}").json()
    return next(each["channels"] for each in rows if each["user"]["username"] == username)


def test_the_preview_says_when_each_person_gets_a_message(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine
) -> None:
    before = datetime.now(UTC)

    [planned] = channels(gateway, "ana", "ana")

    at = datetime.fromisoformat(str(planned.pop("at")))
    assert planned == {"channel": "email", "outcome": "pending", "rule": "instant"}
    assert before + WINDOW <= at <= datetime.now(UTC) + WINDOW


@pytest.mark.parametrize(
    ("document", "outcome", "rule"),
    [
        ({"channels": {"mention": {"email": "off"}}}, "suppressed", "off"),
        ({"channels": {"mention": {"email": "digest"}}}, "deferred", "digest"),
        ({"channels": {"subscribed": {"email": "off"}}}, "pending", "instant"),
    ],
)
def test_the_preview_follows_the_preferences(
    gateway: Gateway, busy_worker: Worker, document: dict[str, Any], outcome: str, rule: str
) -> None:
    gateway.put("/api/0/users/me/preferences/", document, by="dev-ana")

    [planned] = channels(gateway, "ana", "ana")

    assert (planned["outcome"], planned["rule"]) == (outcome, rule)
    assert (planned["at"] is None) == (outcome == "suppressed")


def test_the_preview_shows_who_has_muted_the_incident(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine
) -> None:
    subscribe(acme, ledger, 12)
    gateway.post(f"{ACME}/incidents/1/mute/", {}, by="dev-ana")

    assert preview(gateway) == {}
    assert preview(gateway, "ana") == {"ana": "mention"}
    assert channels(gateway, "ana", "ana") == [
        {"channel": "email", "outcome": "suppressed", "rule": "muted", "at": None}
    ]


@pytest.mark.parametrize(("slug", "expected"), [("acme", ["email", "chat"]), ("closed", ["email"])])
def test_the_preview_knows_the_organization_of_a_chat_destination(
    gateway: Gateway, acme: Acme, ledger: Engine, slug: str, expected: list[str]
) -> None:
    with ledger.begin() as connection:
        a_chat_destination(connection, acme.organizations[slug], user_id=12)

    assert [each["channel"] for each in channels(gateway, "ana", "ana")] == expected


def test_the_preview_counts_the_messages_of_the_last_hour(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO deliveries (id, organization_id, activity_id, channel, user_id, due_at, state)"
            " SELECT gen_random_uuid(), %(organization)s, n, 'email', 12, now(), 'delivered'"
            " FROM generate_series(1, %(budget)s) AS n",
            {"organization": acme.organizations["acme"], "budget": STORM_BUDGET},
        )

    [planned] = channels(gateway, "ana", "ana")

    assert (planned["outcome"], planned["rule"]) == ("deferred", "storm")
