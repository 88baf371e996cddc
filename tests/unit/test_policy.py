"""Authorization, tested with generated tables: roles, scopes, endpoints, features, projects, and limits of tokens.

The tables are written from Sentry's incident API, not from the code, and the expected results are derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from models import permissions, policy
from models.enums import CallerKind, Feature, IncidentStatus, Role
from models.permissions import Permission
from models.policy import SYSTEM, Actor, OrganizationFacts, ProjectFacts
from models.refusals import Refusal
from models.role_scopes import ALL_SCOPES

ROLES = """
scope             member  admin  manager  owner
org:read          yes     yes    yes      yes
org:write         -       -      yes      yes
org:admin         -       -      -        yes
org:integrations  -       yes    yes      yes
member:read       yes     yes    yes      yes
member:write      -       -      yes      yes
member:admin      -       -      yes      yes
team:read         yes     yes    yes      yes
team:write        -       yes    yes      yes
team:admin        -       yes    yes      yes
project:read      yes     yes    yes      yes
project:releases  yes     yes    yes      yes
project:write     -       yes    yes      yes
project:admin     -       yes    yes      yes
event:read        yes     yes    yes      yes
event:write       yes     yes    yes      yes
event:admin       option  yes    yes      yes
alerts:read       yes     yes    yes      yes
alerts:write      option  yes    yes      yes
"""

ORGANIZATION = "org:read org:write org:admin"
INCIDENT = "org:write org:admin project:read project:write project:admin"
OPEN_SCOPES = "org:write org:admin project:write project:admin"
RULE = "org:write org:admin alerts:write"
PROJECT_RULE = "project:write project:admin alerts:write"
CHANGED_RULE = dict.fromkeys(("POST", "PUT", "DELETE"), RULE)
CHANGED_PROJECT_RULE = dict.fromkeys(("POST", "PUT", "DELETE"), PROJECT_RULE)
MEMBERS_OWN = (
    "org:read member:read team:read project:read project:releases event:read event:write event:admin"
    " alerts:read alerts:write"
)
ANY_MEMBER = f"{MEMBERS_OWN} org:write org:admin project:write project:admin"

ENDPOINTS: dict[str, tuple[Permission, dict[str, str], str]] = {
    # name: (permission, sufficient scopes by method, required feature)
    "an incident": (
        permissions.INCIDENT,
        {"GET": f"org:read {INCIDENT}", "POST": INCIDENT, "PUT": INCIDENT, "DELETE": INCIDENT},
        "organizations:incidents",
    ),
    "the incidents": (
        permissions.INCIDENTS,
        {"GET": f"org:read {INCIDENT}", "POST": OPEN_SCOPES},
        "organizations:incidents",
    ),
    "the alert rules": (
        permissions.ALERT_RULES,
        {"GET": f"org:read alerts:read {RULE}"} | CHANGED_RULE,
        "organizations:incidents",
    ),
    "an alert rule": (
        permissions.ALERT_RULE,
        {"GET": f"org:read alerts:read {RULE}"} | CHANGED_RULE,
        "organizations:incidents",
    ),
    "a project's alert rules": (
        permissions.PROJECT_ALERT_RULES,
        {"GET": f"project:read alerts:read {PROJECT_RULE}"} | CHANGED_PROJECT_RULE,
        "organizations:incidents",
    ),
    "a project's alert rule": (
        permissions.PROJECT_ALERT_RULE,
        {"GET": f"project:read alerts:read {PROJECT_RULE}"} | CHANGED_PROJECT_RULE,
        "organizations:incidents",
    ),
    "available actions": (
        permissions.AVAILABLE_ACTIONS,
        {
            "GET": ORGANIZATION,
            "POST": "org:write org:admin",
            "PUT": "org:write org:admin",
            "DELETE": "org:admin",
        },
        "organizations:incidents",
    ),
    "the organization": (permissions.ORGANIZATION, {"GET": ORGANIZATION}, ""),
    "members": (permissions.MEMBERS, {"GET": f"{ORGANIZATION} member:read member:write member:admin"}, ""),
    "teams": (permissions.TEAMS, {"GET": f"{ORGANIZATION} team:read team:write team:admin"}, ""),
    "projects": (permissions.PROJECTS, {"GET": f"{ORGANIZATION} project:read project:write project:admin"}, ""),
    "the inbox": (permissions.INBOX, {"GET": ANY_MEMBER, "POST": ANY_MEMBER}, ""),
    "commands": (permissions.COMMANDS, dict.fromkeys(("GET", "POST"), ANY_MEMBER), ""),
}
WITHOUT_FEATURE = {("an alert rule", "DELETE"), ("a project's alert rule", "DELETE")}
"""Endpoints and methods that remain available to an organization without the feature."""

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")

PROJECT_ACCESS = """
who                         project   membership  team    reaches
member                      active    open        -       yes
member                      active    open        on      yes
member                      active    closed      -       -
member                      active    closed      on      yes
admin                       active    open        -       yes
admin                       active    closed      -       -
admin                       active    closed      on      yes
manager                     active    closed      -       yes
owner                       active    closed      -       yes
nobody                      active    open        -       -
nobody                      active    open        on      -
member                      inactive  open        on      -
manager                     inactive  open        on      -
owner                       inactive  closed      on      -
acting-for-member           active    closed      -       -
acting-for-member           active    closed      on      yes
acting-for-owner            active    closed      -       yes
acting-for-nobody           active    open        on      -
key                         active    closed      -       yes
key                         inactive  open        -       -
foreign-key                 active    open        -       -
service                     active    closed      -       yes
service                     inactive  open        -       -
foreign-service             active    open        -       -
operator                    active    open        -       -
tocsin                      active    closed      -       yes
tocsin                      inactive  open        -       -
"""

HERE, ELSEWHERE = 1, 2
PROJECT, TEAM, OTHER_TEAM = 10, 20, 21


def rows_of(table: str) -> list[dict[str, str]]:
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def scopes_of(role: str, *options: str) -> set[str]:
    """Return a role's scopes according to the table; `options` are the optional scopes that members keep."""
    return {
        row["scope"]
        for row in rows_of(ROLES)
        if row[role] == "yes" or (row[role] == "option" and row["scope"] in options)
    }


