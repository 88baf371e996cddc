"""Callers × requests: who may do what, as the contract says, and what the gateway and a worker answer.

The expected answers are derived from the tables in this module and in :mod:`tests.unit.test_policy`, which are written
from the contract and share nothing with :mod:`models.policy`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import httpx
from sqlalchemy.engine import Connection, Engine

from models.alert_rules.alert_rule import Action, Trigger
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.directory.importer import import_directory
from tests.builders import (
    NOW,
    a_chat_destination,
    a_comment,
    a_webhook,
    a_webhook_delivery,
    an_accepted_command,
    an_alert_rule,
    an_incident,
)
from tests.http.gateway_server import Gateway, Worker
from tests.unit.test_policy import (
    ANY_MEMBER,
    INCIDENT,
    OPEN_SCOPES,
    ORGANIZATION,
    PROJECT_RULE,
    RULE,
    scopes_of,
)

SENDERS: Final = 8
"""How many callers send their requests at the same time."""

# --- the world ---------------------------------------------------------------------------------------------------

FEATURES: Final = ["organizations:incidents"]
ORGANIZATIONS: Final[dict[str, dict[str, Any]]] = {
    "vault": {"features": FEATURES, "options": {"open_membership": False}},
    "open": {"features": FEATURES},
    "strict": {"features": FEATURES, "options": {"open_membership": False, "alerts_member_write": False}},
    "bare": {"features": [], "options": {"open_membership": False}},
}
EVERY_SCOPE: Final = tuple(sorted(scopes_of("owner")))

SECRET: Final = "s3cret-incident-data"
"""Part of every text about an incident or a rule."""

MANAGED_SECRET: Final = "s3cret-webhook"
"""Part of the webhook's URL and of the chat destination's name, which managers and owners see."""

USERS: Final = {
    name: 101 + number
    for number, name in enumerate(
        ("mem", "away", "ghost", "idle", "adm", "adm2", "man", "own", "out", "gone", "boss", "bossout", "author")
    )
}
MEMBERSHIPS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "mem": ("member", ("t",)), "away": ("member", ("u",)), "ghost": ("member", ("dead",)), "idle": ("member", ("t",)),
    "adm": ("admin", ("t",)), "adm2": ("admin", ("u",)), "man": ("manager", ()), "own": ("owner", ()),
    "gone": ("member", ("t",)), "boss": ("member", ("t",)), "author": ("member", ("t",)),
}  # fmt: skip
"""Roles and teams, alike in every organization. ``idle`` no longer belongs to the team, ``ghost``'s team is closed."""

PROGRAMS: Final[dict[str, dict[str, Any]]] = {
    "key": {"kind": "key", "scopes": list(EVERY_SCOPE)},
    "key-reading": {"kind": "key", "scopes": ["project:read"]},
    "bot": {"kind": "service", "act_as": True, "scopes": [*EVERY_SCOPE]},
    "bot-reading": {"kind": "service", "act_as": True, "scopes": ["org:read"]},
    "bot-alone": {"kind": "service", "scopes": ["project:write", "alerts:write"]},
}
NARROWED: Final = {
    "own-org-read": ("own", "org:read"), "own-project-read": ("own", "project:read"),
    "own-alerts-write": ("own", "alerts:write"), "own-project-write": ("own", "project:write"),
    "mem-all": ("mem", " ".join(EVERY_SCOPE)), "mem-member-read": ("mem", "member:read"),
    "out-all": ("out", " ".join(EVERY_SCOPE)),
}  # fmt: skip


