"""What may be read, how it is paged, and what callers need not read again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from tests.builders import a_comment
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker

LINK = re.compile(r'<([^>]+)>; rel="(\w+)"; results="(\w+)"; cursor="([^"]+)"')


def links(answer: Any) -> dict[str, tuple[str, bool]]:
    """Where the neighbours are, and whether they hold anything."""
    return {rel: (url, results == "true") for url, rel, results, _ in LINK.findall(answer.headers["link"])}


def pages(gateway: Gateway, path: str) -> Iterator[list[Any]]:
    """Every page, from the first on."""
    has_more = True
    while has_more:
        answer = gateway.get(path)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        path, has_more = links(answer)["next"]


@pytest.fixture
def comments(acme: Acme, ledger: Engine) -> list[str]:
    """Seven comments on incident 1, all of the same moment, the oldest first."""
    with ledger.begin() as connection:
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE identifier = 1 AND organization_id = %(acme)s",
            {"acme": acme.organizations["acme"]},
        ).scalar_one()
        for number in range(7):
            a_comment(connection, incident, by=11, text=str(number))
    return [str(number) for number in range(7)]


def test_pages_hold_every_row_once(gateway: Gateway, comments: list[str]) -> None:
    found = list(pages(gateway, f"{ACME}/incidents/1/activity/?per_page=3"))

    assert [[activity["comment"] for activity in page] for page in found] == [["6", "5", "4"], ["3", "2", "1"], ["0"]]


def test_desc_zero_lists_the_oldest_first(gateway: Gateway, comments: list[str]) -> None:
    found = list(pages(gateway, f"{ACME}/incidents/1/activity/?desc=0&per_page=4"))

    assert [activity["comment"] for page in found for activity in page] == comments


def test_the_previous_link_leads_back_to_the_same_page(gateway: Gateway, comments: list[str]) -> None:
    first = gateway.get(f"{ACME}/incidents/1/activity/?per_page=3")
    second = gateway.get(links(first)["next"][0])
    back = gateway.get(links(second)["previous"][0])

    assert (links(first)["previous"][1], links(second)["previous"][1]) == (False, True)
    assert back.json() == first.json()
    assert (links(back)["previous"][1], links(back)["next"][1]) == (False, True)


def test_past_the_end_is_an_empty_page_with_a_previous_link(gateway: Gateway, comments: list[str]) -> None:
    whole = gateway.get(f"{ACME}/incidents/1/activity/")
    beyond = gateway.get(links(whole)["next"][0])
    back = gateway.get(links(beyond)["previous"][0])

    assert (links(whole)["next"][1], beyond.status_code, beyond.json()) == (False, 200, [])
    assert (links(beyond)["previous"][1], links(beyond)["next"][1]) == (True, False)
    assert back.json() == whole.json()


def test_the_page_before_the_first_holds_newer_rows(gateway: Gateway, comments: list[str], worker: Worker) -> None:
    first = gateway.get(f"{ACME}/incidents/1/activity/")
    gateway.post(COMMENTS, {"comment": "new"}, Prefer="respond-async")
    worker.apply()

    before = gateway.get(links(first)["previous"][0])

    assert [activity["comment"] for activity in before.json()] == ["new"]


def test_links_keep_other_query_parameters(gateway: Gateway, comments: list[str]) -> None:
    with_parameters = links(gateway.get(f"{ACME}/incidents/1/activity/?per_page=2&x=%C3%A4&cursor="))
    without = links(gateway.get(f"{ACME}/incidents/1/activity/"))

    assert f"{gateway.url}{ACME}/incidents/1/activity/?per_page=2&x=%C3%A4&cursor=" in with_parameters["next"][0]
    assert f"{gateway.url}{ACME}/incidents/1/activity/?&cursor=" in without["next"][0]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("per_page=101", "Invalid per_page value. Cannot exceed 100."),
        ("per_page=ten", "Invalid per_page parameter."),
        ("per_page=", "Invalid per_page parameter."),
        ("per_page=0", "Invalid per_page value. Must be at least 1."),
        ("per_page=-3", "Invalid per_page value. Must be at least 1."),
        ("cursor=abc", "Invalid cursor parameter."),
        ("cursor=0:1:0", "Invalid cursor parameter."),
        ("cursor=%C3%A4", "Invalid cursor parameter."),
        ("cursor=WzAsMCxbMSwyXV0", "Invalid cursor parameter."),
    ],
)
def test_invalid_pagination_parameters_are_refused(gateway: Gateway, query: str, text: str) -> None:
    answer = gateway.get(f"{ACME}/incidents/1/activity/?{query}")

    assert (answer.status_code, answer.json()) == (400, {"detail": text})


def test_a_cursor_of_another_list_is_refused(gateway: Gateway, comments: list[str]) -> None:
    cursor = links(gateway.get(f"{ACME}/members/?per_page=1"))["next"][0].rpartition("=")[2]

    for path in (f"{ACME}/teams/", f"{ACME}/incidents/1/activity/"):
        assert gateway.get(f"{path}?cursor={cursor}").status_code == 400


# --- ETags -----------------------------------------------------------------------------------------------------


def test_an_unchanged_resource_is_not_sent_again(gateway: Gateway) -> None:
    tag = gateway.get(f"{ACME}/incidents/1/").headers["etag"]

    for said in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = gateway.get(f"{ACME}/incidents/1/", If_None_Match=said)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert gateway.get(f"{ACME}/incidents/1/", If_None_Match='"other"').status_code == 200


def test_an_etag_starts_with_the_version_and_changes_with_it(gateway: Gateway, busy_worker: Worker) -> None:
    before = gateway.get(f"{ACME}/incidents/1/")

    gateway.post(COMMENTS, {"comment": "new"})
    after = gateway.get(f"{ACME}/incidents/1/")

    assert after.json()["version"] == before.json()["version"] + 1
    assert after.headers["etag"].startswith(f'"{after.json()["version"]}-')
    assert gateway.get(f"{ACME}/").headers["etag"].startswith('"0-')


def test_the_same_incident_differs_between_readers(gateway: Gateway, busy_worker: Worker) -> None:
    gateway.post(COMMENTS, {"comment": "now I am subscribed"})

    assert gateway.get(f"{ACME}/incidents/1/").json()["isSubscribed"] is True
    assert gateway.get(f"{ACME}/incidents/1/", by="dev-ana").json()["isSubscribed"] is False


def test_head_is_get_without_a_body(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.head(f"{ACME}/incidents/1/")

    assert (answer.status_code, answer.content) == (200, b"")
    assert "etag" in answer.headers


# --- the organization ------------------------------------------------------------------------------------------


def test_an_organization_lists_its_features_and_options(gateway: Gateway) -> None:
    body = gateway.get(f"{ACME}/").json()

    assert body["features"] == ["organizations:incidents"]
    assert body["options"] == {"open_membership": True, "alerts_member_write": True, "events_member_admin": True}


def test_member_and_team_lists_are_filtered_by_case_insensitive_name(gateway: Gateway) -> None:
    people = gateway.get(f"{ACME}/members/?query=AN").json()

    assert [(member["user"]["username"], member["role"], member["teams"]) for member in people] == [
        ("ana", "member", ["t1"])
    ]
    assert [team["slug"] for team in gateway.get(f"{ACME}/teams/?query=2").json()] == ["t2"]
    assert gateway.get(f"{ACME}/teams/?query=%25").json() == []
    assert gateway.get(f"{ACME}/teams/?query=%00").json() == []


def test_the_member_list_holds_active_people_only(gateway: Gateway) -> None:
    people = {member["user"]["username"] for member in gateway.get(f"{ACME}/members/").json()}

    assert people == {"mem", "ana", "ben", "own"}


def test_the_project_list_holds_the_projects_the_caller_can_access(gateway: Gateway) -> None:
    assert [each["slug"] for each in gateway.get(f"{ACME}/projects/").json()] == ["p1", "p2"]
    assert gateway.get("/api/0/organizations/closed/projects/").json() == []
    assert [each["slug"] for each in gateway.get(f"{ACME}/projects/?per_page=1", by="dev-bot").json()] == ["p1"]


def test_organization_lists_need_no_feature(gateway: Gateway) -> None:
    for name in ("", "members/", "teams/", "projects/", "notifications/", "notifications/count/"):
        assert gateway.get(f"/api/0/organizations/plain/{name}").status_code == 200


def test_pages_of_slugs_hold_every_row_once(gateway: Gateway) -> None:
    found = [each["slug"] for page in pages(gateway, f"{ACME}/projects/?per_page=1") for each in page]

    assert found == ["p1", "p2"]


# --- subscribers and the inbox ---------------------------------------------------------------------------------


def test_subscribers_are_listed_with_their_reason(gateway: Gateway, busy_worker: Worker) -> None:
    gateway.post(COMMENTS, {"comment": "x", "mentions": ["ana"]})

    found = gateway.get(f"{ACME}/incidents/1/subscribers/").json()

    assert [(each["user"]["username"], each["reason"]) for each in found] == [("mem", "commented"), ("ana", "mention")]


def test_people_who_lost_access_are_not_listed_as_subscribers(
    gateway: Gateway, busy_worker: Worker, ledger: Engine
) -> None:
    gateway.post(COMMENTS, {"comment": "x", "mentions": ["ana"]})

    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM members WHERE user_id = 12")

    found = gateway.get(f"{ACME}/incidents/1/subscribers/").json()
    assert [each["user"]["username"] for each in found] == ["mem"]


def a_notification(ledger: Engine, *, comment: str, by: str = "acme") -> int:
    """An item in Ana's inbox; the id is the activity's."""
    with ledger.begin() as connection:
        row = connection.exec_driver_sql(
            "SELECT i.id, i.organization_id FROM incidents i JOIN organizations o ON o.id = i.organization_id"
            " WHERE o.slug = %(by)s AND i.identifier = 1",
            {"by": by},
        ).one()
        activity = a_comment(connection, row.id, by=11, text=comment)
        connection.exec_driver_sql(
            "INSERT INTO notifications"
            " (organization_id, user_id, incident_id, activity_id, event_id, event_type, reason)"
            " VALUES (%(organization)s, 12, %(incident)s, %(activity)s, gen_random_uuid(),"
            " 'incident.comment_posted', 'mention')",
            {"organization": row.organization_id, "incident": row.id, "activity": activity},
        )
        return activity


def test_the_inbox_is_ordered_newest_first_and_counts_unread_items(
    gateway: Gateway, ledger: Engine, busy_worker: Worker
) -> None:
    a_notification(ledger, comment="old")
    newer = a_notification(ledger, comment="new")

    inbox = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    read = gateway.post(f"{ACME}/notifications/read/", {"ids": [inbox[1]["id"]]}, by="dev-ana")

    assert [item["text"] for item in inbox] == ["new", "old"]
    assert inbox[0] | {"id": "", "event": None, "dateCreated": ""} == {
        "id": "", "reason": "mention", "event": None,
        "incident": {"identifier": "1", "title": inbox[0]["incident"]["title"]},
        "activity": {"id": str(newer)}, "text": "new", "dateCreated": "", "dateRead": None, "retracted": False,
    }  # fmt: skip
    assert (read.status_code, read.json()) == (200, {"read": 1})
    assert gateway.get(f"{ACME}/notifications/count/", by="dev-ana").json() == {"unread": 1}
    unread = gateway.get(f"{ACME}/notifications/?unread=1", by="dev-ana").json()
    assert [item["text"] for item in unread] == ["new"]
    assert gateway.get(f"{ACME}/notifications/").json() == []


def test_the_text_follows_an_edit_and_a_retracted_item_has_none(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    activity = a_notification(ledger, comment="old")

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE incident_activities SET comment = 'edited'")
    edited = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()
    with ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM incident_activities WHERE id = %(id)s", {"id": activity})
        connection.exec_driver_sql("UPDATE notifications SET retracted = true")
    retracted = gateway.get(f"{ACME}/notifications/", by="dev-ana").json()

    assert [(item["text"], item["retracted"]) for item in edited + retracted] == [("edited", False), ("", True)]


def test_the_inbox_hides_items_the_caller_can_no_longer_read(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    a_notification(ledger, comment="secret")

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    assert gateway.get(f"{ACME}/notifications/", by="dev-ana").json() == []
    assert gateway.get(f"{ACME}/notifications/count/", by="dev-ana").json() == {"unread": 0}


@pytest.mark.parametrize("body", [{}, {"ids": [1], "upTo": 2}, {"ids": None, "upTo": None}])
def test_marking_as_read_requires_either_ids_or_up_to(gateway: Gateway, body: Any) -> None:
    answer = gateway.post(f"{ACME}/notifications/read/", body)

    assert answer.status_code == 400