ALL_OPTIONS = ("alerts:write", "event:admin")


def an_organization(
    *,
    features: Iterable[str] = ("organizations:incidents",),
    open_membership: bool = True,
    options: Iterable[str] = ALL_OPTIONS,
) -> OrganizationFacts:
    return OrganizationFacts(
        id=HERE,
        slug="acme",
        features=frozenset(features),
        open_membership=open_membership,
        alerts_member_write="alerts:write" in options,
        events_member_admin="event:admin" in options,
    )


def a_person(role: str | None, *, scopes: Iterable[str] | None = None, teams: Iterable[int] = ()) -> Actor:
    return Actor(
        kind=CallerKind.USER,
        user_id=11,
        scopes=None if scopes is None else frozenset(scopes),
        role=None if role is None else Role(role),
        teams=frozenset(teams),
    )


def a_client(kind: CallerKind, *, scopes: Iterable[str] = (), organization: int = HERE) -> Actor:
    return Actor(kind=kind, organization_id=organization, scopes=frozenset(scopes))


def acting_for(role: str | None, *, scopes: Iterable[str] | None, teams: Iterable[int] = ()) -> Actor:
    return Actor(
        kind=CallerKind.SERVICE,
        user_id=11,
        organization_id=HERE,
        scopes=None if scopes is None else frozenset(scopes),
        role=None if role is None else Role(role),
        teams=frozenset(teams),
    )


def outcome_of(check: Callable[..., None], *arguments: object) -> str:
    """Return ``passes``, or the status of the refusal that the check raises."""
    try:
        check(*arguments)
    except Refusal as refusal:
        return str(refusal.status)
    return "passes"


def scopes_for(endpoint: str, method: str) -> set[str]:
    return set(ENDPOINTS[endpoint][1].get(method, "").split())


def expected_in_organization(scopes: set[str], endpoint: str, method: str, features: Iterable[str]) -> str:
    """Derive the expected result of check 8 (scopes) and check 9 (feature)."""
    if not scopes & scopes_for(endpoint, method):
        return "403"
    needed = "" if (endpoint, method) in WITHOUT_FEATURE else ENDPOINTS[endpoint][2]
    return "passes" if not needed or needed in features else "404"