def a_directory() -> dict[str, Any]:
    """Return the directory document."""
    organizations = list(ORGANIZATIONS)
    return {
        "organizations": [{"slug": slug, **facts} for slug, facts in ORGANIZATIONS.items()],
        "users": [
            {"id": id_, "username": name, "email": f"{name}@x.test", "is_active": name != "gone",
             "is_superuser": name in {"boss", "bossout"}}
            for name, id_ in USERS.items()
        ],
        "projects": [
            {"organization": organization, "slug": f"{organization}-{slug}", "status": status}
            for organization in organizations
            for slug, status in (("p", "active"), ("q", "active"), ("old", "inactive"))
        ],
        "teams": [
            {"organization": organization, "slug": slug, "projects": [f"{organization}-{p}" for p in projects]}
            for organization in organizations
            for slug, projects in (("t", ("p", "old")), ("u", ("q",)), ("dead", ("p",)))
        ],
        "members": [
            {"organization": organization, "user": name, "role": role, "teams": list(teams)}
            for organization in organizations
            for name, (role, teams) in MEMBERSHIPS.items()
        ],
        "tokens": [
            *({"token": name, "user": name} for name in USERS),
            *({"token": name, "user": user, "name": name, "scopes": scopes.split()}
              for name, (user, scopes) in NARROWED.items()),
            {"token": "own-revoked", "user": "own", "name": "revoked"},
            {"token": "own-expired", "user": "own", "name": "expired"},
            *({"token": f"{organization}-{name}", "organization": organization, "name": name, **facts}
              for organization in organizations for name, facts in PROGRAMS.items()),
            {"token": "ops-admin", "name": "ops", "kind": "ops", "role": "admin"},
            {"token": "ops-viewer", "name": "viewer", "kind": "ops", "role": "viewer"},
        ],
    }  # fmt: skip


class Home(NamedTuple):
    """What an organization has: the ids of its teams, and of what the requests name."""

    id: int
    teams: dict[str, int]
    webhook: int
    destination: int
    delivery: UUID
    command: UUID


class Own(NamedTuple):
    """The rules and the comment that only one caller's requests name."""

    rule: int
    twin: int
    doomed: int
    comment: int


@dataclass(frozen=True)
class World:
    """The organizations, and what belongs to each caller."""

    homes: Mapping[str, Home]
    own: Mapping[str, Own]


def build_world(engine: Engine) -> World:
    """Fill an empty database with the organizations, their people, and an incident, a rule and more in each."""
    with engine.begin() as connection:
        import_directory(connection, a_directory())
        connection.exec_driver_sql("UPDATE teams SET status = 'inactive' WHERE slug = 'dead'")
        connection.exec_driver_sql(
            "UPDATE team_members SET is_active = false FROM members m WHERE m.id = member_id AND m.user_id = %s",
            (USERS["idle"],),
        )
        connection.exec_driver_sql("UPDATE tokens SET revoked_at = now() WHERE name = 'revoked'")
        connection.exec_driver_sql("UPDATE tokens SET expires_at = now() WHERE name = 'expired'")
        homes = {slug: _furnish(connection, slug) for slug in ORGANIZATIONS}
        own = {caller.name: _own(connection, homes, caller) for caller in CALLERS}
    return World(homes, own)


def _ids(connection: Connection, table: str, organization: int) -> dict[str, int]:
    rows = connection.exec_driver_sql(
        f"SELECT slug, id FROM {table} WHERE organization_id = %s",
        (organization,),
    )
    return {row.slug: row.id for row in rows}


def _furnish(connection: Connection, slug: str) -> Home:
    id_ = connection.exec_driver_sql("SELECT id FROM organizations WHERE slug = %s", (slug,)).scalar_one()
    projects = _ids(connection, "projects", id_)
    an_incident(connection, id_, projects=[projects[f"{slug}-p"]], identifier=1, title=f"Incident {SECRET}")
    an_incident(connection, id_, projects=[projects[f"{slug}-q"]], identifier=2)
    an_incident(connection, id_, projects=[projects[f"{slug}-old"]], identifier=3)
    webhook = a_webhook(connection, id_, url=f"https://hooks.example.com/{MANAGED_SECRET}")
    command = an_accepted_command(
        connection, subject=f"command:{new_id()}", organization_id=id_, caller="user:1", user_id=1
    )
    connection.exec_driver_sql(
        "UPDATE commands SET state = 'applied', outcome_status = 200, finished_at = now() WHERE id = %s", (command,)
    )
    return Home(
        id=id_,
        teams=_ids(connection, "teams", id_),
        webhook=webhook,
        destination=a_chat_destination(connection, id_, name=MANAGED_SECRET),
        delivery=a_webhook_delivery(connection, webhook, id=new_id(), state="delivered"),
        command=command,
    )


