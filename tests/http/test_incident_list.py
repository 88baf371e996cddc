"""The incident list, with a test for each rule in Sentry's incident API."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import insert, update
from sqlalchemy.engine import Engine

from models.base import new_id
from models.directory.tables import projects
from models.enums import ActivityType, IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incident_seen, incidents
from models.timestamps import iso
from tests.builders import NOW, a_comment, a_project, an_incident
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway
from tests.http.incident_list_requests import LIST, OpenIncident, refusal, titles
from tests.http.pages import links, pages

pytestmark = pytest.mark.usefixtures("named_first")

CLOSED = IncidentStatus.CLOSED
NO_PERMISSION = {"detail": "You do not have permission to perform this action."}


# --- projects ----------------------------------------------------------------------------------------------------


def test_the_list_defaults_to_the_projects_of_the_callers_teams(gateway: Gateway, opened: OpenIncident) -> None:
    opened("second", "p2")

    assert titles(gateway) == ["first"]
    assert titles(gateway, by="dev-ben") == ["second", "first"]


def test_callers_without_a_team_get_an_empty_list_unless_they_name_projects(gateway: Gateway, acme: Acme) -> None:
    for caller in ("dev-own", "dev-key"):
        assert titles(gateway, by=caller) == []
        assert titles(gateway, "?project=-1", by=caller) == ["first"]
        assert titles(gateway, f"?project={acme.projects['acme', 'p1']}", by=caller) == ["first"]


def test_a_service_sees_all_active_projects_or_those_of_the_person_it_acts_for(
    gateway: Gateway, opened: OpenIncident
) -> None:
    opened("second", "p2")

    assert titles(gateway, by="dev-bot") == ["second", "first"]
    acting = gateway.get(LIST, by="dev-bot", Act_As="user:11").json()
    assert [incident["title"] for incident in acting] == ["first"]


def test_project_minus_one_and_slug_all_select_every_project_the_caller_can_access(
    gateway: Gateway, opened: OpenIncident
) -> None:
    opened("second", "p2")
    opened("nobody's", "old")

    for query in ("?project=-1", "?projectSlug=$all", "?project=-1&project=999999"):
        assert titles(gateway, query) == ["second", "first"]


def test_project_parameters_can_be_repeated(gateway: Gateway, acme: Acme, opened: OpenIncident) -> None:
    opened("second", "p2")
    p1, p2 = acme.projects["acme", "p1"], acme.projects["acme", "p2"]

    assert titles(gateway, f"?project={p2}") == ["second"]
    assert titles(gateway, f"?project={p1}&project={p2}") == ["second", "first"]
    assert titles(gateway, "?projectSlug=p2") == ["second"]
    assert titles(gateway, "?projectSlug=p2&projectSlug=p1") == ["second", "first"]


def test_a_slug_takes_precedence_over_an_id_and_an_empty_slug_is_ignored(
    gateway: Gateway, opened: OpenIncident
) -> None:
    opened("second", "p2")

    assert titles(gateway, "?projectSlug=p2&project=x") == ["second"]
    assert titles(gateway, "?projectSlug=") == ["first"]


def test_unknown_inactive_and_foreign_projects_are_refused(gateway: Gateway, acme: Acme) -> None:
    old, elsewhere = acme.projects["acme", "old"], acme.projects["closed", "c1"]

    queries = ("?project=999999", f"?project={old}", f"?project={elsewhere}", "?project=-2", f"?project={'9' * 25}")
    for query in (*queries, "?projectSlug=nope", "?projectSlug=old", "?projectSlug=p1&projectSlug=c1"):
        assert refusal(gateway, query) == (403, NO_PERMISSION), query


def test_an_inaccessible_project_is_refused_and_a_caller_without_projects_gets_an_empty_list(
    gateway: Gateway, acme: Acme
) -> None:
    closed = "/api/0/organizations/closed/incidents/"

    assert gateway.get(f"{closed}?project={acme.projects['closed', 'c1']}").status_code == 403
    assert gateway.get(f"{closed}?project=-1").json() == []


@pytest.mark.parametrize("value", ["x", "", "1.5", "²"])
def test_a_project_that_is_not_a_number_is_refused(gateway: Gateway, value: str) -> None:
    text = "Invalid project parameter. Values must be numbers."
    assert refusal(gateway, f"?project={value}") == (400, {"detail": text})


def test_an_incident_on_two_projects_is_listed_once(gateway: Gateway, opened: OpenIncident) -> None:
    opened("both", "p1", "p2")

    assert titles(gateway, "?project=-1") == ["both", "first"]


# --- filters -----------------------------------------------------------------------------------------------------


def test_the_status_filter_ignores_unknown_values(gateway: Gateway, opened: OpenIncident) -> None:
    for minutes, status in enumerate(IncidentStatus, start=1):
        opened(status.name, minutes=minutes, status=status)

    assert titles(gateway, "?status=open") == ["CRITICAL", "WARNING", "OPEN", "first"]
    assert titles(gateway, "?status=warning") == ["WARNING"]
    assert titles(gateway, "?status=critical") == ["CRITICAL"]
    assert titles(gateway, "?status=closed") == ["CLOSED"]
    for other in ("", "OPEN", "resolved"):
        assert len(titles(gateway, f"?status={other}")) == 5


def test_the_list_reflects_a_status_change(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.execute(update(incidents).values(status=CLOSED, date_closed=NOW))

    assert titles(gateway, "?status=open") == []
    assert titles(gateway, "?status=closed") == ["first"]


def test_the_start_parameter_excludes_incidents_closed_before_that_date(gateway: Gateway, opened: OpenIncident) -> None:
    opened("long gone", minutes=-100, status=CLOSED, date_closed=NOW - timedelta(minutes=61))
    opened("just in", minutes=-100, status=CLOSED, date_closed=NOW - timedelta(minutes=60))
    opened("old and open", minutes=-200)
    opened("reopened", minutes=-201, status=IncidentStatus.WARNING, date_closed=NOW - timedelta(minutes=90))
    opened("of today", minutes=5, status=CLOSED, date_closed=NOW + timedelta(minutes=9))
    start = iso(NOW - timedelta(minutes=60))

    assert titles(gateway, f"?start={start}") == ["of today", "first", "just in", "old and open", "reopened"]
    assert titles(gateway, f"?start={start}&status=closed") == ["of today", "just in"]
    assert titles(gateway, f"?start={start}&status=open") == ["first", "old and open", "reopened"]
    assert titles(gateway, f"?start={start}&status=warning") == ["reopened"]
    assert titles(gateway, f"?start={start}&title=JUST") == ["just in"]
    assert titles(gateway, f"?start={start}&title=reopened") == ["reopened"]


def test_the_end_parameter_excludes_incidents_started_after_that_date(gateway: Gateway, opened: OpenIncident) -> None:
    opened("later", minutes=1)

    assert titles(gateway, f"?end={iso(NOW)}") == ["first"]
    assert titles(gateway, f"?end={iso(NOW + timedelta(minutes=1))}") == ["later", "first"]
    assert titles(gateway, f"?end={iso(NOW - timedelta(seconds=1))}") == []


@pytest.mark.parametrize(
    "value", ["2026-11-23T10:00:00", "2026-11-23T10:00:00Z", "23 Nov 2026 11:00 +01:00", "20261123T10"]
)
def test_dates_are_parsed_leniently_and_default_to_utc(gateway: Gateway, opened: OpenIncident, value: str) -> None:
    opened("later", minutes=0.5)

    assert titles(gateway, f"?end={value.replace('+', '%2B')}") == ["first"]


@pytest.mark.parametrize("value", ["never", "", "2026-13-45", "9" * 40, "9" * 40 + "h", "\0"])
@pytest.mark.parametrize("name", ["start", "end"])
def test_an_invalid_date_is_refused(gateway: Gateway, name: str, value: str) -> None:
    text = f"Invalid {name} parameter. The value must be a date, such as 2026-11-23T10:00:00Z."
    assert refusal(gateway, f"?{name}={value.replace(chr(0), '%00')}") == (400, {"detail": text})


def test_the_title_filter_is_a_literal_case_insensitive_substring(gateway: Gateway, opened: OpenIncident) -> None:
    opened("100% of Ärger_now", minutes=1)
    opened("100 of trouble", minutes=2)

    for part in ("0%25 o", "ärger", "R_N", "ärgER_now"):
        assert titles(gateway, f"?title={part}") == ["100% of Ärger_now"]
    assert titles(gateway, "?title=100") == ["100 of trouble", "100% of Ärger_now"]
    assert titles(gateway, "?title=%00") == titles(gateway, "?title=\\") == titles(gateway, "?title=xyz") == []
    assert len(titles(gateway, "?title=")) == 3


@pytest.mark.parametrize(
    ("title", "searches"),
    [
        ("Η ΟΔΥΣΣΕΥΣ είναι κάτω", ["οδυσσευς", "οδυσσευσ", "ΟΔΥΣΣΕΥΣ", "ΕΊΝΑΙ"]),
        ("Straße gesperrt", ["STRASSE", "strasse", "straße", "STRAẞE"]),
        ("Caf\u00e9 offline", ["CAFE\u0301", "caf\u00c9", "caf\u00e9 off"]),
        ("Cafe\u0301 offline", ["caf\u00e9", "CAF\u00c9 OFF"]),
        ("İstanbul yavaş", ["istanbul", "İSTANBUL", "YAVAŞ"]),
        ("ﬁle server", ["FILE", "file s"]),
        ("Ошибка ЖЖ", ["ошибка жж"]),
    ],
)
def test_titles_are_searched_regardless_of_case_and_composition(
    gateway: Gateway, opened: OpenIncident, title: str, searches: list[str]
) -> None:
    opened(title, minutes=1)

    assert [titles(gateway, f"?title={quote(each)}") for each in searches] == [[title]] * len(searches)


def test_filters_are_combined_with_and(gateway: Gateway, opened: OpenIncident) -> None:
    opened("disk full", "p2", minutes=1, status=IncidentStatus.CRITICAL)
    opened("disk slow", "p2", minutes=2)
    opened("disk full", "p1", minutes=3, status=IncidentStatus.CRITICAL)

    found = gateway.get(f"{LIST}?projectSlug=p2&title=disk&status=critical&team=unassigned").json()
    assert [(incident["title"], incident["projects"]) for incident in found] == [("disk full", ["p2"])]


def test_a_dedup_key_finds_the_open_incident_or_else_the_latest(
    gateway: Gateway, opened: OpenIncident, ledger: Engine
) -> None:
    opened("older", "p2", minutes=1, dedup_key="k", status=CLOSED, date_closed=NOW)
    opened("latest", "p2", minutes=2, dedup_key="k", status=CLOSED, date_closed=NOW)

    for caller in ("dev-bot", "dev-own", "dev-mem"):
        assert titles(gateway, "?dedupKey=k", by=caller) == ["latest"]
    opened("open", "p2", minutes=0, dedup_key="k")
    assert titles(gateway, "?dedupKey=k") == ["open"]
    assert titles(gateway, "?dedupKey=k&status=closed") == ["latest"]
    assert titles(gateway, "?dedupKey=k&projectSlug=p1") == titles(gateway, "?dedupKey=K") == []
    beyond = gateway.get(links(gateway.get(f"{LIST}?dedupKey=k"))["next"][0])
    assert beyond.json() == []


# --- fields ------------------------------------------------------------------------------------------------------


def test_a_listed_incident_has_the_documented_fields(gateway: Gateway, opened: OpenIncident, acme: Acme) -> None:
    id_ = opened(
        "whole", "p1", "p2", minutes=1, status=CLOSED, date_closed=datetime.fromisoformat("2026-11-23T12:34:56.789Z")
    )

    incident = gateway.get(LIST).json()[0]

    assert incident | {"identifier": ""} == {
        "id": str(id_), "identifier": "", "organizationId": str(acme.organizations["acme"]), "projects": ["p1", "p2"],
        "alertRule": None, "activities": None, "seenBy": None, "hasSeen": None, "status": 2, "statusMethod": 1,
        "type": 0, "title": "whole", "dateStarted": "2026-11-23T10:01:00Z", "dateDetected": "2026-11-23T10:00:00Z",
        "dateCreated": "2026-11-23T10:00:00Z", "dateClosed": "2026-11-23T12:34:00Z", "version": 1,
    }  # fmt: skip


def test_activities_are_included_on_request(gateway: Gateway, opened: OpenIncident, ledger: Engine) -> None:
    opened("silent", minutes=1)
    with ledger.begin() as connection:
        first = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE title = 'first' AND organization_id ="
            " (SELECT id FROM organizations WHERE slug = 'acme')"
        ).scalar_one()
        a_comment(connection, first, by=12, text="hello")

    silent, first_one = gateway.get(f"{LIST}?expand=activities&expand=nonsense").json()

    assert silent["activities"] == []
    assert [(each["comment"], each["user"]["username"]) for each in first_one["activities"]] == [("hello", "ana")]
    assert first_one["seenBy"] is None


def test_a_page_holds_at_most_a_thousand_activities(gateway: Gateway, opened: OpenIncident, ledger: Engine) -> None:
    busy = [opened(f"busy {number}", minutes=number) for number in range(3)]
    with ledger.begin() as connection:
        rows = [
            {"incident_id": id_, "type": ActivityType.COMMENT, "date_added": NOW, "notification_uuid": new_id()}
            for id_ in busy for _ in range(400)
        ]  # fmt: skip
        connection.execute(insert(activities), rows)

    found = gateway.get(f"{LIST}?expand=activities").json()

    assert sum(len(incident["activities"]) for incident in found) == 1000


def test_seen_by_is_included_on_request_with_the_time_of_each_view(
    gateway: Gateway, opened: OpenIncident, ledger: Engine
) -> None:
    one, other = opened("one", minutes=2), opened("other", minutes=1)
    with ledger.begin() as connection:
        for id_, user, minutes in ((one, 11, 1), (one, 12, 2), (other, 12, 3)):
            connection.execute(
                insert(incident_seen).values(incident_id=id_, user_id=user, last_seen=NOW + timedelta(minutes=minutes))
            )

    found = gateway.get(f"{LIST}?expand=seen_by").json()

    assert [[(each["username"], each["lastSeen"]) for each in incident["seenBy"]] for incident in found] == [
        [("ana", "2026-11-23T10:02:00Z"), ("mem", "2026-11-23T10:01:00Z")], [("ana", "2026-11-23T10:03:00Z")], [],
    ]  # fmt: skip
    assert [incident["hasSeen"] for incident in found] == [True, False, False]


def test_expanding_rules_does_not_change_incidents_without_a_rule(gateway: Gateway) -> None:
    plain = gateway.get(LIST).json()

    assert gateway.get(f"{LIST}?expand=original_alert_rule&expand=latestIncident").json() == plain


# --- pages -------------------------------------------------------------------------------------------------------


def test_a_page_holds_25_incidents_by_default(gateway: Gateway, opened: OpenIncident) -> None:
    for number in range(26):
        opened(f"n{number}", minutes=number)

    assert len(titles(gateway)) == 25
    assert len(titles(gateway, "?per_page=26")) == 26


@pytest.mark.parametrize(
    "query", ["", "&status=open", "&title=same", "&title=sa", "&start=2026-11-22", "&end=2027-01-01"]
)
def test_incidents_with_equal_dates_appear_once_when_paging_in_either_direction(
    gateway: Gateway, opened: OpenIncident, query: str
) -> None:
    expected = [str(opened("same", "p1", "p2")) for _ in range(7)][::-1]
    path = f"{LIST}?project=-1&per_page=3{query or '&title=same'}"

    there = [[incident["id"] for incident in page] for page in pages(gateway, path)]
    last = gateway.get(path)
    while links(last)["next"][1]:
        last = gateway.get(links(last)["next"][0])
    back = []
    while links(last)["previous"][1]:
        last = gateway.get(links(last)["previous"][0])
        back.append([incident["id"] for incident in last.json()])

    assert [id_ for page in there for id_ in page][:7] == expected
    assert back == there[-2::-1]


def test_an_incident_opened_between_requests_does_not_shift_the_next_page(
    gateway: Gateway, opened: OpenIncident
) -> None:
    for number in range(4):
        opened(f"n{number}", minutes=number)
    first = gateway.get(f"{LIST}?per_page=2")

    opened("new", minutes=10)

    second = gateway.get(links(first)["next"][0]).json()
    assert [incident["title"] for incident in second] == ["n1", "n0"]


def test_a_list_for_many_projects_is_filtered_and_ordered_like_a_list_for_few(
    gateway: Gateway, opened: OpenIncident, acme: Acme, ledger: Engine
) -> None:
    with ledger.begin() as connection:
        many = [a_project(connection, acme.organizations["acme"]) for _ in range(40)]
        for number, project in enumerate(many):
            closed: dict[str, Any] = {"status": CLOSED, "date_closed": NOW + timedelta(hours=1)} if number % 2 else {}
            an_incident(
                connection, acme.organizations["acme"], projects=[project], title=f"disk {number:02}",
                date_started=NOW + timedelta(minutes=number),
                **closed,
            )  # fmt: skip

    def numbers(query: str) -> Iterable[str]:
        found = [
            incident["title"] for page in pages(gateway, f"{LIST}?project=-1&per_page=7{query}") for incident in page
        ]
        return [title.removeprefix("disk ") for title in found]

    falling = [f"{number:02}" for number in reversed(range(40))]
    assert numbers("") == [*falling, "first"]
    assert numbers("&title=disk") == falling
    assert numbers("&title=k 1") == falling[20:30]
    assert numbers("&title=disk 1") == falling[20:30]
    assert numbers("&status=closed") == falling[::2]
    assert numbers(f"&start={iso(NOW + timedelta(minutes=90))}") == [*falling[1::2], "first"]
    assert numbers(f"&status=closed&title=disk&end={iso(NOW + timedelta(minutes=9))}") == ["09", "07", "05", "03", "01"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("per_page=101", "Invalid per_page value. Cannot exceed 100."),
        ("per_page=x", "Invalid per_page parameter."),
        ("cursor=25:1:0", "Invalid cursor parameter."),
        ("cursor=WzAsMCxbMSwyXV0", "Invalid cursor parameter."),
    ],
)
def test_invalid_pagination_parameters_are_refused(gateway: Gateway, query: str, text: str) -> None:
    assert refusal(gateway, f"?{query}") == (400, {"detail": text})


# --- permissions -------------------------------------------------------------------------------------------------


def test_the_incidents_feature_is_checked_before_the_projects(gateway: Gateway, acme: Acme) -> None:
    assert gateway.get("/api/0/organizations/plain/incidents/?project=x").status_code == 404
    assert gateway.get(f"{LIST}?project=x", by="dev-out").status_code == 403


def test_incidents_of_deactivated_projects_are_not_listed(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.execute(update(projects).where(projects.c.slug == "p1").values(status="inactive"))

    assert titles(gateway) == titles(gateway, "?project=-1") == []
