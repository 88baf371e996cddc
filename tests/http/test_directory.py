"""The directory over HTTP: imports by operators are atomic and take effect immediately."""

from __future__ import annotations

import httpx

from tests.http.gateway_server import ACME, Gateway

DIRECTORY = "/api/0/directory/"


def put(gateway: Gateway, document: object) -> httpx.Response:
    with gateway.client("dev-ops") as client:
        return client.put(DIRECTORY, json=document)


def test_an_import_takes_effect_on_the_next_request(gateway: Gateway) -> None:
    document = {
        "members": [{"organization": "acme", "user": "out", "role": "member"}],
        "tokens": [{"token": "dev-out-2", "user": "out"}],
    }

    response = put(gateway, document)

    assert response.status_code == 200
    assert response.json()["members"] == {"created": 1, "changed": 0, "unchanged": 0}
    assert gateway.get(f"{ACME}/", by="dev-out-2").status_code == 200


def test_an_invalid_document_is_refused_with_its_errors_and_changes_nothing(gateway: Gateway) -> None:
    response = put(gateway, {"members": [{"organization": "acme", "user": "out", "role": "king"}]})

    assert response.status_code == 400
    assert response.json()["places"] == ['members[0].role: "king" is no role']
    assert gateway.get(f"{ACME}/", by="dev-out").status_code == 403


def test_importing_an_export_changes_nothing(gateway: Gateway) -> None:
    exported = gateway.get(DIRECTORY, by="dev-ops").json()

    response = put(gateway, exported)

    assert response.status_code == 200
    assert all(counts["created"] == counts["changed"] == 0 for counts in response.json().values())
