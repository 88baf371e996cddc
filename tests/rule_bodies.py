"""Request bodies for an alert rule on project p1 and for the rule's triggers."""

from __future__ import annotations

from typing import Any, Final

CRITICAL: Final = {"label": "critical", "alertThreshold": 100}
WARNING: Final = {"label": "warning", "alertThreshold": 50}
RULE: Final[dict[str, Any]] = {
    "name": "Errors on checkout",
    "aggregate": "count()",
    "query": "level:error",
    "timeWindow": 10,
    "thresholdType": 0,
    "triggers": [CRITICAL],
    "projects": ["p1"],
}
