"""The parser that turns a webhook request from Prometheus Alertmanager or from Grafana into a command.

Alertmanager sends version 4 of the format. Grafana's own Alertmanager sends the same fields and more, as version 1.

One request holds one group: alerts that a route in Alertmanager has grouped by its ``group_by`` labels. Each group has
one incident, which is identified by ``groupKey``. A group is firing as long as any of its alerts is firing. The most
severe firing alert decides the severity. If the alerts do not all have the same value for another label, the first
firing alert's value is used. Only what is used is validated: the rest may be of any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, FailFast, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from gateway.http.parsing import BODY_LIMIT_BYTES
from models.enums import AlertState
from models.refusals import FIELD_NOT_NULL, BodyTooLarge, InvalidFields
from models.types import JSON
from tasks.commands.alertmanager import AlertStart, ReceiveAlerts
from tasks.commands.fields import (
    NOT_A_STRING,
    AlertStateField,
    TextField,
    check_each,
    errors_by_field,
    field_error,
    identifier,
    int_if_integral,
    non_empty_array,
    not_an_object,
    storable,
    text,
)

VERSIONS: Final = ("4", "1")
"""The versions of the format: Alertmanager's and Grafana's."""

UNKNOWN_VERSION: Final = "Only version 4, of Alertmanager, and version 1, of Grafana, are understood."

_RANKS: Final = {"warning": 1, "critical": 2}
"""The severities that have a status of their own, in ascending order."""

DEFAULT_TITLE: Final = "Alert"
"""The title of an incident whose alerts have no summary and no name."""

_GROUP_FIELDS: Final = frozenset(
    {"version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels", "commonAnnotations"}
    | {"externalURL", "alerts", "notification_reason"}
    # Grafana's.
    | {"orgId", "title", "state", "message"}
)
_ALERT_FIELDS: Final = frozenset(
    {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
    # Grafana's.
    | {"silenceURL", "dashboardURL", "panelURL", "imageURL", "values", "valueString", "orgId"}
)


def parse_alert_group(
    body: Mapping[str, JSON],
    *,
    source: str | None = None,
    default_project: str | None = None,
    stale_seconds: int | None = None,
) -> ReceiveAlerts | None:
    """Return the command for a request body of Alertmanager or Grafana.

    Return ``None`` if the body says that the group is resolved but omits some of its alerts, which may be firing.

    :param source: a name that keeps the groups of several Alertmanagers apart. It becomes the beginning of the key.
    :param default_project: the slug of the project for alerts that name none, or an unknown one.
    :param stale_seconds: how long after the last notification of the group its incident is closed, if at all.
    :raises InvalidFields: if the body is not valid in its version of the format. The exception lists the errors by
        field. If several alerts are invalid, it lists only the first one. Fields that are not used may have any value.
    :raises BodyTooLarge: if the command exceeds the size limit for a single command.
    """
    try:
        group = _Group.model_validate(body)
        command = ReceiveAlerts.model_validate(
            {
                "dedupKey": f"{source}:{group.key}" if source else group.key,
                "state": AlertState.FIRING if group.firing else AlertState.RESOLVED,
                "title": group.title,
                "project": group.label("project"),
                "defaultProject": default_project or None,
                "severity": group.severity,
                "startsAt": group.started_at,
                "lastStartsAt": group.last_started_at,
                "staleSeconds": stale_seconds,
            }
        )
    except ValidationError as error:
        raise InvalidFields(errors_by_field(error)) from None
    if len(command.model_dump_json().encode()) > BODY_LIMIT_BYTES:
        raise BodyTooLarge(BODY_LIMIT_BYTES)
    return None if group.truncated and not group.firing else command


def unknown_fields(body: Mapping[str, JSON]) -> list[str]:
    """Return the paths of the fields in a request body that Alertmanager does not send."""
    alerts = body.get("alerts")
    return [name for name in body if name not in _GROUP_FIELDS] + [
        f"alerts/{index}/{name}"
        for index, alert in enumerate(alerts if isinstance(alerts, list) else [])
        if isinstance(alert, dict)
        for name in alert
        if name not in _ALERT_FIELDS
    ]


# --- the request body ------------------------------------------------------------------------------------------


def _version(value: JSON) -> str:
    version = text(value)
    if version not in VERSIONS:
        raise field_error(UNKNOWN_VERSION)
    return version


_USED_LABELS: Final = frozenset({"project", "severity", "alertname"})


def _labels(*used: str) -> Callable[[JSON], dict[str, str]]:
    """Return a validator for labels or annotations, of which only those named ``used`` are checked and kept."""

    def check(value: JSON) -> dict[str, str]:
        labels = _object({} if value is None else value)
        return check_each({name: labels[name] for name in used if name in labels}, _label)

    return check


def _label(value: JSON) -> str:
    if not isinstance(value, str):
        raise field_error(NOT_A_STRING)
    return storable(value)


def _group_labels(value: JSON) -> dict[str, str]:
    """Keep the labels that a title can show. They have no other use, so all others are ignored."""
    labels = value if isinstance(value, dict) else {}
    return {name: each for name, each in labels.items() if isinstance(each, str) and _is_storable(name + each)}


def _is_storable(value: str) -> bool:
    try:
        storable(value)
    except PydanticCustomError:
        return False
    return True


def _truncated(value: JSON) -> int:
    return identifier(int_if_integral(value)) or 0


def _object(value: JSON) -> dict[str, JSON]:
    if value is None:
        raise field_error(FIELD_NOT_NULL)
    if not isinstance(value, dict):
        raise field_error(not_an_object(value))
    return value


_Labels = Annotated[dict[str, str], PlainValidator(_labels(*sorted(_USED_LABELS)))]


class _Alert(BaseModel):
    # Programs that imitate Alertmanager leave it out; then the group's status counts.
    status: AlertStateField | None = None
    labels: _Labels = Field(default_factory=dict)
    starts_at: AlertStart = Field(default=None, alias="startsAt")


class _Group(BaseModel):
    version: Annotated[str, BeforeValidator(_version)]
    key: TextField = Field(alias="groupKey")
    status: AlertStateField
    truncated: Annotated[int, PlainValidator(_truncated)] = Field(default=0, alias="truncatedAlerts")
    group_labels: Annotated[dict[str, str], PlainValidator(_group_labels)] = Field(
        default_factory=dict, alias="groupLabels"
    )
    common_labels: _Labels = Field(default_factory=dict, alias="commonLabels")
    common_annotations: Annotated[dict[str, str], PlainValidator(_labels("summary"))] = Field(
        default_factory=dict, alias="commonAnnotations"
    )
    # A body may hold thousands of alerts, so validation stops at the first invalid one.
    alerts: Annotated[list[Annotated[_Alert, BeforeValidator(_object)]], FailFast(), BeforeValidator(non_empty_array)]

    @cached_property
    def firing(self) -> list[_Alert]:
        if self.status is AlertState.RESOLVED:
            return []
        return [alert for alert in self.alerts if (alert.status or self.status) is AlertState.FIRING]

    @property
    def started_at(self) -> str | None:
        first = min((alert.starts_at for alert in self.firing if alert.starts_at is not None), default=None)
        return None if first is None else first.isoformat()

    @property
    def last_started_at(self) -> str | None:
        """When the last firing alert started, or ``None`` if that is unknown for any of them."""
        starts = [alert.starts_at for alert in self.firing]
        known = [start for start in starts if start is not None]
        return max(known).isoformat() if known and len(known) == len(starts) else None

    @property
    def severity(self) -> str | None:
        """The severity that most of all demands attention, among those of the firing alerts."""
        common = self.common_labels.get("severity", "")
        severities = [common.strip() or alert.labels.get("severity", "") for alert in self.firing] or [common]
        named = [severity.strip().lower() for severity in severities if severity.strip()]
        return max(named, key=lambda each: _RANKS.get(each, 0), default=None)

    @property
    def title(self) -> str:
        summary = self.common_annotations.get("summary", "").strip()
        return " ".join((summary or self._name()).split())

    def _name(self) -> str:
        name = self.label("alertname") or DEFAULT_TITLE
        others = [f"{label}={value}" for label, value in sorted(self.group_labels.items()) if label != "alertname"]
        return f"{name} ({', '.join(others)})" if others else name

    def label(self, name: str) -> str | None:
        first = self.firing[0].labels if self.firing else {}
        return self.common_labels.get(name, first.get(name, "")).strip() or None
