"""Webhook payloads from a real Alertmanager (Debian's 0.25), grouped by alertname and project.

Only the Alertmanager's URL in them is made up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

_SENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())

FIRING, ESCALATED, PARTLY_RESOLVED, RESOLVED, GROUPED_BY_ALL_LABELS, WITHOUT_PROJECT, WITHOUT_NAME = ALL = tuple(_SENT)
"""Names of the payloads. The first four follow one alert group from firing to resolved, in order."""

GROUP_KEY: Final = '{}:{alertname="HighLatency", project="p1"}'
"""The ``groupKey`` of the first four payloads."""


def payload(name: str = FIRING, **changed: Any) -> dict[str, Any]:
    """Return a payload with the fields of `changed` replaced."""
    return {**copy.deepcopy(_SENT[name]), **changed}


def payload_without(name: str, *fields: str) -> dict[str, Any]:
    """Return a payload without the named fields."""
    return {field: value for field, value in payload(name).items() if field not in fields}