def _own(connection: Connection, homes: Mapping[str, Home], caller: Caller) -> Own:
    home = homes[caller.organization]
    project = _ids(connection, "projects", home.id)[f"{caller.organization}-p"]
    incident = connection.exec_driver_sql(
        "SELECT id FROM incidents WHERE organization_id = %s AND identifier = 1", (home.id,)
    ).scalar_one()
    rules = [
        an_alert_rule(connection, home.id, projects=[project], triggers=[], name=f"Rule {SECRET}") for _ in range(3)
    ]
    for rule in rules:
        action, spare = (
            Action(
                id=rule * 1000 + 500 + number, type=ActionType.EMAIL, target_type=TargetType.USER,
                target=str(USERS["author"]), date_added=NOW,
            )
            for number in range(2)
        )  # fmt: skip
        critical = Trigger(
            id=rule * 1000 + 1, label="critical", threshold=100.0, date_added=NOW, actions=(action, spare)
        )
        warning = Trigger(id=rule * 1000 + 2, label="warning", threshold=50.0, date_added=NOW, actions=())
        definition = {"triggers": [each.model_dump(mode="json") for each in (critical, warning)]}
        connection.exec_driver_sql(
            "UPDATE alert_rules SET definition = (definition::jsonb || %s::jsonb)::json WHERE id = %s",
            (json.dumps(definition), rule),
        )
    rule, twin, doomed = rules
    return Own(rule, twin, doomed, a_comment(connection, incident, by=USERS["author"], text=f"Look at {SECRET}."))


# --- callers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Somebody who sends requests about an organization.

    ``person`` is whose rights count: the token's owner, or the member for whom a service acts. ``scopes`` are the
    token's, or ``None`` for a session. ``unauthenticated`` is the detail of the 401, and ``is_refused`` says that the
    header Act-As alone is a reason for 403.
    """

    name: str
    token: str | None
    organization: str = "vault"
    kind: str = "user"
    person: str | None = None
    scopes: frozenset[str] | None = None
    acts_for: str | None = None
    unauthenticated: str | None = None
    is_refused: bool = False

    @property
    def role(self) -> str | None:
        """The person's role in the organization."""
        return MEMBERSHIPS[self.person][0] if self.person in MEMBERSHIPS else None

    @property
    def is_of_the_organization(self) -> bool:
        """Whether a program belongs to the organization."""
        return self.token is not None and self.token.startswith(f"{self.organization}-")

    @property
    def is_alone(self) -> bool:
        """Whether it is a service that acts as itself."""
        return self.kind == "service" and self.acts_for is None


def _person(name: str, organization: str = "vault", token: str | None = None, **facts: Any) -> Caller:
    scopes = frozenset(NARROWED[token][1].split()) if token in NARROWED else None
    label = f"{token or name}@{organization}"
    return Caller(label, token or name, organization, person=name, scopes=scopes, **facts)


def _program(
    name: str, organization: str = "vault", home: str | None = None, acts_for: str | None = None, **facts: Any
) -> Caller:
    program, token = PROGRAMS[name], f"{home or organization}-{name}"
    label = f"{token}@{organization}" + (f" for {acts_for}" if acts_for else "")
    person = acts_for if acts_for in USERS else None
    scopes = frozenset(program["scopes"])
    return Caller(label, token, organization, program["kind"], person, scopes, acts_for, **facts)


CALLERS: Final = (
    Caller("no token", None, unauthenticated="Authentication credentials were not provided."),
    Caller("junk", "junk", unauthenticated="Invalid token"),
    _person("own", token="own-revoked", unauthenticated="Invalid token"),
    _person("own", token="own-expired", unauthenticated="Token expired"),
    _person("gone", unauthenticated="User inactive or deleted"),
    *(_person(name) for name in ("mem", "away", "ghost", "idle", "adm", "adm2", "man", "own")),
    *(_person(name) for name in ("out", "boss", "bossout")),
    *(_person(name, "open") for name in ("mem", "away", "adm2", "own", "out")),
    *(_person(name, "strict") for name in ("mem", "adm")),
    *(_person(name, "bare") for name in ("mem", "own", "out")),
    *(_person(user, token=token) for token, (user, _) in NARROWED.items()),
    _person("mem", "strict", token="mem-all"),
    *(_program(name) for name in PROGRAMS),
    *(_program(name, "bare") for name in ("key", "bot")),
    *(_program(name, home="open") for name in ("key", "bot")),
    *(_program("bot", acts_for=name) for name in ("mem", "away", "own", "adm2")),
    _program("bot-reading", acts_for="own"),
    _program("bot", "open", acts_for="away"),
    _program("bot", acts_for="out", is_refused=True),
    _program("bot", acts_for="gone", is_refused=True),
    _program("bot", acts_for="nobody", is_refused=True),
    _program("bot-alone", acts_for="own", is_refused=True),
    Caller("own, who acts for mem", "own", person="own", acts_for="mem", is_refused=True),
    Caller("ops-admin", "ops-admin", kind="ops", scopes=frozenset()),
    Caller("ops-viewer", "ops-viewer", kind="ops", scopes=frozenset()),
)  # fmt: skip


