"""Helpers that request the incident list and return its titles, or the refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.http.gateway_server import ACME, Gateway

LIST = f"{ACME}/incidents/"
OpenIncident = Callable[..., int]
"""The function that the fixture ``opened`` provides: it inserts an incident and returns the incident's id."""


def titles(gateway: Gateway, query: str = "", *, by: str = "dev-mem") -> list[str]:
    response = gateway.get(f"{LIST}{query}", by=by)
    assert response.status_code == 200, response.text
    return [incident["title"] for incident in response.json()]


def refusal(gateway: Gateway, query: str, *, by: str = "dev-mem") -> tuple[int, Any]:
    response = gateway.get(f"{LIST}{query}", by=by)
    return response.status_code, response.json()
