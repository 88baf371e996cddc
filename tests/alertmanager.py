"""What a real Alertmanager sent: Debian's 0.25, grouping by alertname and project; its own address is made up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

_SENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())

FIRING, ESCALATED, PARTLY_RESOLVED, RESOLVED, GROUPED_BY_ALL_LABELS, WITHOUT_PROJECT, WITHOUT_NAME = ALL = tuple(_SENT)
"""The first four are one group in the order of its life."""

GROUP_KEY: Final = '{}:{alertname="HighLatency", project="p1"}'
"""The key of that group."""


def payload(name: str = FIRING, **changed: Any) -> dict[str, Any]:
    """The body of a request of Alertmanager, but for what is changed of it."""
    return copy.deepcopy(_SENT[name]) | changed


def payload_without(name: str, *fields: str) -> dict[str, Any]:
    """The same with fields left out."""
    return {field: value for field, value in payload(name).items() if field not in fields}
