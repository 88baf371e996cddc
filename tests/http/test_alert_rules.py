"""Alert rules over HTTP: what is listed, shown, asked for, and refused before it is accepted."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.vocabulary import JSON
from tests.builders import NOW, an_alert_rule, an_incident
from tests.handling.acme import Acme
from tests.http.doorway import ACME, COMMANDS, Gateway, Worker

RULES = f"{ACME}/alert-rules/"
TWIN = "/api/0/projects/acme/p1/alert-rules/"
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
MISSING = {"detail": "The requested resource does not exist"}
STALE = {"detail": "The resource has changed since you read it."}
REQUIRED = ["This field is required."]
NOT_NULL = ["This field may not be null."]
INTEGER = ["A valid integer is required."]
CRITICAL = {"label": "critical", "alertThreshold": 100}
WARNING = {"label": "warning", "alertThreshold": 50}
RULE: dict[str, Any] = {
    "name": "Errors on checkout",
    "aggregate": "count()",
    "query": "level:error",
    "timeWindow": 10,
    "thresholdType": 0,
    "triggers": [CRITICAL],
    "projects": ["p1"],
}


def ask(gateway: Gateway, method: str, path: str, *, by: str | None = "dev-mem", **request: Any) -> httpx.Response:
    with gateway.by(by, **request.pop("headers", {})) as client:
        return client.request(method, path, **request)


def accepted(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM commands")).scalar_one())


def seed(ledger: Engine, acme: Acme, *projects: str, organization: str = "acme", **facts: Any) -> int:
    ids = [acme.projects[organization, slug] for slug in projects or ("p1",)]
    with ledger.begin() as connection:
        return an_alert_rule(connection, acme.organizations[organization], projects=ids, **facts)


def grant(ledger: Engine, *features: str) -> None:
    with ledger.begin() as connection:
        connection.execute(text("UPDATE organizations SET features = :features"), {"features": list(features)})


def made(gateway: Gateway, **fields: JSON) -> Any:
    return gateway.post(RULES, RULE | fields).json()


# --- creating ---------------------------------------------------------------------------------------------------


def test_a_rule_is_made_in_either_spelling(gateway: Gateway, busy_worker: Worker) -> None:
    snake = {
        "name": "Errors on checkout", "aggregate": "count()", "query": "", "time_window": "10", "threshold_type": 0.0,
        "threshold_period": 2, "resolve_threshold": "20", "event_types": ["default"], "projects": ["p1"],
        "triggers": [
            {"label": "critical", "alert_threshold": "100.5", "unknown": "\0", "actions": [
                {"type": "email", "target_type": "team", "target_identifier": 21}]}
        ],
        "unknown": "\0",
    }  # fmt: skip

    answered = gateway.post(RULES, snake)

    shown = answered.json()
    assert answered.status_code == 201
    assert (shown["timeWindow"], shown["thresholdPeriod"], shown["resolveThreshold"]) == (10.0, 2, 20.0)
    assert shown["triggers"][0]["alertThreshold"] == 100.5
    assert shown["triggers"][0]["actions"][0]["targetIdentifier"] == "21"
    details = gateway.get(f"{RULES}{shown['id']}/").json()
    assert details == shown | {"excludedProjects": [], "eventTypes": ["default"], "snooze": False}


WRONG_FIELDS = [
    ({"name": None}, {"name": NOT_NULL}),
    ({"name": " "}, {"name": ["This field may not be blank."]}),
    ({"name": ["a"]}, {"name": ["Not a valid string."]}),
    ({"name": "a\0"}, {"name": ["Null characters are not allowed."]}),
    ({"name": "\ud800"}, {"name": ["Surrogate characters are not allowed: U+D800."]}),
    ({"name": "x" * 257}, {"name": ["Ensure this field has no more than 256 characters."]}),
    ({"aggregate": ""}, {"aggregate": ["This field may not be blank."]}),
    ({"query": None}, {"query": NOT_NULL}),
    (
        {"query": "a:b release:latest"},
        {"query": ["Unsupported Query: We do not currently support the release:latest query"]},
    ),
    ({"timeWindow": "a"}, {"timeWindow": INTEGER}),
    ({"timeWindow": True}, {"timeWindow": INTEGER}),
    ({"timeWindow": 0}, {"timeWindow": ["Ensure this value is greater than or equal to 1."]}),
    ({"timeWindow": 1441}, {"timeWindow": ["Ensure this value is less than or equal to 1440."]}),
    ({"thresholdType": "a"}, {"thresholdType": INTEGER}),
    ({"thresholdType": 2}, {"thresholdType": ["Invalid threshold type, valid values are [0, 1]"]}),
    ({"triggers": None}, {"triggers": NOT_NULL}),
    ({"triggers": {}}, {"triggers": ['Expected a list of items but got type "dict".']}),
    ({"projects": None}, {"projects": NOT_NULL}),
    ({"projects": "p1"}, {"projects": ['Expected a list of items but got type "str".']}),
    ({"projects": ["p1", "p2"]}, {"projects": ["Ensure this field has no more than 1 elements."]}),
    ({"environment": ""}, {"environment": ["This field may not be blank."]}),
    ({"environment": "x" * 65}, {"environment": ["Ensure this field has no more than 64 characters."]}),
    (
        {"dataset": "sessions"},
        {"dataset": ["Invalid dataset, valid values are ['events', 'transactions', 'generic_metrics', 'metrics']"]},
    ),
    ({"queryType": 3}, {"queryType": ["Invalid query type 3, valid values are [0, 1, 2]"]}),
    (
        {"eventTypes": ["a"]},
        {"eventTypes": ["Invalid event_type, valid values are ['error', 'default', 'transaction']"]},
    ),
    (
        {"eventTypes": [1]},
        {"eventTypes": ["Invalid event_type, valid values are ['error', 'default', 'transaction']"]},
    ),
    ({"thresholdPeriod": 0}, {"thresholdPeriod": ["Ensure this value is greater than or equal to 1."]}),
    ({"thresholdPeriod": 21}, {"thresholdPeriod": ["Ensure this value is less than or equal to 20."]}),
    ({"comparisonDelta": 0}, {"comparisonDelta": ["Ensure this value is greater than or equal to 1."]}),
    ({"comparisonDelta": 128161}, {"comparisonDelta": ["Ensure this value is less than or equal to 128160."]}),
    ({"resolveThreshold": "a"}, {"resolveThreshold": ["A valid number is required."]}),
    ({"resolveThreshold": True}, {"resolveThreshold": ["A valid number is required."]}),
    ({"resolveThreshold": "nan"}, {"resolveThreshold": ["A valid number is required."]}),
    ({"resolveThreshold": 10**400}, {"resolveThreshold": ["A valid number is required."]}),
    (
        {"owner": "team:none"},
        {"owner": ["Could not parse actor. Format should be `type:id` where type is `team` or `user`."]},
    ),
    ({"monitorType": -1}, {"monitorType": ["Ensure this value is greater than or equal to 0."]}),
    ({"monitorType": 2}, {"monitorType": ["Invalid monitor type, valid values are [0, 1]"]}),
    (
        {"activationCondition": 2},
        {"activationCondition": ["Invalid activation condition, valid values are [0, 1]"]},
    ),
    ({"description": "x" * 1001}, {"description": ["Ensure this field has no more than 1000 characters."]}),
    ({"includeAllProjects": "maybe"}, {"includeAllProjects": ["Must be a valid boolean."]}),
    ({"excludedProjects": [""]}, {"excludedProjects": {"0": ["This field may not be blank."]}}),
]

WRONG_WHOLES = [
    ({"triggers": []}, "Must include at least one trigger"),
    (
        {"triggers": [CRITICAL, WARNING, WARNING]},
        "Must send 1 or 2 triggers - A critical trigger, and an optional warning trigger",
    ),
    ({"triggers": [WARNING]}, 'Trigger 1 must be labeled "critical"'),
    ({"triggers": [{}]}, 'Trigger 1 must be labeled "critical"'),
    ({"triggers": [1]}, 'Trigger 1 must be labeled "critical"'),
    ({"triggers": [CRITICAL, CRITICAL]}, 'Trigger 2 must be labeled "warning"'),
    ({"resolveThreshold": 102}, "critical alert threshold must be above resolution threshold"),
    ({"resolveThreshold": 100.5}, "critical alert threshold must be above resolution threshold"),
    (
        {"resolveThreshold": 52, "triggers": [CRITICAL, WARNING]},
        "warning alert threshold must be above resolution threshold",
    ),
    ({"thresholdType": 1, "resolveThreshold": 98}, "critical alert threshold must be below resolution threshold"),
    (
        {"triggers": [CRITICAL | {"alertThreshold": 49}, WARNING]},
        "Critical trigger must have an alert threshold above warning trigger",
    ),
    (
        {"thresholdType": 1, "triggers": [CRITICAL, WARNING]},
        "Critical trigger must have an alert threshold below warning trigger",
    ),
    (
        # For a comparison, "10 below the past" is nearer to it than "50 below".
        {"thresholdType": 1, "comparisonDelta": 60, "triggers": [CRITICAL | {"alertThreshold": 10}, WARNING]},
        "Critical trigger must have an alert threshold below warning trigger",
    ),
    ({"queryType": 0, "dataset": "metrics"}, "Invalid dataset for this query type. Valid datasets are ['events']"),
    (
        {"queryType": 1},
        "Invalid dataset for this query type. Valid datasets are ['performancemetrics', 'transactions']",
    ),
    ({"queryType": 2}, "Invalid dataset for this query type. Valid datasets are ['metrics']"),
    (
        {"eventTypes": ["transaction"]},
        "Invalid event types for this dataset. Valid event types are ['default', 'error']",
    ),
    (
        {"dataset": "transactions", "eventTypes": ["error"]},
        "Invalid event types for this dataset. Valid event types are ['transaction']",
    ),
    (
        {"dataset": "metrics", "timeWindow": 10},
        "Invalid Time Window: Allowed time windows for crash rate alerts are: 30min, 1h, 2h, 4h, 12h and 24h",
    ),
    ({"aggregate": "what"}, "Invalid Metric: Please pass a valid function for aggregation"),
    ({"aggregate": 123}, "Invalid Metric: Please pass a valid function for aggregation"),
]

PARTS: list[tuple[dict[str, JSON], JSON]] = [
    ({"label": "critical"}, {"alertThreshold": REQUIRED}),
    (CRITICAL | {"alertThreshold": None}, {"alertThreshold": NOT_NULL}),
    (CRITICAL | {"alertThreshold": "a", "id": "x"}, {"alertThreshold": ["A valid number is required."], "id": INTEGER}),
    (CRITICAL | {"actions": {}}, {"actions": ['Expected a list of items but got type "dict".']}),
    (
        CRITICAL | {"actions": ["mail"]},
        {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got str."]},
    ),
    (
        CRITICAL | {"actions": [{}]},
        {"type": REQUIRED, "targetType": REQUIRED, "targetIdentifier": REQUIRED},
    ),
]

ACTIONS: list[tuple[dict[str, JSON], JSON]] = [
    ({"type": 50}, {"type": ["Invalid type, valid values are ['email', 'webhook', 'chat']"]}),
    ({"type": "sentry_notification"}, {"type": ["Invalid type, valid values are ['email', 'webhook', 'chat']"]}),
    ({"type": None}, {"type": NOT_NULL}),
    (
        {"targetType": "all"},
        {"targetType": ["Invalid targetType, valid values are [specific, user, team, sentry_app]"]},
    ),
    (
        {"targetType": "specific"},
        {"targetType": ["Invalid target type for email. Valid types are [user,team]"]},
    ),
    ({"type": "webhook"}, {"targetType": ["Invalid target type for webhook. Valid types are [specific]"]}),
    ({"type": "chat"}, {"targetType": ["Invalid target type for chat. Valid types are [specific]"]}),
    ({"type": "slack"}, {"targetType": ["Invalid target type for slack. Valid types are [specific]"]}),
    ({"type": "sentry_app"}, {"targetType": ["Invalid target type for sentry_app. Valid types are [sentry_app]"]}),
    *(
        (
            {"type": product, "targetType": "specific"},
            {"integration": [f"Integration must be provided for {product}"]},
        )
        for product in ("slack", "pagerduty", "msteams", "opsgenie", "discord")
    ),
    (
        {"type": "slack", "targetType": "specific", "integration": 7},
        {"integration": ["Integration does not exist"]},
    ),
    (
        {"type": "sentry_app", "targetType": "sentry_app"},
        {"sentryApp": ["SentryApp must be provided for sentry_app"]},
    ),
    ({"priority": "P1"}, {"priority": ["Can only be set for Pagerduty or Opsgenie"]}),
    (
        {"type": "msteams", "targetType": "specific", "priority": "P1"},
        {"priority": ["Can only be set for Pagerduty or Opsgenie"]},
    ),
    (
        {"type": "pagerduty", "targetType": "specific", "priority": "P1"},
        {"priority": ["Allowed priorities for Pagerduty are ['critical', 'warning', 'error', 'info']"]},
    ),
    (
        {"type": "opsgenie", "targetType": "specific", "priority": "critical"},
        {"priority": ["Allowed priorities for Opsgenie are ['P1', 'P2', 'P3', 'P4', 'P5']"]},
    ),
    (
        {"type": "webhook", "targetType": "specific", "targetIdentifier": "ftp://x.test"},
        {"targetIdentifier": ["Enter a valid URL."]},
    ),
    ({"targetIdentifier": ""}, {"targetIdentifier": ["This field may not be blank."]}),
]


def an_action(**fields: JSON) -> dict[str, JSON]:
    return {"type": "email", "targetType": "team", "targetIdentifier": "21"} | fields


def refusals() -> list[tuple[Any, Any]]:
    """Bodies that make no rule, each with its answer."""
    return [
        *((RULE | fields, wrong) for fields, wrong in WRONG_FIELDS),
        *((RULE | fields, {"nonFieldErrors": [sentence]}) for fields, sentence in WRONG_WHOLES),
        *((RULE | {"triggers": [trigger]}, wrong) for trigger, wrong in PARTS),
        *((RULE | {"triggers": [CRITICAL | {"actions": [an_action(**each)]}]}, wrong) for each, wrong in ACTIONS),
        (
            {},
            dict.fromkeys(("name", "aggregate", "query", "timeWindow", "thresholdType", "triggers"), REQUIRED),
        ),
        ([], {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got list."]}),
        ("rule", {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got str."]}),
        # The project is asked for after everything that can be wrong with the fields, and before their parts.
        ({name: RULE[name] for name in RULE if name != "projects"}, {"projects": REQUIRED}),
        (RULE | {"projects": []}, {"projects": REQUIRED}),
        (RULE | {"projects": [], "triggers": []}, {"nonFieldErrors": ["Must include at least one trigger"]}),
        (RULE | {"projects": [], "name": ""}, {"name": ["This field may not be blank."]}),
        (RULE | {"projects": [], "triggers": [{"label": "critical"}]}, {"projects": REQUIRED}),
    ]


def test_what_makes_no_rule_is_400_and_no_command(gateway: Gateway, ledger: Engine) -> None:
    answers = []
    with gateway.by(Content_Type="application/json") as client:
        for body, _ in refusals():
            answered = client.post(RULES, content=json.dumps(body).encode())
            answers.append((answered.status_code, answered.json()))

    assert answers == [(400, wrong) for _, wrong in refusals()]
    assert accepted(ledger) == 0


LEGAL = [
    {"resolveThreshold": 101},
    {"resolveThreshold": 100, "triggers": [CRITICAL | {"alertThreshold": 100.5}]},
    {"resolveThreshold": 100.5, "triggers": [CRITICAL | {"alertThreshold": 100.5}]},
    {"thresholdType": 1, "resolveThreshold": 99},
    {"triggers": [CRITICAL, WARNING | {"alertThreshold": 100}]},
    {"thresholdType": 1, "comparisonDelta": 60, "triggers": [CRITICAL, WARNING]},
    {"aggregate": "percentage(sessions_crashed, sessions) AS _crash_rate_alert_aggregate"},
    {"query": ""},
]


def test_thresholds_that_share_no_value_are_legal(gateway: Gateway, busy_worker: Worker) -> None:
    assert [gateway.post(RULES, RULE | fields).status_code for fields in LEGAL] == [201] * len(LEGAL)


def test_the_user_of_an_event_is_shown_by_its_short_name(gateway: Gateway, busy_worker: Worker) -> None:
    assert made(gateway, aggregate="count_unique(tags[sentry:user])")["aggregate"] == "count_unique(user)"


def test_a_rule_out_of_data_is_refused_by_the_worker_with_its_bare_body(gateway: Gateway, busy_worker: Worker) -> None:
    telling = [CRITICAL | {"actions": [an_action(targetType="user", targetIdentifier=14)]}]

    answered = gateway.post(RULES, RULE | {"triggers": telling})
    problem = gateway.post(RULES, RULE | {"triggers": telling}, Accept="application/problem+json").json()

    assert (answered.status_code, answered.json()) == (400, ["User does not belong to this organization"])
    assert answered.headers["command-id"]
    assert problem["errors"] == [{"pointer": "#", "detail": "User does not belong to this organization"}]


def test_a_project_of_the_address_goes_before_that_of_the_body(gateway: Gateway, busy_worker: Worker) -> None:
    answered = gateway.post(TWIN, RULE | {"projects": ["p2"], "inProject": "p2", "in_project": "p2"})

    assert (answered.status_code, answered.json()["projects"]) == (201, ["p1"])


def test_no_body_says_which_project_an_address_is_of(gateway: Gateway, busy_worker: Worker) -> None:
    smuggled = {"inProject": "p2", "in_project": "p2"}

    answered = gateway.post(RULES, RULE | smuggled)
    item = {"type": "alert_rule.create", **RULE, **smuggled}
    listed = gateway.post(COMMANDS, {"commands": [item]})

    assert answered.json()["projects"] == ["p1"]
    assert listed.json() == {"commands": {"0": {name: ["Unknown field."] for name in smuggled}}}


# --- changing and deleting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RULES, TWIN])
def test_a_rule_is_changed_and_deleted(gateway: Gateway, busy_worker: Worker, path: str) -> None:
    rule = f"{path}{made(gateway)['id']}/"

    changed = ask(gateway, "PUT", rule, json=RULE | {"name": "Another", "id": 999})
    shown = gateway.get(rule).json()
    deleted = ask(gateway, "DELETE", rule)

    assert (changed.status_code, changed.json()["name"], changed.json()["version"]) == (200, "Another", 2)
    assert {name: shown[name] for name in changed.json()} == changed.json()
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("GET", "PUT", "DELETE"):
        assert ask(gateway, method, rule, json=RULE if method == "PUT" else None).status_code == 404


@pytest.mark.parametrize("name", ["aggregate", "query", "timeWindow", "thresholdType", "triggers"])
def test_a_change_needs_what_is_checked_together(gateway: Gateway, ledger: Engine, acme: Acme, name: str) -> None:
    rule = seed(ledger, acme)

    answered = ask(gateway, "PUT", f"{RULES}{rule}/", json={each: RULE[each] for each in RULE if each != name})

    assert (answered.status_code, answered.json()) == (400, {name: REQUIRED})
    assert accepted(ledger) == 0


def test_a_change_is_checked_like_a_creation(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule = seed(ledger, acme)
    full = {"dataset": "events", "comparisonDelta": None, "resolveThreshold": None}
    wrong = [
        (RULE | full | fields, {"nonFieldErrors": [sentence]})
        for fields, sentence in WRONG_WHOLES
        if not ("queryType" in fields and "dataset" not in fields)
    ]

    answers = [ask(gateway, "PUT", f"{RULES}{rule}/", json=body) for body, _ in wrong]

    assert [(each.status_code, each.json()) for each in answers] == [(400, body) for _, body in wrong]
    assert accepted(ledger) == 0


def test_a_change_honours_what_its_caller_has_read(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{made(gateway)['id']}/"
    tag = gateway.get(rule).headers["etag"]

    first = ask(gateway, "PUT", rule, json=RULE, headers={"If_Match": tag})
    again = [
        ask(gateway, "PUT", rule, json=RULE, headers={"If_Match": tag}),
        ask(gateway, "DELETE", rule, headers={"If_Match": '"1"'}),
    ]
    anyway = ask(gateway, "PUT", rule, json=RULE, headers={"If_Match": "*"})
    malformed = ask(gateway, "DELETE", rule, headers={"If_Match": "1"})
    deleted = ask(gateway, "DELETE", rule, headers={"If_Match": '"3"'})

    assert [(each.status_code, each.json()) for each in again] == [(412, STALE)] * 2
    assert [each.status_code for each in (first, anyway, malformed, deleted)] == [200, 200, 400, 204]


def test_of_changes_at_once_that_read_the_same_one_is_applied(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{made(gateway)['id']}/"
    body = RULE | {"name": "Mine"}

    answers = gateway.at_once(8, lambda: ask(gateway, "PUT", rule, json=body, headers={"If_Match": '"1"'}))

    assert sorted(each.status_code for each in answers) == [200, *[412] * 7]
    assert gateway.get(rule).json()["version"] == 2


def test_a_repeated_request_with_a_key_changes_a_rule_once(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{made(gateway)['id']}/"
    answers = [ask(gateway, "PUT", rule, json=RULE, headers={"Idempotency_Key": "once"}) for _ in range(2)]

    assert [each.json()["version"] for each in answers] == [2, 2]
    assert answers[1].headers["idempotent-replayed"] == "true"


# --- who and where ----------------------------------------------------------------------------------------------

WRITES = [("PUT", RULE), ("PUT", {}), ("DELETE", None)]


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("path", ["abc", "²", "0", "99999", "999999999999999999999", "1.0", "%00"])
def test_what_is_no_rule_is_404(gateway: Gateway, busy_worker: Worker, method: str, body: Any, path: str) -> None:
    for root in (RULES, TWIN):
        answered = ask(gateway, method, f"{root}{path}/", json=body)
        assert (answered.status_code, answered.json()) == (404, MISSING)
        assert gateway.get(f"{root}{path}/").status_code == 404


def test_a_rule_is_known_by_its_id_however_that_is_written(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule = seed(ledger, acme)

    assert gateway.get(f"{RULES}00{rule}/").json()["id"] == str(rule)


def test_every_address_asks_for_scope_plan_rule_and_project(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    here = seed(ledger, acme)
    closed = seed(ledger, acme, "c1", organization="closed")
    plain = seed(ledger, acme, "n1", organization="plain")

    def answers(organization: str, project: str, rule: Any, by: str | None = "dev-mem") -> list[int]:
        roots = (f"/api/0/organizations/{organization}", f"/api/0/projects/{organization}/{project}")
        requests = [
            *((method, body) for method, body in WRITES),
            ("GET", None),
        ]
        return [
            ask(gateway, method, f"{root}/alert-rules/{rule}/", by=by, json=body).status_code
            for root in roots
            for method, body in requests
        ]

    assert answers("acme", "p1", here, by="dev-out") == [403] * 8
    assert answers("acme", "p1", here, by=None) == [401] * 8
    assert answers("closed", "c1", closed) == [403] * 8
    assert answers("closed", "c1", here) == [404] * 8
    # A plan that lost the feature: what there is may be deleted, and nothing else.
    assert answers("plain", "n1", 99999) == [404] * 8
    assert answers("plain", "n1", plain) == [404, 404, 204, 404, 404, 404, 404, 404]
    assert answers("acme", "p2", here)[4:] == [404] * 4
    assert answers("acme", "nowhere", here)[4:] == [404] * 4
    assert answers("acme", "old", here)[4:] == [404] * 4


@pytest.mark.parametrize("root", ["/api/0/organizations/plain", "/api/0/projects/plain/n1"])
def test_a_lapsed_plan_may_delete_a_rule_by_either_address(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme, root: str
) -> None:
    rule = seed(ledger, acme, "n1", organization="plain")

    deleted = ask(gateway, "DELETE", f"{root}/alert-rules/{rule}/")
    listed = ask(gateway, "GET", f"{root}/alert-rules/")
    created = ask(gateway, "POST", f"{root}/alert-rules/", json=RULE | {"projects": ["n1"]})

    assert [each.status_code for each in (deleted, listed, created)] == [204, 404, 404]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/0/projects/acme/nowhere/alert-rules/", RULE, 404),
        ("/api/0/projects/acme/nowhere/alert-rules/", {}, 404),
        ("/api/0/projects/acme/old/alert-rules/", {}, 404),
        ("/api/0/projects/acme/%00/alert-rules/", RULE, 404),
        ("/api/0/projects/acme/%20p1/alert-rules/", RULE, 404),
        ("/api/0/projects/closed/c1/alert-rules/", RULE, 403),
        ("/api/0/projects/closed/c1/alert-rules/", {}, 403),
    ],
)
def test_a_twin_asks_for_its_project(gateway: Gateway, busy_worker: Worker, path: str, body: JSON, status: int) -> None:
    assert gateway.post(path, body).status_code == status
    assert gateway.get(path).status_code == status


@pytest.mark.parametrize(
    ("token", "scopes", "statuses"),
    [
        # GET and POST on the organization's list, then on its project's.
        ("dev-own", ["org:read"], [200, 403, 403, 403]),
        ("dev-own", ["alerts:read"], [200, 403, 200, 403]),
        ("dev-own", ["alerts:write"], [200, 400, 200, 400]),
        ("dev-own", ["project:read"], [403, 403, 200, 403]),
        ("dev-own", ["project:admin"], [403, 403, 200, 400]),
        ("dev-own", ["org:admin"], [200, 400, 403, 403]),
        ("dev-key", ["alerts:write", "project:read"], [200, 403, 200, 403]),
        ("dev-bot", ["alerts:write"], [200, 403, 200, 403]),
    ],
)
def test_each_address_has_scopes_of_its_own(
    gateway: Gateway, ledger: Engine, acme: Acme, token: str, scopes: list[str], statuses: list[int]
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = %s WHERE id = %s", (scopes, acme.tokens[token]))

    answers = [
        ask(gateway, method, path, by=token, json={} if method == "POST" else None).status_code
        for path in (RULES, TWIN)
        for method in ("GET", "POST")
    ]

    assert answers == statuses


def test_a_method_that_an_address_does_not_know_is_405(gateway: Gateway) -> None:
    assert [ask(gateway, "PUT", RULES).status_code, ask(gateway, "POST", f"{RULES}1/").status_code] == [405, 405]


def test_every_command_about_a_rule_is_an_item_too(gateway: Gateway, busy_worker: Worker) -> None:
    rule = made(gateway)
    named = {"alertRule": rule["id"], "trigger": rule["triggers"][0]["id"]}
    body = {name: RULE[name] for name in RULE if name != "projects"}
    items = [
        {"type": "alert_rule.update", "alertRule": rule["id"], **body},
        {"type": "trigger.create", "alert_rule": rule["id"], **WARNING},
        {"type": "trigger_action.create", **named, "action": an_action()},
        {"type": "alert_rule.snooze", "alertRule": rule["id"], "target": "everyone"},
        {"type": "alert_rule.unsnooze", "alertRule": rule["id"]},
        {"type": "alert_rule.delete", "alertRule": rule["id"]},
        {"type": "alert_rule.delete", "alertRule": "none"},
    ]

    answered = gateway.post(COMMANDS, {"commands": items}, Prefer="wait=20")

    ends = [(each["status"], each["outcome"]["status"]) for each in answered.json()["commands"]]
    # The update took its trigger for a new one, so the old one cannot be told to tell anybody.
    assert ends == [
        ("applied", 200),
        ("applied", 201),
        ("rejected", 404),
        ("applied", 201),
        ("applied", 204),
        ("applied", 204),
        ("rejected", 404),
    ]


def test_unknown_fields_of_an_item_are_errors_in_its_parts_too(gateway: Gateway, ledger: Engine) -> None:
    items = [
        {"type": "alert_rule.create", **RULE, "snubaQuery": 1},
        {"type": "alert_rule.create", **RULE, "triggers": [CRITICAL | {"dateCreated": "x", "alert_rule_id": 1}]},
        {"type": "trigger_action.create", "alertRule": 1, "trigger": 1, "action": an_action(desc="x")},
        {"type": "trigger.create", "alertRule": 1, **CRITICAL, "actions": [an_action(desc="x")]},
    ]

    answered = gateway.post(COMMANDS, {"commands": items})

    unknown = ["Unknown field."]
    assert answered.json() == {
        "commands": {
            "0": {"snubaQuery": unknown},
            "1": {"dateCreated": unknown, "alertRuleId": unknown},
            "2": {"desc": unknown},
            "3": {"desc": unknown},
        }
    }
    assert accepted(ledger) == 0


def test_an_item_needs_the_scopes_of_its_own_route(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{org:write}' WHERE id = %s", (acme.tokens["dev-own"],))
    deletion = {"type": "alert_rule.delete", "alertRule": 1}
    silence = {"type": "alert_rule.snooze", "alertRule": 1, "target": "me"}

    answers = [gateway.post(COMMANDS, {"commands": [each]}, by="dev-own").status_code for each in (deletion, silence)]

    assert answers == [202, 403]


def test_in_bulk_a_lapsed_plan_may_delete_and_nothing_else(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    rule = seed(ledger, acme, "n1", organization="plain")
    path = "/api/0/organizations/plain/commands/"
    deletion = {"type": "alert_rule.delete", "alertRule": rule}
    silence = {"type": "alert_rule.snooze", "alertRule": rule, "target": "me"}

    refused = gateway.post(path, {"commands": [deletion, silence]})
    done = gateway.post(path, {"commands": [deletion]}, Prefer="wait=20")

    assert (refused.status_code, done.status_code) == (404, 200)
    assert done.json()["commands"][0]["outcome"] == {"status": 204, "body": None}


# --- reading ----------------------------------------------------------------------------------------------------


def ids(answered: httpx.Response) -> list[int]:
    assert answered.status_code == 200, answered.text
    return [int(each["id"]) for each in answered.json()]


def test_rules_are_listed_the_youngest_first_and_counted(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rules = [seed(ledger, acme, date_added=NOW + timedelta(minutes=n % 3)) for n in range(5)]
    seed(ledger, acme, status=4)
    seed(ledger, acme, "c1", organization="closed")

    answered = gateway.get(RULES)

    assert ids(answered) == [rules[2], rules[4], rules[1], rules[3], rules[0]]
    assert answered.headers["x-sentry-alert-rule-hits"] == "5"
    assert answered.headers["x-sentry-alert-rule-limit"] == "1000"
    assert "snooze" not in answered.json()[0]
    assert ids(gateway.get(TWIN)) == ids(answered)


def test_rules_are_read_page_by_page(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rules = [seed(ledger, acme) for _ in range(27)]

    first = gateway.get(RULES)
    second = httpx.get(first.links["next"]["url"], headers={"Authorization": "Bearer dev-mem"})
    back = httpx.get(second.links["previous"]["url"], headers={"Authorization": "Bearer dev-mem"})

    assert (ids(first), ids(second)) == (rules[:1:-1], rules[1::-1])
    assert first.links["next"]["results"] == "true"
    assert second.links["next"]["results"] == "false"
    assert ids(back) == ids(first)
    assert {each.headers["x-sentry-alert-rule-hits"] for each in (first, second)} == {"27"}


def test_a_list_is_of_the_callers_teams_or_of_the_projects_named(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    one, two = seed(ledger, acme), seed(ledger, acme, "p2")
    p1, p2 = acme.projects["acme", "p1"], acme.projects["acme", "p2"]

    assert ids(gateway.get(RULES)) == [one]
    assert ids(gateway.get(RULES, by="dev-own")) == []
    assert ids(gateway.get(f"{RULES}?project=-1")) == [two, one]
    assert ids(gateway.get(f"{RULES}?project={p2}")) == [two]
    assert ids(gateway.get(f"{RULES}?project={p1}&project={p2}")) == [two, one]
    assert ids(gateway.get(f"{RULES}?projectSlug=p2&project=x")) == [two]
    assert gateway.get(f"{RULES}?project=99999").status_code == 403
    assert gateway.get(f"{RULES}?project=x").json() == {"detail": "Invalid project parameter. Values must be numbers."}
    assert gateway.get(f"{RULES}?project=99999").headers.get("x-sentry-alert-rule-hits") is None


def test_a_list_can_be_of_one_kind_of_monitor(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    continuous, activated = seed(ledger, acme), seed(ledger, acme, monitor_type=1)

    assert ids(gateway.get(f"{RULES}?monitor_type=0")) == [continuous]
    assert ids(gateway.get(f"{RULES}?monitor_type=1")) == [activated]
    assert ids(gateway.get(f"{RULES}?monitor_type=99999999999999999999")) == []
    assert gateway.get(f"{TWIN}?monitor_type=1").headers["x-sentry-alert-rule-hits"] == "1"
    assert gateway.get(f"{RULES}?monitor_type=x").json() == {
        "detail": "Invalid monitor_type parameter. The value must be a number."
    }


def test_without_performance_only_rules_on_events_are_listed_and_all_are_read(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    errors = seed(ledger, acme)
    others = [seed(ledger, acme, dataset=dataset) for dataset in ("transactions", "metrics")]
    without = [gateway.get(path) for path in (RULES, TWIN)]
    shown = [gateway.get(f"{RULES}{rule}/").status_code for rule in others]
    grant(ledger, "organizations:incidents", "organizations:performance-view")

    granted = gateway.get(RULES)

    assert [ids(each) for each in without] == [[errors]] * 2
    assert without[0].headers["x-sentry-alert-rule-hits"] == "1"
    assert shown == [200, 200]
    assert (ids(granted), granted.headers["x-sentry-alert-rule-hits"]) == ([*reversed(others), errors], "3")


def test_a_rule_is_read_again_only_when_it_has_changed(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{made(gateway)['id']}/"
    first = gateway.get(rule)

    same = gateway.get(rule, If_None_Match=first.headers["etag"])
    ask(gateway, "PUT", rule, json=RULE)
    other = gateway.get(rule, If_None_Match=first.headers["etag"])

    assert re.fullmatch(r'"1-[0-9a-f]{16}"', first.headers["etag"])
    assert (same.status_code, same.content, other.status_code) == (304, b"", 200)
    assert other.headers["etag"].startswith('"2-')


def test_the_last_thing_that_a_rule_found_is_shown_to_those_who_ask(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    rule, other = seed(ledger, acme, generation=2), seed(ledger, acme)
    with ledger.begin() as connection:
        for number, generation in ((71, 2), (72, 2), (73, 1)):
            an_incident(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", "p1"]],
                identifier=number,
                alert_rule_id=rule,
                alert_rule_generation=generation,
            )
        connection.exec_driver_sql(
            "INSERT INTO alert_rule_generations (rule_id, generation, definition, date_modified)"
            " SELECT id, 1, definition, date_modified FROM alert_rules WHERE id = %s",
            (rule,),
        )

    details = gateway.get(f"{RULES}{rule}/?expand=latestIncident").json()
    listed = gateway.get(f"{RULES}?expand=latestIncident").json()

    incident = details["latestIncident"]
    assert (incident["identifier"], incident["projects"]) == ("72", ["p1"])
    assert (incident["alertRule"]["id"], incident["alertRule"]["status"]) == (str(rule), 0)
    assert {each["id"]: each["latestIncident"] for each in listed} == {str(rule): incident, str(other): None}
    assert "latestIncident" not in gateway.get(f"{RULES}{rule}/").json()


def test_what_an_incident_says_of_its_rule_is_what_the_rule_said_then(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    rule = seed(ledger, acme, name="Before")
    with ledger.begin() as connection:
        an_incident(
            connection,
            acme.organizations["acme"],
            projects=[acme.projects["acme", "p1"]],
            identifier=71,
            status=2,
            alert_rule_id=rule,
            alert_rule_generation=1,
        )
    incident = f"{ACME}/incidents/71/"
    before = gateway.get(incident).json()["alertRule"]
    ask(gateway, "PUT", f"{RULES}{rule}/", json=RULE | {"name": "After"})
    after = gateway.get(incident).json()["alertRule"]
    ask(gateway, "DELETE", f"{RULES}{rule}/")
    gone = gateway.get(incident).json()["alertRule"]

    told = [(each["name"], each["status"], each["originalAlertRuleId"]) for each in (before, after, gone)]
    assert told == [("Before", 0, None), ("Before", 4, rule), ("Before", 4, rule)]


def test_what_actions_can_be_is_told(gateway: Gateway, ledger: Engine) -> None:
    answered = gateway.get(f"{RULES}available-actions/")
    closed = gateway.get("/api/0/organizations/plain/alert-rules/available-actions/")

    assert answered.json() == [
        {"type": "email", "allowedTargetTypes": ["user", "team"]},
        {"type": "webhook", "allowedTargetTypes": ["specific"]},
        {"type": "chat", "allowedTargetTypes": ["specific"]},
    ]
    assert closed.status_code == 404
    assert gateway.get(f"{RULES}available-actions/", by="dev-mem-alerts").status_code == 403
    assert ask(gateway, "POST", f"{RULES}available-actions/").status_code == 405


def test_silence_shows_to_those_whom_it_concerns(gateway: Gateway, busy_worker: Worker) -> None:
    rule = made(gateway)["id"]
    snooze = f"{TWIN}{rule}/snooze/"

    def facts(by: str) -> dict[str, JSON]:
        shown = gateway.get(f"{RULES}{rule}/", by=by).json()
        return {name: shown[name] for name in shown if name.startswith("snooze")}

    gateway.post(snooze, {"target": "me"})
    assert facts("dev-mem") == {"snooze": True, "snoozeForEveryone": False, "snoozeCreatedBy": "You"}
    assert facts("dev-ana") == {"snooze": False}
    assert gateway.get(RULES).json()[0]["snooze"] is True
    assert "snooze" not in gateway.get(RULES, by="dev-ana").json()[0]
    gateway.post(snooze, {"target": "everyone"}, by="dev-ben")
    for by in ("dev-mem", "dev-ana"):
        assert facts(by) == {"snooze": True, "snoozeForEveryone": True, "snoozeCreatedBy": "Ben"}