# --- requests ----------------------------------------------------------------------------------------------------

MANAGED: Final = "org:write org:admin"
RULE_READ: Final = f"org:read alerts:read {RULE}"
PROJECT_RULE_READ: Final = f"project:read alerts:read {PROJECT_RULE}"
O: Final = "/api/0/organizations/{organization}"  # noqa: E741
I: Final = f"{O}/incidents/{{identifier}}"  # noqa: E741
R: Final = f"{O}/alert-rules/{{rule}}"
T: Final = f"{R}/triggers/{{trigger}}"
P: Final = "/api/0/projects/{organization}/{project}/alert-rules"
W: Final = f"{O}/webhooks"
C: Final = f"{O}/chat-destinations"


@dataclass(frozen=True)
class Request:
    """A request, and what the contract says about it.

    ``scopes`` are sufficient ones. ``who`` is ``anyone``, ``person`` (also by a service that acts for one), ``service``
    (that acts as itself), ``either`` (a person or a service), ``ops``, or ``viewer`` of the operators. ``reaches`` says
    whether the caller needs access to project p. ``found`` is the status for those who may do it. ``target`` overrides
    where the ids in the path come from, and ``query`` follows the path.
    """

    method: str
    path: str
    scopes: str = ""
    found: int = 200
    who: str = "anyone"
    query: str = ""
    body: Any = None
    reaches: bool = True
    needs_feature: bool = True
    target: str = "rule"
    item_scopes: str = ""
    special: str = ""

    @property
    def label(self) -> str:
        """The request as a line."""
        item = self.body["commands"][0]["type"] if self.body and "commands" in self.body else ""
        return " ".join(part for part in (self.method, self.path + self.query, self.special, item) if part)


def _read(path: str, scopes: str = "", query: str = "", **facts: Any) -> Request:
    return Request("GET", path, scopes, query=query, **facts)


RULE_BODY: Final = {
    "name": f"Errors {SECRET}", "aggregate": "count()", "query": "", "timeWindow": 10, "thresholdType": 0,
    "triggers": [{"label": "critical", "alertThreshold": 100}],
}  # fmt: skip
TRIGGER: Final = {"label": "critical", "alertThreshold": 120}
ACTION: Final = {"type": "email", "targetType": "user", "targetIdentifier": str(USERS["author"])}
CHAT_URL: Final = "slack://TokenA000/TokenB000/TokenC0000000000000000000/#c"
OBSERVATION: Final = {"value": 1, "timestamp": "2026-11-23T10:00:00Z"}
READ_ANYTHING: Final[dict[str, Any]] = {"reaches": False, "needs_feature": False}

