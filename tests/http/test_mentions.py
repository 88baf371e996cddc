"""Mentions in a comment: the accepted forms, and the errors for invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.http.gateway_server import ACME, COMMENTS, Gateway, Worker

UNPARSABLE = ["Could not parse actor. Format should be `type:id` where type is `team` or `user`."]


def test_each_malformed_mention_is_an_error_at_its_index(gateway: Gateway, busy_worker: Worker) -> None:
    mentions: list[Any] = [True, False, 0, 1.5, "", " ", [], {}, [12], "#t1", "nobody", "a\0b", "\ud800", "user:", 12]

    with gateway.client(Content_Type="application/json") as client:
        # Escaped as JSON: UTF-8 cannot encode a lone surrogate.
        response = client.post(COMMENTS, content=json.dumps({"comment": "Help", "mentions": mentions}))

    errors = {str(index): UNPARSABLE for index in range(len(mentions) - 1)}
    assert (response.status_code, response.json()) == (400, {"mentions": errors})
    assert gateway.get(f"{ACME}/incidents/1/activity/").json() == []


def test_each_kind_of_invalid_mention_has_its_own_message(gateway: Gateway, busy_worker: Worker) -> None:
    mentions = ["ana", None, "user:999", "team:999", "user:14", "team:23"]

    response = gateway.post(COMMENTS, {"comment": "Help", "mentions": mentions})

    assert response.json() == {
        "mentions": {
            "1": ["This field may not be null."],
            "2": ["User does not exist"],
            "3": ["Team does not exist"],
            "4": ["User does not exist"],
            "5": ["Team does not exist"],
        }
    }


def test_a_worker_records_at_most_20_errors_with_the_number_of_the_others(
    gateway: Gateway, busy_worker: Worker
) -> None:
    body = {"comment": "Help", "mentions": [f"nobody-{number}" for number in range(100)]}

    plain = gateway.post(COMMENTS, body)
    problem = gateway.post(COMMENTS, body, Accept="application/problem+json")

    outcome = gateway.get(f"/api/0/commands/{plain.headers['command-id']}/").json()["outcome"]
    assert outcome == {"status": 400, "body": plain.json()}
    assert plain.json()["non_field_errors"] == ["80 more errors are not listed."]
    assert len(plain.json()["mentions"]) == 20
    assert len(problem.json()["errors"]) == 21


@pytest.mark.parametrize("mentions", [[], [12], ["12"], ["user:12", "ana", 12, "ANA@X.test"], ["team:21", "team:21"]])
def test_mentions_may_use_any_accepted_form_and_may_be_repeated(
    gateway: Gateway, busy_worker: Worker, mentions: list[Any]
) -> None:
    response = gateway.post(COMMENTS, {"comment": "Help", "mentions": mentions})

    assert response.status_code == 201


def test_external_id_is_validated_only_in_snake_case_and_not_stored(gateway: Gateway, busy_worker: Worker) -> None:
    kept = gateway.post(COMMENTS, {"comment": "x", "external_id": "ext-1", "externalId": "", "more": [1]})
    null = gateway.post(COMMENTS, {"comment": "x", "external_id": None})

    assert (kept.status_code, null.status_code) == (201, 201)
    assert "ext-1" not in kept.text
