"""Credentials that tocsin treats as Sentry does, and those it treats differently."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Engine

from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway

INCIDENT = f"{ACME}/incidents/1/"
FORBIDDEN = {"detail": "You do not have permission to perform this action."}


def test_an_api_key_is_accepted_as_a_bearer_token_but_not_as_a_user_name(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        as_a_name = client.get(INCIDENT, auth=("dev-key", ""))
    as_a_token = gateway.get(INCIDENT, by="dev-key")

    assert (as_a_name.status_code, as_a_token.status_code) == (401, 200)
    assert as_a_name.json() == {"detail": "Authentication credentials were not provided."}


@pytest.mark.parametrize("token", ["dev-key", "dev-bot", "dev-mem"])
def test_a_revoked_token_of_any_kind_is_treated_as_unknown(gateway: Gateway, ledger: Engine, token: str) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET revoked_at = now()")

    response = gateway.get(INCIDENT, by=token)

    assert (response.status_code, response.json()) == (401, {"detail": "Invalid token"})


def test_the_superuser_flag_grants_access_to_no_organization(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true")

    read, written = gateway.get(INCIDENT, by="dev-out"), gateway.post(COMMENTS, A_COMMENT, by="dev-out")

    assert (read.status_code, written.status_code) == (403, 403)
    assert read.json() == written.json() == FORBIDDEN


@pytest.mark.parametrize("token", ["dev-key", "dev-bot"])
def test_api_keys_and_services_can_read_active_projects_of_their_own_organization_only(
    gateway: Gateway, token: str
) -> None:
    statuses = {name: gateway.get(f"/api/0/organizations/{name}/incidents/1/", by=token).status_code
                for name in ("acme", "closed", "plain", "nowhere")}  # fmt: skip

    assert statuses == {"acme": 200, "closed": 403, "plain": 403, "nowhere": 404}


def test_a_read_only_token_can_read_but_not_write(gateway: Gateway) -> None:
    read = gateway.get(INCIDENT, by="dev-mem-read")
    written = gateway.post(COMMENTS, A_COMMENT, by="dev-mem-read")

    assert (read.status_code, written.status_code, written.json()) == (200, 403, FORBIDDEN)