PLANS = {"with incidents": ("organizations:incidents",), "without incidents": ("organizations:performance-view",)}
REQUESTS = [(endpoint, method) for endpoint in ENDPOINTS for method in METHODS]
ROLE_NAMES = ("member", "admin", "manager", "owner")


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("options", [ALL_OPTIONS, ("alerts:write",), ("event:admin",), ()], ids=" ".join)
def test_a_role_has_the_scopes_in_the_table_and_only_members_are_restricted_by_options(
    role: str, options: tuple[str, ...]
) -> None:
    organization = an_organization(options=options)

    scopes = policy.effective_scopes(a_person(role), organization)

    assert scopes == scopes_of(role, *options)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
@pytest.mark.parametrize("role", [None, *ROLE_NAMES])
def test_a_session_is_limited_by_its_role_and_the_plan(role: str | None, endpoint: str, method: str, plan: str) -> None:
    organization = an_organization(features=PLANS[plan])
    scopes = set() if role is None else scopes_of(role, *ALL_OPTIONS)
    expected = expected_in_organization(scopes, endpoint, method, PLANS[plan])

    outcome = outcome_of(
        policy.require_organization_access, a_person(role), organization, ENDPOINTS[endpoint][0], method
    )

    assert outcome == expected


@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_a_session_passes_the_token_check_on_every_endpoint(endpoint: str, method: str) -> None:
    assert outcome_of(policy.require_token_scope, a_person(None), ENDPOINTS[endpoint][0], method) == "passes"


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_a_token_needs_one_of_the_endpoints_scopes_before_any_lookup(endpoint: str, method: str, scope: str) -> None:
    expected = "passes" if scope in scopes_for(endpoint, method) else "403"
    callers = [
        a_person("owner", scopes=[scope]),
        a_client(CallerKind.KEY, scopes=[scope]),
        a_client(CallerKind.SERVICE, scopes=[scope]),
        acting_for("owner", scopes=[scope]),
    ]

    outcomes = {outcome_of(policy.require_token_scope, caller, ENDPOINTS[endpoint][0], method) for caller in callers}

    assert outcomes == {expected}


@pytest.mark.parametrize("kind", [CallerKind.KEY, CallerKind.SERVICE, CallerKind.OPS])
@pytest.mark.parametrize("scopes", [None, frozenset[str]()], ids=["no list", "empty list"])
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_only_a_session_passes_the_token_check_without_scopes(
    endpoint: str, method: str, scopes: frozenset[str] | None, kind: CallerKind
) -> None:
    caller = Actor(kind=kind, organization_id=HERE, scopes=scopes)

    assert outcome_of(policy.require_token_scope, caller, ENDPOINTS[endpoint][0], method) == "403"


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
@pytest.mark.parametrize("role", [None, *ROLE_NAMES])
@pytest.mark.parametrize("build_actor", [a_person, acting_for], ids=["user token", "service acting for a user"])
def test_effective_scopes_are_the_intersection_of_token_and_role(
    build_actor: Callable[..., Actor], role: str | None, scope: str
) -> None:
    of_role = set() if role is None else scopes_of(role, *ALL_OPTIONS)

    scopes = policy.effective_scopes(build_actor(role, scopes=[scope]), an_organization())

    assert scopes == of_role & {scope}