READS: Final = (
    _read(f"{O}/", ORGANIZATION, **READ_ANYTHING),
    _read(f"{O}/members/", f"{ORGANIZATION} member:read member:write member:admin", **READ_ANYTHING),
    _read(f"{O}/teams/", f"{ORGANIZATION} team:read team:write team:admin", **READ_ANYTHING),
    _read(f"{O}/projects/", f"{ORGANIZATION} project:read project:write project:admin", special="projects",
          **READ_ANYTHING),
    _read(f"{O}/incidents/", f"org:read {INCIDENT}", special="listed", reaches=False),
    _read(f"{O}/incidents/", f"org:read {INCIDENT}", "?project=-1", special="accessible", reaches=False),
    _read(f"{O}/incidents/", f"org:read {INCIDENT}", "?project=-1&team={team}", special="team", reaches=False),
    _read(f"{O}/incidents/", f"org:read {INCIDENT}", "?project=-1&team={foreign_team}", special="no team",
          reaches=False),
    _read(f"{I}/", f"org:read {INCIDENT}"),
    _read(f"{I}/activity/", f"org:read {INCIDENT}"),
    _read(f"{I}/subscribers/", f"org:read {INCIDENT}"),
    _read(f"{I}/comments/preview/", f"org:read {INCIDENT}"),
    _read(f"{I}/explain/", f"org:read {INCIDENT}", who="person"),
    _read(f"{I}/explain/", f"org:read {INCIDENT}", f"?user={USERS['author']}", who="person", special="of another"),
    _read(f"{O}/alert-rules/", RULE_READ, reaches=False),
    _read(f"{O}/alert-rules/available-actions/", ORGANIZATION, reaches=False),
    _read(f"{R}/", RULE_READ),
    _read(f"{R}/triggers/", RULE_READ),
    _read(f"{T}/", RULE_READ),
    _read(f"{T}/actions/", RULE_READ),
    _read(f"{T}/actions/{{action}}/", RULE_READ),
    _read(f"{R}/observations/", RULE_READ),
    _read(f"{P}/", PROJECT_RULE_READ),
    _read(f"{P}/{{rule}}/", PROJECT_RULE_READ),
    _read(f"{O}/notifications/", ANY_MEMBER, who="person", **READ_ANYTHING),
    _read(f"{O}/notifications/count/", ANY_MEMBER, who="person", **READ_ANYTHING),
    _read(f"{O}/notifications/{{notification}}/explain/", ANY_MEMBER, who="person", found=404, **READ_ANYTHING),
    _read(f"{O}/events/", ANY_MEMBER, special="stream", **READ_ANYTHING),
    _read("/api/0/users/me/preferences/", ANY_MEMBER, who="person", special="personal", **READ_ANYTHING),
    _read(f"{W}/", MANAGED, **READ_ANYTHING),
    _read(f"{W}/{{webhook}}/", MANAGED, **READ_ANYTHING),
    _read(f"{W}/{{webhook}}/deliveries/", MANAGED, **READ_ANYTHING),
    _read(f"{W}/{{webhook}}/deliveries/{{delivery}}/", MANAGED, **READ_ANYTHING),
    _read(f"{C}/", MANAGED, **READ_ANYTHING),
    _read(f"{C}/{{destination}}/", MANAGED, **READ_ANYTHING),
    _read(f"{C}/{{destination}}/deliveries/", MANAGED, **READ_ANYTHING),
    _read(f"{C}/{{destination}}/deliveries/{{delivery}}/", MANAGED, found=404, **READ_ANYTHING),
    _read(f"{O}/commands/", ANY_MEMBER, **READ_ANYTHING),
    _read("/api/0/commands/{command}/", special="command", **READ_ANYTHING),
    _read("/api/0/directory/", who="ops", **READ_ANYTHING),
)  # fmt: skip


def _items(*items: dict[str, Any]) -> dict[str, Any]:
    return {"commands": list(items)}


def _write(method: str, path: str, scopes: str, found: int, body: Any = None, *, who: str = "person",
           **facts: Any) -> Request:  # fmt: skip
    return Request(method, path, scopes, found, who, body=body, **facts)


def _managed(method: str, path: str, found: int, body: Any = None) -> Request:
    return _write(method, path, MANAGED, found, body, who="either", **READ_ANYTHING)


