"""ETags, conditional reads, and HEAD."""

from __future__ import annotations

from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker


def test_an_unchanged_resource_is_not_sent_again(gateway: Gateway) -> None:
    tag = gateway.get(f"{ACME}/incidents/1/").headers["etag"]

    for said in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = gateway.get(f"{ACME}/incidents/1/", If_None_Match=said)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert gateway.get(f"{ACME}/incidents/1/", If_None_Match='"other"').status_code == 200


def test_an_etag_starts_with_the_version_and_changes_with_it(gateway: Gateway, busy_worker: Worker) -> None:
    before = gateway.get(f"{ACME}/incidents/1/")

    gateway.post(COMMENTS, {"comment": "new"})
    after = gateway.get(f"{ACME}/incidents/1/")

    assert after.json()["version"] == before.json()["version"] + 1
    assert after.headers["etag"].startswith(f'"{after.json()["version"]}-')
    assert gateway.get(f"{ACME}/").headers["etag"].startswith('"0-')


def test_an_incident_shows_each_reader_their_own_subscription(gateway: Gateway, busy_worker: Worker) -> None:
    gateway.post(COMMENTS, {"comment": "now I am subscribed"})

    assert gateway.get(f"{ACME}/incidents/1/").json()["isSubscribed"] is True
    assert gateway.get(f"{ACME}/incidents/1/", by="dev-ana").json()["isSubscribed"] is False


def test_head_returns_the_headers_of_get_without_a_body(gateway: Gateway) -> None:
    with gateway.client() as client:
        response = client.head(f"{ACME}/incidents/1/")

    assert (response.status_code, response.content) == (200, b"")
    assert "etag" in response.headers