def test_a_service_without_a_scope_list_gains_nothing_by_acting_for_an_owner() -> None:
    assert policy.effective_scopes(acting_for("owner", scopes=None), an_organization()) == set()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_in_its_own_organization_a_key_is_limited_only_by_the_token_check(
    endpoint: str, method: str, plan: str
) -> None:
    organization, key = an_organization(features=PLANS[plan]), a_client(CallerKind.KEY, scopes=["org:read"])
    expected = expected_in_organization(scopes_of("owner"), endpoint, method, PLANS[plan])

    assert outcome_of(policy.require_organization_access, key, organization, ENDPOINTS[endpoint][0], method) == expected


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_a_service_has_its_own_scopes_in_its_organization(endpoint: str, method: str, scope: str) -> None:
    expected = expected_in_organization({scope}, endpoint, method, PLANS["with incidents"])
    service = a_client(CallerKind.SERVICE, scopes=[scope])

    outcome = outcome_of(policy.require_organization_access, service, an_organization(), ENDPOINTS[endpoint][0], method)

    assert outcome == expected


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
@pytest.mark.parametrize("kind", [CallerKind.KEY, CallerKind.SERVICE, CallerKind.OPS])
def test_operators_and_the_keys_and_services_of_other_organizations_have_no_access(
    kind: CallerKind, endpoint: str, method: str, plan: str
) -> None:
    caller = Actor(
        kind=kind, organization_id=None if kind is CallerKind.OPS else ELSEWHERE, scopes=frozenset(ALL_SCOPES)
    )
    organization = an_organization(features=PLANS[plan])

    assert outcome_of(policy.require_organization_access, caller, organization, ENDPOINTS[endpoint][0], method) == "403"


@pytest.mark.parametrize(("endpoint", "method"), REQUESTS)
def test_the_system_actor_passes_every_check(endpoint: str, method: str) -> None:
    permission, organization = ENDPOINTS[endpoint][0], an_organization(features=())

    policy.require_token_scope(SYSTEM, permission, method)
    policy.require_organization_access(SYSTEM, organization, permission, method)
    policy.require_project_access(SYSTEM, organization, [])
    policy.require_person(SYSTEM)


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if "alert rule" in name])
def test_members_may_write_alert_rules_only_if_the_organization_allows_it(
    endpoint: str, method: str, role: str
) -> None:
    locked = an_organization(options=["event:admin"])

    outcome = outcome_of(policy.require_organization_access, a_person(role), locked, ENDPOINTS[endpoint][0], method)
    reads = outcome_of(policy.require_organization_access, a_person(role), locked, ENDPOINTS[endpoint][0], "GET")

    assert (outcome, reads) == ("403" if role == "member" else "passes", "passes")


CALLERS: dict[str, Callable[[list[int]], Actor]] = {
    "member": lambda teams: a_person("member", teams=teams),
    "admin": lambda teams: a_person("admin", teams=teams),
    "manager": lambda teams: a_person("manager", teams=teams),
    "owner": lambda teams: a_person("owner", teams=teams),
    "nobody": lambda teams: a_person(None, teams=teams),
    "acting-for-member": lambda teams: acting_for("member", scopes=["project:read"], teams=teams),
    "acting-for-owner": lambda teams: acting_for("owner", scopes=["project:read"], teams=teams),
    "acting-for-nobody": lambda teams: acting_for(None, scopes=["project:read"], teams=teams),
    "key": lambda _: a_client(CallerKind.KEY),
    "foreign-key": lambda _: a_client(CallerKind.KEY, organization=ELSEWHERE),
    "service": lambda _: a_client(CallerKind.SERVICE),
    "foreign-service": lambda _: a_client(CallerKind.SERVICE, organization=ELSEWHERE),
    "operator": lambda _: Actor(kind=CallerKind.OPS),
    "tocsin": lambda _: SYSTEM,
}


@pytest.mark.parametrize("row", rows_of(PROJECT_ACCESS), ids=lambda row: " ".join(row.values()))
def test_project_access_matches_the_table(row: dict[str, str]) -> None:
    actor = CALLERS[row["who"]]([TEAM] if row["team"] == "on" else [OTHER_TEAM])
    organization = an_organization(open_membership=row["membership"] == "open")
    project = ProjectFacts(id=PROJECT, active=row["project"] == "active", teams=frozenset({TEAM}))

    reaches = policy.has_project_access(actor, organization, project)

    assert reaches is (row["reaches"] == "yes")


@pytest.mark.parametrize("row", rows_of(PROJECT_ACCESS), ids=lambda row: " ".join(row.values()))
def test_an_incident_is_accessible_through_any_one_of_its_projects(row: dict[str, str]) -> None:
    actor = CALLERS[row["who"]]([TEAM] if row["team"] == "on" else [OTHER_TEAM])
    organization = an_organization(open_membership=row["membership"] == "open")
    projects = [
        ProjectFacts(id=PROJECT + 1, active=False, teams=frozenset({TEAM})),
        ProjectFacts(id=PROJECT, active=row["project"] == "active", teams=frozenset({TEAM})),
    ]
    reaches = row["reaches"] == "yes"

    assert policy.may_read(actor, organization, projects) is reaches
    assert not policy.may_read(actor, organization, [])
    if actor is not SYSTEM:
        outcome = outcome_of(policy.require_project_access, actor, organization, projects)
        assert outcome == ("passes" if reaches else "403")