WRITES: Final = (
    _write("POST", f"{I}/seen/", INCIDENT, 201),
    _write("POST", f"{I}/subscriptions/", INCIDENT, 201),
    _write("DELETE", f"{I}/subscriptions/", INCIDENT, 200),
    _write("POST", f"{I}/mute/", INCIDENT, 201, {}),
    _write("DELETE", f"{I}/mute/", INCIDENT, 204),
    _write("POST", f"{I}/comments/", INCIDENT, 201, {"comment": f"Look, {SECRET}."}),
    _write("PUT", f"{I}/comments/{{comment}}/", INCIDENT, 200, {"comment": f"Look again, {SECRET}."}, special="change"),
    _write("DELETE", f"{I}/comments/{{comment}}/", INCIDENT, 204, special="change"),
    _write("PUT", f"{I}/", INCIDENT, 200, {"status": 2}),
    _write("POST", f"{O}/commands/", ANY_MEMBER, 200, _items({"type": "incident.set_status", "incident": 1,
           "status": 20}), item_scopes=INCIDENT, special="status"),
    _write("POST", f"{O}/commands/", ANY_MEMBER, 201, _items({"type": "incident.mark_seen", "incident": 1}),
           item_scopes=INCIDENT),
    _write("POST", f"{O}/incidents/", OPEN_SCOPES, 201, {"title": f"New {SECRET}", "projects": ["{project}"]},
           who="either"),
    _write("POST", f"{O}/integrations/alertmanager/", OPEN_SCOPES, 201, {
        "version": "4", "groupKey": "{caller}", "status": "firing", "commonLabels": {"project": "{project}"},
        "alerts": [{"status": "firing", "startsAt": "2026-11-23T10:00:00Z", "labels": {"alertname": "x"}}],
    }, who="service", special="alertmanager"),
    _write("POST", f"{O}/alert-rules/", RULE, 201, RULE_BODY | {"projects": ["{project}"]}, special="rule in project"),
    _write("POST", f"{P}/", PROJECT_RULE, 201, RULE_BODY),
    _write("PUT", f"{R}/", RULE, 200, RULE_BODY),
    _write("PUT", f"{P}/{{rule}}/", PROJECT_RULE, 200, RULE_BODY, target="twin"),
    _write("POST", f"{P}/{{rule}}/snooze/", PROJECT_RULE, 201, {"target": "me"}),
    _write("DELETE", f"{P}/{{rule}}/snooze/", PROJECT_RULE, 204),
    _write("POST", f"{R}/observations/", RULE, 201, OBSERVATION | {"project": "{project}"}, who="either",
           target="twin", special="observation"),
    _write("PUT", f"{T}/", RULE, 200, TRIGGER, target="doomed"),
    _write("POST", f"{T}/actions/", RULE, 201, ACTION, target="doomed"),
    _write("PUT", f"{T}/actions/{{action}}/", RULE, 200, ACTION, target="doomed"),
    _write("DELETE", f"{T}/actions/{{action}}/", RULE, 204, target="doomed"),
    _write("DELETE", f"{R}/triggers/{{warning}}/", RULE, 204, target="doomed"),
    _write("POST", f"{R}/triggers/", RULE, 201, {"label": "warning", "alertThreshold": 60}, target="doomed"),
    _write("DELETE", f"{R}/", RULE, 204, target="doomed", needs_feature=False),
    _write("DELETE", f"{P}/{{rule}}/", PROJECT_RULE, 204, target="twin", needs_feature=False),
    _write("POST", f"{O}/notifications/read/", ANY_MEMBER, 200, {"all": True}, **READ_ANYTHING),
    _write("PUT", "/api/0/users/me/preferences/", ANY_MEMBER, 200, {"quietHours": None}, special="personal",
           **READ_ANYTHING),
    _managed("POST", f"{W}/", 201, {"url": f"https://93.184.215.14/{MANAGED_SECRET}", "events": ["*"]}),
    _managed("PUT", f"{W}/{{webhook}}/", 200, {"url": f"https://93.184.215.14/{MANAGED_SECRET}", "events": ["*"]}),
    _managed("POST", f"{W}/{{webhook}}/rotate/", 200),
    _managed("POST", f"{W}/{{webhook}}/test/", 202),
    _managed("POST", f"{W}/{{webhook}}/deliveries/{{delivery}}/redeliver/", 202),
    _managed("DELETE", f"{W}/{{no_webhook}}/", 404),
    _managed("POST", f"{C}/", 201, {"name": "{caller}", "url": CHAT_URL}),
    _managed("PUT", f"{C}/{{destination}}/", 200, {"name": "{caller}, again"}),
    _managed("POST", f"{C}/{{destination}}/test/", 202),
    _managed("DELETE", f"{C}/{{no_webhook}}/", 404),
    _write("POST", "/api/0/commands/{command}/cancel/", "", 409, who="anyone", special="command", **READ_ANYTHING),
    _write("PUT", "/api/0/directory/", "", 200, {}, who="ops", **READ_ANYTHING),
)  # fmt: skip

Cell = tuple[int, Any]
"""A status, and the detail of an error where it differs, or the number of rows of a list."""


# --- what the contract says --------------------------------------------------------------------------------------

FORBIDDEN: Final = "You do not have permission to perform this action."


class Verdict(Exception):
    """A refusal. Its arguments are the cell."""


def expected(caller: Caller, request: Request) -> Cell:
    """Return what the contract says about this cell."""
    try:
        _check(caller, request)
    except Verdict as verdict:
        return verdict.args[0], verdict.args[1] if len(verdict.args) > 1 else None
    return request.found, _expected_rows(caller, request)


