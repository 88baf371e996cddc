"""Pagination: cursors, links in both directions, and invalid parameters."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Engine

from tests.builders import a_comment
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker
from tests.http.pages import links, pages


@pytest.fixture
def comments(acme: Acme, ledger: Engine) -> list[str]:
    """The texts of seven comments on incident 1 with the same timestamp, oldest first."""
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


def test_desc_0_lists_the_oldest_rows_first(gateway: Gateway, comments: list[str]) -> None:
    found = list(pages(gateway, f"{ACME}/incidents/1/activity/?desc=0&per_page=4"))

    assert [activity["comment"] for page in found for activity in page] == comments


def test_the_previous_link_leads_back_to_the_same_page(gateway: Gateway, comments: list[str]) -> None:
    first = gateway.get(f"{ACME}/incidents/1/activity/?per_page=3")
    second = gateway.get(links(first)["next"][0])
    back = gateway.get(links(second)["previous"][0])

    assert (links(first)["previous"][1], links(second)["previous"][1]) == (False, True)
    assert back.json() == first.json()
    assert (links(back)["previous"][1], links(back)["next"][1]) == (False, True)


def test_a_page_past_the_end_is_empty_and_has_a_previous_link(gateway: Gateway, comments: list[str]) -> None:
    whole = gateway.get(f"{ACME}/incidents/1/activity/")
    beyond = gateway.get(links(whole)["next"][0])
    back = gateway.get(links(beyond)["previous"][0])

    assert (links(whole)["next"][1], beyond.status_code, beyond.json()) == (False, 200, [])
    assert (links(beyond)["previous"][1], links(beyond)["next"][1]) == (True, False)
    assert back.json() == whole.json()


def test_the_page_before_the_first_contains_the_rows_added_since(
    gateway: Gateway, comments: list[str], worker: Worker
) -> None:
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
    response = gateway.get(f"{ACME}/incidents/1/activity/?{query}")

    assert (response.status_code, response.json()) == (400, {"detail": text})


def test_a_cursor_from_another_list_is_refused(gateway: Gateway, comments: list[str]) -> None:
    cursor = links(gateway.get(f"{ACME}/members/?per_page=1"))["next"][0].rpartition("=")[2]

    for path in (f"{ACME}/teams/", f"{ACME}/incidents/1/activity/"):
        assert gateway.get(f"{path}?cursor={cursor}").status_code == 400


# --- the organization --------------------------------------------------------------------------------------------


def test_pages_of_slugs_hold_every_row_once(gateway: Gateway) -> None:
    found = [each["slug"] for page in pages(gateway, f"{ACME}/projects/?per_page=1") for each in page]

    assert found == ["p1", "p2"]
