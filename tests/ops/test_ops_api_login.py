"""Operators log in with a token or a ticket; their session reads, and writes with a token against forged requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from gateway.ops.sessions import COOKIE, CSRF_HEADER
from gateway.rate_limit import FAILURE_SECONDS, MAX_WRONG_LOGINS, FailureLimit
from gateway.settings import GatewaySettings
from models.directory.tables import tokens
from models.operations.login_tickets import MAX_AGE_SECONDS, LoginTickets
from models.refusals import TooManyRequests
from models.secrets import CLOCK_SKEW_SECONDS
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.http.gateway_server import SECRET, Gateway, running_gateway

LOGIN = "/ops/login/"
HOLDS = "/ops/api/holds/"
A_HOLD = {"scope": "queue", "target": "bulk", "reason": "x"}


def log_in(client: httpx.Client, token: str = "dev-operator", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(LOGIN, data={"token": token}, headers=sent)


def token_id(harness: Harness, name: str = "otto") -> int:
    with harness.engine.connect() as connection:
        return int(connection.execute(select(tokens.c.id).where(tokens.c.name == name)).scalar_one())


def a_ticket(harness: Harness, **options: Any) -> str:
    return LoginTickets((SECRET,), **options).issue(token_id(harness))


def test_a_token_opens_a_session_that_only_operations_can_use(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        form = client.get(LOGIN)
        opened = log_in(client)
        overview = client.get("/ops/api/overview/")
        elsewhere = client.get("/api/0/directory/", headers={"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"})

    assert (form.status_code, 'name="token"' in form.text) == (200, True)
    assert (opened.status_code, opened.headers["location"]) == (303, "/ops/")
    cookie = opened.headers["set-cookie"]
    assert all(part in cookie for part in (f"{COOKIE}=", "HttpOnly", "SameSite=Lax", "Path=/ops/"))
    assert "dev-operator" not in cookie
    assert overview.status_code == 200
    assert elsewhere.status_code == 401


def test_the_cookie_is_limited_to_tls_if_the_public_url_is(
    operators: Acme, settings: Callable[..., GatewaySettings]
) -> None:
    with running_gateway(settings(public_url="https://x.test/t")) as gateway, gateway.client(None) as client:
        opened = log_in(client)

    assert opened.headers["location"] == "/t/ops/"
    assert "; Secure" in opened.headers["set-cookie"]
    assert "Path=/t/ops/" in opened.headers["set-cookie"]


@pytest.mark.parametrize("token", ["nobody", "", "dev-mem", "dev-bot", "dev-key"])
def test_any_other_token_opens_no_session(gateway: Gateway, token: str) -> None:
    with gateway.client(None) as client:
        refused = log_in(client, token)

    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers


def test_a_write_with_a_session_needs_its_csrf_token(gateway: Gateway) -> None:
    with gateway.client(None) as other:
        log_in(other, "dev-ops")
        foreign = other.get(HOLDS).headers[CSRF_HEADER]
    with gateway.client(None) as client:
        log_in(client)
        own = client.get(HOLDS).headers[CSRF_HEADER]
        refused = [
            client.post(HOLDS, json=A_HOLD, headers=headers).status_code
            for headers in ({}, {CSRF_HEADER: ""}, {CSRF_HEADER: "x"}, {CSRF_HEADER: foreign})
        ]
        placed = client.post(HOLDS, json=A_HOLD, headers={CSRF_HEADER: own})
        id_ = placed.json()["id"]
        unproven = client.request("DELETE", f"{HOLDS}{id_}/", json={"reason": "x"})

    assert refused == [403] * 4
    assert (placed.status_code, placed.json()["by"]) == (201, "otto")
    assert unproven.status_code == 403


def test_a_session_has_the_rights_that_its_token_has_now(gateway: Gateway, harness: Harness) -> None:
    with gateway.client(None) as client:
        log_in(client, "dev-viewer")
        headers = {CSRF_HEADER: client.get(HOLDS).headers[CSRF_HEADER]}
        as_viewer = client.post(HOLDS, json=A_HOLD, headers=headers)
        with harness.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE tokens SET revoked_at = now() WHERE name = 'vera'")
        revoked = client.get(HOLDS)

    assert (as_viewer.status_code, revoked.status_code) == (403, 401)


def test_a_forged_cookie_opens_nothing(gateway: Gateway) -> None:
    for value in ("x", "", "WzEsMV0.abc.def", '"'):
        assert gateway.get(HOLDS, by=None, Cookie=f"{COOKIE}={value}").status_code == 401


def test_a_bearer_token_counts_before_a_cookie(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        log_in(client)
        response = client.get(HOLDS, headers={"Authorization": "Bearer dev-mem"})

    assert response.status_code == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
)
def test_another_site_cannot_log_an_operator_in(gateway: Gateway, headers: dict[str, str]) -> None:
    with gateway.client(None) as client:
        refused = log_in(client, **headers)

    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers


def test_a_ticket_opens_a_session_once(gateway: Gateway, harness: Harness) -> None:
    ticket = a_ticket(harness)

    with gateway.client(None) as client:
        first = client.get(f"{LOGIN}?ticket={ticket}")
        used = client.get(HOLDS)
    with gateway.client(None) as client:
        second = client.get(f"{LOGIN}?ticket={ticket}")

    assert (first.status_code, first.headers["location"], used.status_code) == (303, "/ops/", 200)
    assert (second.status_code, "set-cookie" in second.headers) == (403, False)


def test_a_ticket_is_valid_for_ten_minutes(gateway: Gateway, harness: Harness) -> None:
    age = MAX_AGE_SECONDS + CLOCK_SKEW_SECONDS
    old = a_ticket(harness, clock=lambda: time.time() - age - 30)
    young = a_ticket(harness, clock=lambda: time.time() - age + 90)

    statuses = [gateway.get(f"{LOGIN}?ticket={ticket}", by=None).status_code for ticket in (old, young, "x")]

    assert statuses == [403, 303, 403]


def test_the_ticket_of_a_token_that_was_revoked_opens_nothing(gateway: Gateway, harness: Harness) -> None:
    ticket = a_ticket(harness)
    with harness.engine.begin() as connection:
        connection.execute(update(tokens).where(tokens.c.name == "otto").values(revoked_at=tokens.c.date_created))

    assert gateway.get(f"{LOGIN}?ticket={ticket}", by=None).status_code == 403


def test_after_ten_wrong_tries_an_address_has_to_wait(gateway: Gateway) -> None:
    with gateway.client(None, X_Forwarded_For="192.0.2.1") as client:
        wrong = [log_in(client, "nobody").status_code for _ in range(5)]
        wrong += [client.get(f"{LOGIN}?ticket=x").status_code for _ in range(5)]
        locked = log_in(client)
        api = client.get(HOLDS, headers={"Authorization": "Bearer dev-viewer"})
    with gateway.client(None, X_Forwarded_For="192.0.2.2") as client:
        other = log_in(client)

    assert wrong == [403] * 10
    assert (locked.status_code, "set-cookie" in locked.headers) == (429, False)
    assert 1 <= int(locked.headers["retry-after"]) <= 60
    assert (api.status_code, other.status_code) == (200, 303)


def test_wrong_tries_are_forgotten_after_a_minute() -> None:
    now = 0.0
    limit = FailureLimit(MAX_WRONG_LOGINS, clock=lambda: now)
    for _ in range(MAX_WRONG_LOGINS):
        limit.require_allowed("a")
        limit.record("a")

    with pytest.raises(TooManyRequests):
        limit.require_allowed("a")
    limit.require_allowed("b")
    now = FAILURE_SECONDS
    limit.require_allowed("a")


def test_logging_out_deletes_the_cookie(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        log_in(client)
        out = client.post("/ops/logout/")

    assert out.status_code == 303
    assert "Max-Age=0" in out.headers["set-cookie"]


def test_without_a_secret_tokens_work_and_nobody_logs_in(
    operators: Acme, settings: Callable[..., GatewaySettings]
) -> None:
    with running_gateway(settings(secret=None)) as gateway, gateway.client(None) as client:
        assert log_in(client).status_code == 503
        assert gateway.get(HOLDS, by="dev-viewer").status_code == 200
        assert gateway.get(HOLDS, by=None, Cookie=f"{COOKIE}=x").status_code == 401
