"""Invalid alert rule bodies, each with the errors in its refusal."""

from __future__ import annotations

from typing import Any

from models.types import JSON
from tests.http.alert_rule_requests import (
    INTEGER,
    NOT_NULL,
    REQUIRED,
)
from tests.rule_bodies import CRITICAL, RULE, WARNING

INVALID_FIELDS: list[tuple[dict[str, Any], Any]] = [
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

INCONSISTENT_FIELDS: list[tuple[dict[str, Any], str]] = [
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
        # Compared with the past, "10 below" is closer than "50 below".
        {"thresholdType": 1, "comparisonDelta": 60, "triggers": [CRITICAL | {"alertThreshold": 10}, WARNING]},
        "Critical trigger must have an alert threshold below warning trigger",
    ),
    (
        {"thresholdType": 1, "comparisonDelta": 60, "triggers": [CRITICAL | {"alertThreshold": 150}]},
        "critical alert threshold can never be reached: no value is more than 100 % lower than another",
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

INVALID_TRIGGERS: list[tuple[dict[str, JSON], JSON]] = [
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

INVALID_ACTIONS: list[tuple[dict[str, JSON], JSON]] = [
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


def invalid_bodies() -> list[tuple[Any, Any]]:
    """Return the invalid bodies, each with the body of the 400 response to it."""
    return [
        *((RULE | fields, errors) for fields, errors in INVALID_FIELDS),
        *((RULE | fields, {"nonFieldErrors": [message]}) for fields, message in INCONSISTENT_FIELDS),
        *((RULE | {"triggers": [trigger]}, errors) for trigger, errors in INVALID_TRIGGERS),
        *(
            (RULE | {"triggers": [CRITICAL | {"actions": [an_action(**each)]}]}, errors)
            for each, errors in INVALID_ACTIONS
        ),
        (
            {},
            dict.fromkeys(("name", "aggregate", "query", "timeWindow", "thresholdType", "triggers"), REQUIRED),
        ),
        ([], {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got list."]}),
        ("rule", {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got str."]}),
        # The project is required after the fields have been validated and before the triggers are.
        ({name: RULE[name] for name in RULE if name != "projects"}, {"projects": REQUIRED}),
        (RULE | {"projects": []}, {"projects": REQUIRED}),
        (RULE | {"projects": [], "triggers": []}, {"nonFieldErrors": ["Must include at least one trigger"]}),
        (RULE | {"projects": [], "name": ""}, {"name": ["This field may not be blank."]}),
        (RULE | {"projects": [], "triggers": [{"label": "critical"}]}, {"projects": REQUIRED}),
    ]
