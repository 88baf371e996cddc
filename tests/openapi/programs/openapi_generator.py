"""The calls with a client from openapi-generator. Prints what came of them as JSON."""

import json
import sys
import time
from datetime import UTC, datetime

from generated_client import (
    ActionBody,
    Alert,
    AlertGroup,
    AlertRulesApi,
    ApiClient,
    CommandItem,
    CommandRequest,
    CommandsApi,
    Configuration,
    CreateRule,
    IncidentsApi,
    IntegrationsApi,
    Notification,
    NotificationsApi,
    ObserveMetric,
    OpenIncident,
    PostComment,
    PostCommentItem,
    ReadNotifications,
    SetStatus,
    SetStatusItem,
    TriggerBody,
)
from generated_client.exceptions import NotFoundException

url, name = sys.argv[1:]
acme = "acme"


def as_caller(token: str) -> ApiClient:
    return ApiClient(Configuration(host=url, access_token=token))


def wait_for_item(inbox: NotificationsApi, text: str) -> Notification:
    for _ in range(300):
        if items := [each for each in inbox.list_notifications(acme, unread="1") if each.text == text]:
            return items[0]
        time.sleep(0.2)
    raise TimeoutError(text)


ben = as_caller("dev-ben")
incidents, rules, inbox = IncidentsApi(ben), AlertRulesApi(ben), NotificationsApi(as_caller("dev-ana"))

incident = incidents.open_incident(acme, OpenIncident(title=f"Opened with {name}", projects=["p1"]))
number = incident.identifier
comment = incidents.post_comment(
    acme, number, PostComment(comment=f"Hello from {name}", mentions=["ana"]), idempotency_key=f"{name}-1"
)

posted = PostCommentItem(type="comment.post", incident=number, comment="In bulk")
changed = SetStatusItem(type="incident.set_status", incident=number, status=20)
bulk = CommandsApi(ben).submit_commands(
    acme, CommandRequest(commands=[CommandItem(posted), CommandItem(changed)]), prefer="wait=30"
)

incidents.mark_seen(acme, number)
closed = incidents.close_incident(acme, number, SetStatus(status=2))

action = ActionBody(type="email", targetType="user", targetIdentifier="12")
rule = rules.create_rule(
    acme,
    CreateRule(
        name=f"Rule of {name}",
        aggregate="count()",
        query="",
        timeWindow=10,
        thresholdType=0,
        projects=["p1"],
        triggers=[TriggerBody(label="critical", alertThreshold=100, actions=[action])],
    ),
)
observed = rules.observe_metric(acme, rule.id, ObserveMetric(project="p1", value=101.5, timestamp=datetime.now(UTC)))

item = wait_for_item(inbox, f"Hello from {name}")
read = inbox.read_notifications(acme, ReadNotifications(ids=[item.id]))

group = AlertGroup(
    version="4",
    groupKey="{}:{}",
    status="firing",
    commonLabels={"alertname": "Disk", "project": "p1", "severity": "critical"},
    alerts=[Alert(status="firing", startsAt=datetime.now(UTC))],
)
alerts = IntegrationsApi(as_caller("dev-alertmanager")).receive_alerts(acme, group, source=name)

try:
    incidents.read_incident(acme, "999999")
    refused = ""
except NotFoundException as error:
    refused = str(getattr(error.data, "detail", error.data))
result = {
    "incident": number,
    "comment": comment.comment,
    "bulk": [each.status for each in bulk.commands],
    "status": closed.status,
    "fired": observed.fired,
    "read": read.read,
    "alerts": [each.type for each in alerts.commands],
    "refused": refused,
}
print(json.dumps(result))  # noqa: T201
