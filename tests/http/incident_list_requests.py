"""The incident list, asked for its titles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.http.gateway_server import ACME, Gateway

LIST = f"{ACME}/incidents/"
OpenIncident = Callable[..., int]
"""Opens an incident: what the fixture `opened` gives."""


def titles(gateway: Gateway, query: str = "", *, by: str = "dev-mem") -> list[str]:
    answer = gateway.get(f"{LIST}{query}", by=by)
    assert answer.status_code == 200, answer.text
    return [incident["title"] for incident in answer.json()]


def refusal(gateway: Gateway, query: str, *, by: str = "dev-mem") -> tuple[int, Any]:
    answer = gateway.get(f"{LIST}{query}", by=by)
    return answer.status_code, answer.json()