def _check(caller: Caller, request: Request) -> None:
    if caller.unauthenticated:
        # The answer to HEAD has no body.
        raise Verdict(401, None if request.special == "stream" else caller.unauthenticated)
    if caller.is_refused:
        raise Verdict(403)
    if request.who == "ops":
        if caller.name != "ops-admin":
            raise Verdict(403)
        return
    if request.special == "command":
        _check_command(caller, request)
        return
    sufficient = set(request.scopes.split())
    if caller.scopes is not None and not caller.scopes & sufficient:
        raise Verdict(403)
    if request.special == "change" and caller.person is None:
        # Before the organization is looked up.
        raise Verdict(403, "Key doesn't have permission to delete Note" if caller.kind == "key" else None)
    if request.special == "personal":
        if caller.person is None:
            raise Verdict(403)
        return
    scopes = _scopes_in_organization(caller)
    if not scopes & sufficient:
        raise Verdict(403)
    if request.needs_feature and caller.organization == "bare" and not request.item_scopes:
        raise Verdict(404)
    if request.item_scopes:
        if not scopes & set(request.item_scopes.split()):
            raise Verdict(403)
        if caller.organization == "bare":
            raise Verdict(404)
    _check_kind(caller, request)
    if request.reaches and not reaches(caller, "p"):
        raise Verdict(400 if request.special == "rule in project" else 403)
    _check_special(caller, request, scopes)


def _check_kind(caller: Caller, request: Request) -> None:
    allowed = {
        "anyone": True,
        "person": caller.person is not None,
        "service": caller.is_alone,
        "either": caller.person is not None or caller.is_alone,
    }[request.who]
    if not allowed:
        raise Verdict(403)


def _check_command(caller: Caller, request: Request) -> None:
    if caller.kind == "ops":
        if request.method != "GET":
            raise Verdict(403)
        return
    raise Verdict(404)


def _check_special(caller: Caller, request: Request, scopes: frozenset[str]) -> None:
    match request.special:
        case "of another" if caller.role not in ("manager", "owner"):
            raise Verdict(403)
        case "status" if not scopes & set(OPEN_SCOPES.split()):
            raise Verdict(403)
        case "team" if not reaches(caller, "p", through=("t",)):
            raise Verdict(403, "Error: You do not have permission to access t")
        case "change" if caller.person not in ("boss", "author"):
            raise Verdict(404)
        case _:
            pass


def _scopes_in_organization(caller: Caller) -> frozenset[str]:
    if caller.person is not None:
        if caller.role is None:
            return frozenset()
        options = () if caller.organization == "strict" else ("alerts:write",)
        scopes = frozenset(scopes_of(caller.role, *options, "event:admin"))
        return scopes if caller.scopes is None else scopes & caller.scopes
    if not caller.is_of_the_organization:
        return frozenset()
    return caller.scopes or frozenset()


def reaches(caller: Caller, project: str, *, through: Iterable[str] | None = None) -> bool:
    """Return whether the caller has access to project ``p``, ``q`` or ``old``."""
    if project == "old":
        return False
    if caller.person is None:
        return caller.is_of_the_organization
    if caller.role is None:
        return False
    teams = {"p": ("t",), "q": ("u",)}[project] if through is None else through
    return caller.organization == "open" or caller.role in ("manager", "owner") or is_on_team(caller, teams)


def is_on_team(caller: Caller, teams: Iterable[str]) -> bool:
    """Return whether the person belongs to one of the teams."""
    if caller.person not in MEMBERSHIPS or caller.person == "idle":
        return False
    return not set(MEMBERSHIPS[caller.person][1]).isdisjoint(teams)


def _expected_rows(caller: Caller, request: Request) -> int | None:
    accessible = [project for project in ("p", "q") if reaches(caller, project)]
    match request.special:
        case "projects" | "accessible":
            return len(accessible)
        case "listed" if caller.is_alone:
            return len(accessible)
        case "listed":
            return sum(is_on_team(caller, {"p": ("t",), "q": ("u",)}[project]) for project in accessible)
        case _:
            return None


# --- what tocsin answers -----------------------------------------------------------------------------------------


class Mismatch(NamedTuple):
    """A cell in which tocsin and the contract differ."""

    caller: str
    request: str
    expected: Cell
    found: Cell


