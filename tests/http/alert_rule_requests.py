"""Helpers that send requests about alert rules, or insert rules directly into the tables."""

from __future__ import annotations

from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.types import JSON
from tests.builders import an_alert_rule
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, Gateway
from tests.rule_bodies import RULE

RULES = f"{ACME}/alert-rules/"
PROJECT_RULES = "/api/0/projects/acme/p1/alert-rules/"
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "The requested resource does not exist"}
STALE = {"detail": "The resource has changed since you read it."}
REQUIRED = ["This field is required."]
NOT_NULL = ["This field may not be null."]
INTEGER = ["A valid integer is required."]


def send(gateway: Gateway, method: str, path: str, *, by: str | None = "dev-mem", **request: Any) -> httpx.Response:
    with gateway.client(by, **request.pop("headers", {})) as client:
        return client.request(method, path, **request)


def accepted_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM commands")).scalar_one())


def insert_rule(ledger: Engine, acme: Acme, *projects: str, organization: str = "acme", **facts: Any) -> int:
    ids = [acme.projects[organization, slug] for slug in projects or ("p1",)]
    with ledger.begin() as connection:
        return an_alert_rule(connection, acme.organizations[organization], projects=ids, **facts)


def set_features(ledger: Engine, *features: str) -> None:
    with ledger.begin() as connection:
        connection.execute(text("UPDATE organizations SET features = :features"), {"features": list(features)})


def create_rule(gateway: Gateway, **fields: JSON) -> Any:
    return gateway.post(RULES, RULE | fields).json()
