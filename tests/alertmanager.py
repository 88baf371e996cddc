"""What a real Alertmanager sent: Debian's 0.25, grouping by alertname and project; its own address is made up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

_SENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())

FIRES, ESCALATED, PARTLY_RESOLVED, RESOLVED, GROUPED_BY_ALL_LABELS, WITHOUT_PROJECT, WITHOUT_NAME = ALL = tuple(_SENT)
"""The first four are one group in the order of its life."""

KEY: Final = '{}:{alertname="HighLatency", project="p1"}'
"""The key of that group."""


def sent(name: str = FIRES, **changed: Any) -> dict[str, Any]:
    """The body of a request of Alertmanager, but for what is changed of it."""
    return copy.deepcopy(_SENT[name]) | changed


def without(name: str, *fields: str) -> dict[str, Any]:
    """The same with fields left out."""
    return {field: value for field, value in sent(name).items() if field not in fields}
