"""The policy for the incident list: the projects it shows by default, and the teams by which it may be filtered."""

from __future__ import annotations

import pytest

from models.enums import CallerKind, Role
from models.policy import Actor, OrganizationFacts, ProjectFacts, TeamFacts, is_listed_by_default, require_team_access
from models.refusals import Forbidden

TEAM = 20
PROJECT = ProjectFacts(id=10, active=True, teams=frozenset({TEAM}))
INACTIVE = ProjectFacts(id=11, active=False, teams=frozenset({TEAM}))

MEMBER = Actor(CallerKind.USER, user_id=1, role=Role.MEMBER)
ON_TEAM = Actor(CallerKind.USER, user_id=1, role=Role.MEMBER, teams=frozenset({TEAM}))
OWNER = Actor(CallerKind.USER, user_id=1, role=Role.OWNER)
KEY = Actor(CallerKind.KEY, organization_id=1)
SERVICE = Actor(CallerKind.SERVICE, organization_id=1)
FOREIGN_SERVICE = Actor(CallerKind.SERVICE, organization_id=2)
ACTING_SERVICE = Actor(CallerKind.SERVICE, user_id=1, organization_id=1, role=Role.MEMBER)
ACTING_SERVICE_ON_TEAM = Actor(
    CallerKind.SERVICE, user_id=1, organization_id=1, role=Role.MEMBER, teams=frozenset({TEAM})
)


def organization(*, is_open: bool) -> OrganizationFacts:
    return OrganizationFacts(id=1, slug="acme", features=frozenset(), open_membership=is_open)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("actor", "is_listed"),
    [
        (MEMBER, False), (ON_TEAM, True), (OWNER, False), (KEY, False), (SERVICE, True), (FOREIGN_SERVICE, False),
        (ACTING_SERVICE, False), (ACTING_SERVICE_ON_TEAM, True),
    ],
)  # fmt: skip
def test_without_a_project_filter_people_see_their_teams_projects_and_services_see_all(
    actor: Actor, is_listed: bool, is_open: bool
) -> None:
    assert is_listed_by_default(actor, organization(is_open=is_open), PROJECT) is is_listed
    assert is_listed_by_default(actor, organization(is_open=is_open), INACTIVE) is False


@pytest.mark.parametrize(
    ("actor", "is_open", "may"),
    [
        (MEMBER, True, True), (MEMBER, False, False), (ON_TEAM, False, True), (OWNER, False, True), (KEY, False, True),
        (SERVICE, False, True), (FOREIGN_SERVICE, True, False), (ACTING_SERVICE, False, False),
    ],
)  # fmt: skip
def test_a_team_filter_requires_access_to_the_team(actor: Actor, is_open: bool, may: bool) -> None:
    def is_allowed(*, home: int = 1, active: bool = True) -> bool:
        try:
            require_team_access(actor, organization(is_open=is_open), TeamFacts(TEAM, home, "T", active))
        except Forbidden:
            return False
        return True

    assert is_allowed() is may
    assert not is_allowed(home=2)
    assert not is_allowed(active=False)
