"""An organization over HTTP, with its members, teams and projects."""

from __future__ import annotations

from tests.http.gateway_server import ACME, Gateway


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


def test_the_member_list_contains_only_active_people(gateway: Gateway) -> None:
    people = {member["user"]["username"] for member in gateway.get(f"{ACME}/members/").json()}

    assert people == {"mem", "ana", "ben", "own"}


def test_the_project_list_contains_only_projects_the_caller_can_access(gateway: Gateway) -> None:
    assert [each["slug"] for each in gateway.get(f"{ACME}/projects/").json()] == ["p1", "p2"]
    assert gateway.get("/api/0/organizations/closed/projects/").json() == []
    assert [each["slug"] for each in gateway.get(f"{ACME}/projects/?per_page=1", by="dev-bot").json()] == ["p1"]


def test_organization_lists_do_not_require_the_incidents_feature(gateway: Gateway) -> None:
    for name in ("", "members/", "teams/", "projects/", "notifications/", "notifications/count/"):
        assert gateway.get(f"/api/0/organizations/plain/{name}").status_code == 200
