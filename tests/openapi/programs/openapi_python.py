"""The calls with a client from openapi-python-client. Prints what came of them as JSON."""

import json
import sys
import time
from datetime import UTC, datetime

from httpx import Timeout
from tocsin_http_api_client import AuthenticatedClient
from tocsin_http_api_client.api.alert_rules import create_rule, observe_metric
from tocsin_http_api_client.api.commands import submit_commands
from tocsin_http_api_client.api.incidents import close_incident, mark_seen, open_incident, post_comment, read_incident
from tocsin_http_api_client.api.integrations import receive_alerts
from tocsin_http_api_client.api.notifications import list_notifications, read_notifications
from tocsin_http_api_client.models import (
    ActionBody,
    ActionBodyTargetType,
    ActionBodyType,
    Activity,
    Alert,
    AlertGroup,
    AlertGroupCommonLabels,
    AlertGroupStatus,
    AlertRule,
    AlertStatus,
    CommandList,
    CommandRequest,
    CreateRule,
    CreateRuleThresholdType,
    Error,
    IncidentDetails,
    ListNotificationsUnread,
    Notification,
    Observed,
    ObserveMetric,
    OpenIncident,
    PostComment,
    PostCommentItem,
    ReadCount,
    ReadNotifications,
    SetStatus,
    SetStatusItem,
    SetStatusItemStatus,
    SetStatusStatus,
    TriggerBody,
    TriggerBodyLabel,
)

url, name = sys.argv[1:]
acme = "acme"


def as_caller(token: str) -> AuthenticatedClient:
    return AuthenticatedClient(url, token, timeout=Timeout(60))


def wait_for_item(client: AuthenticatedClient, text: str) -> Notification:
    for _ in range(300):
        found = list_notifications.sync(acme, client=client, unread=ListNotificationsUnread.TRUE)
        assert isinstance(found, list), found
        if items := [each for each in found if isinstance(each, Notification) and each.text == text]:
            return items[0]
        time.sleep(0.2)
    raise TimeoutError(text)


ben, ana, alertmanager = map(as_caller, ("dev-ben", "dev-ana", "dev-alertmanager"))

incident = open_incident.sync(acme, client=ben, body=OpenIncident(title=f"Opened with {name}", projects=["p1"]))
assert isinstance(incident, IncidentDetails), incident
number = incident.identifier
body = PostComment(comment=f"Hello from {name}", mentions=["ana"])
comment = post_comment.sync(acme, number, client=ben, body=body, idempotency_key=f"{name}-1")
assert isinstance(comment, Activity), comment

commands = CommandRequest(
    commands=[
        PostCommentItem(type_="comment.post", incident=number, comment="In bulk"),
        SetStatusItem(type_="incident.set_status", incident=number, status=SetStatusItemStatus.VALUE_20),
    ]
)
bulk = submit_commands.sync(acme, client=ben, body=commands, prefer="wait=30")
assert isinstance(bulk, CommandList), bulk

mark_seen.sync(acme, number, client=ben)
closed = close_incident.sync(acme, number, client=ben, body=SetStatus(status=SetStatusStatus.VALUE_2))
assert isinstance(closed, IncidentDetails), closed

action = ActionBody(type_=ActionBodyType.EMAIL, target_type=ActionBodyTargetType.USER, target_identifier="12")
rule = create_rule.sync(
    acme,
    client=ben,
    body=CreateRule(
        name=f"Rule of {name}",
        aggregate="count()",
        query="",
        time_window=10,
        threshold_type=CreateRuleThresholdType.VALUE_0,
        projects=["p1"],
        triggers=[TriggerBody(label=TriggerBodyLabel.CRITICAL, alert_threshold=100, actions=[action])],
    ),
)
assert isinstance(rule, AlertRule), rule
value = ObserveMetric(project="p1", value=101.5, timestamp=datetime.now(UTC))
observed = observe_metric.sync(acme, rule.id, client=ben, body=value)
assert isinstance(observed, Observed), observed

item = wait_for_item(ana, f"Hello from {name}")
read = read_notifications.sync(acme, client=ana, body=ReadNotifications(ids=[item.id]))
assert isinstance(read, ReadCount), read

group = AlertGroup(
    version="4",
    group_key="{}:{}",
    status=AlertGroupStatus.FIRING,
    common_labels=AlertGroupCommonLabels.from_dict({"alertname": "Disk", "project": "p1", "severity": "critical"}),
    alerts=[Alert(status=AlertStatus.FIRING, starts_at=datetime.now(UTC))],
)
alerts = receive_alerts.sync(acme, client=alertmanager, body=group, source=name)
assert isinstance(alerts, CommandList), alerts

refused = read_incident.sync(acme, "999999", client=ben)
assert isinstance(refused, Error), refused
result = {
    "incident": number,
    "comment": comment.comment,
    "bulk": [each.status for each in bulk.commands],
    "status": closed.status,
    "fired": observed.fired,
    "read": read.read,
    "alerts": [each.type_ for each in alerts.commands],
    "refused": refused.detail,
}
print(json.dumps(result))  # noqa: T201