@pytest.mark.parametrize("active", [True, False], ids=["active project", "inactive project"])
@pytest.mark.parametrize(
    ("teams", "on"), [([], False), ([OTHER_TEAM], False), ([TEAM], True), ([TEAM, OTHER_TEAM], True)]
)
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_being_on_a_projects_team_depends_on_membership_not_on_role(
    role: str, teams: list[int], on: bool, active: bool
) -> None:
    project = ProjectFacts(id=PROJECT, active=active, teams=frozenset({TEAM}))

    assert policy.is_project_member(a_person(role, teams=teams), project) is on


AUTHORS = {
    "a session": (a_person("member"), "passes"),
    "a user token": (a_person("member", scopes=["project:read"]), "passes"),
    "a service acting for a member": (acting_for("member", scopes=["project:read"]), "passes"),
    "a service as itself": (a_client(CallerKind.SERVICE, scopes=ALL_SCOPES), "403"),
    "a key": (a_client(CallerKind.KEY, scopes=ALL_SCOPES), "403"),
    "an operator": (Actor(kind=CallerKind.OPS), "403"),
}


@pytest.mark.parametrize("author", AUTHORS)
def test_only_people_and_services_that_act_for_them_are_authors(author: str) -> None:
    actor, expected = AUTHORS[author]

    assert outcome_of(policy.require_person, actor) == expected
    assert actor.is_person is (expected == "passes")


@pytest.mark.parametrize("author", AUTHORS)
def test_callers_that_cannot_be_authors_cannot_change_comments_and_api_keys_get_a_specific_message(author: str) -> None:
    actor, expected = AUTHORS[author]
    texts = {"a key": "Key doesn't have permission to delete Note"}

    assert outcome_of(policy.require_comment_author, actor) == expected
    if expected == "403":
        with pytest.raises(Refusal) as refused:
            policy.require_comment_author(actor)
        assert refused.value.body == {"detail": texts.get(author, "You do not have permission to perform this action.")}


def test_only_services_that_act_as_themselves_and_the_system_may_use_service_commands() -> None:
    outcomes = {name: outcome_of(policy.require_service, actor) for name, (actor, _) in AUTHORS.items()}

    assert outcomes == dict.fromkeys(AUTHORS, "403") | {"a service as itself": "passes"}
    policy.require_service(SYSTEM)


@pytest.mark.parametrize("status", IncidentStatus)
@pytest.mark.parametrize("role", ["member", "admin", "manager", "owner", None])
def test_setting_a_status_other_than_closed_requires_a_role_with_a_write_scope(
    role: str | None, status: IncidentStatus
) -> None:
    outcome = outcome_of(policy.require_status_scope, a_person(role), an_organization(), status)

    assert outcome == ("passes" if status is IncidentStatus.CLOSED or role in ("admin", "manager", "owner") else "403")


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
def test_setting_a_status_other_than_closed_requires_a_token_with_a_write_scope(scope: str) -> None:
    outcome = outcome_of(
        policy.require_status_scope, a_person("owner", scopes=[scope]), an_organization(), IncidentStatus.WARNING
    )

    assert outcome == ("passes" if scope in OPEN_SCOPES.split() else "403")


def test_only_a_user_token_without_a_scope_list_is_a_session() -> None:
    sessions = [actor for actor in [CALLERS[name]([]) for name in CALLERS] if actor.is_session]

    assert [actor.kind for actor in sessions] == [CallerKind.USER] * 5
    assert not a_person("owner", scopes=[]).is_session


def test_an_organization_has_only_its_configured_features() -> None:
    organization = an_organization(features=["organizations:incidents"])

    assert organization.has(Feature.INCIDENTS)
    assert not organization.has(Feature.PERFORMANCE)