def mismatches(gateway: Gateway, worker: Worker, engine: Engine, world: World) -> Iterator[Mismatch]:
    """Send every request as every caller, and yield the differences."""
    pending: dict[UUID, tuple[Caller, Request]] = {}
    for requests in (READS, WRITES):
        senders = ThreadPoolExecutor(SENDERS)
        try:
            answered = [senders.submit(send_all, gateway, caller, requests, world) for caller in CALLERS]
            for caller, answers in zip(CALLERS, answered, strict=True):
                for request, response in zip(requests, answers.result(), strict=True):
                    if (id_ := command_of(response)) is not None:
                        pending[id_] = (caller, request)
                    else:
                        yield from _compare(caller, request, _cell(response, request))
        finally:
            # Whoever wants only the first difference does not wait for the other callers.
            senders.shutdown(cancel_futures=True)
    while _is_work_left(engine):
        worker.apply()
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT id, outcome_status AS status, outcome_body AS body FROM commands WHERE id = ANY(%s)",
            (list(pending),),
        ).all()
    for row in rows:
        caller, request = pending[row.id]
        detail = row.body.get("detail") if isinstance(row.body, dict) and row.status >= 400 else None
        yield from _compare(caller, request, (row.status, _detail(row.status, detail)))


def _compare(caller: Caller, request: Request, found: Cell) -> Iterator[Mismatch]:
    if (wanted := expected(caller, request)) != found:
        yield Mismatch(caller.name, request.label, wanted, found)


def send_all(
    gateway: Gateway,
    caller: Caller,
    requests: Iterable[Request],
    world: World,
    *,
    key: str | None = None,
    prefer: str = "respond-async",
) -> list[httpx.Response]:
    """Send requests one after another. With ``key``, each has the idempotency key that begins with it."""
    with httpx.Client(base_url=gateway.url, timeout=30, verify=False) as client:
        return [
            _send(client, caller, request, world, key=key and f"{key}-{number}", prefer=prefer)
            for number, request in enumerate(requests)
        ]


def _send(
    client: httpx.Client, caller: Caller, request: Request, world: World, *, key: str | None, prefer: str
) -> httpx.Response:
    names = _names(caller, request, world)
    headers = {"Prefer": prefer}
    if caller.token is not None:
        headers["Authorization"] = f"Bearer {caller.token}"
    if key is not None:
        headers["Idempotency-Key"] = key
    if caller.acts_for is not None:
        headers["Act-As"] = f"user:{USERS.get(caller.acts_for, 0)}"
    path = (request.path + request.query).format(**names)
    # A stream would never end.
    method = "HEAD" if request.special == "stream" else request.method
    return client.request(method, path, headers=headers, json=_filled(request.body, names))


def _names(caller: Caller, request: Request, world: World) -> dict[str, Any]:
    home, own = world.homes[caller.organization], world.own[caller.name]
    rule = getattr(own, request.target)
    return {
        "organization": caller.organization, "identifier": 1, "project": f"{caller.organization}-p",
        "rule": rule, "trigger": rule * 1000 + 1, "warning": rule * 1000 + 2, "action": rule * 1000 + 501,
        "comment": own.comment, "team": home.teams["t"], "foreign_team": world.homes[_other(caller)].teams["t"],
        "webhook": home.webhook, "no_webhook": 999_999, "destination": home.destination, "delivery": home.delivery,
        "command": home.command, "notification": 1, "caller": caller.name,
    }  # fmt: skip


def _other(caller: Caller) -> str:
    return "open" if caller.organization == "vault" else "vault"


def _filled(body: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(body, dict):
        return {key: _filled(value, names) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, names) for value in body]
    return body.format(**names) if isinstance(body, str) and "{" in body else body


def command_of(response: httpx.Response) -> UUID | None:
    """Return the id of the command that a 202 accepted, if it is one."""
    if response.status_code != 202:
        return None
    body = response.json()
    return UUID(body["commands"][0]["id"] if "commands" in body else body["id"])


def _cell(response: httpx.Response, request: Request) -> Cell:
    status = response.status_code
    if status >= 400:
        body = response.json() if response.content else {}
        return status, _detail(status, body.get("detail") if isinstance(body, dict) else body)
    if request.special in ("projects", "listed", "accessible"):
        return status, len(response.json())
    return status, None


def _detail(status: int, detail: Any) -> Any:
    return detail if status in (401, 403) and detail != FORBIDDEN else None


def _is_work_left(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT FROM commands WHERE state = 'accepted' LIMIT 1").rowcount > 0
