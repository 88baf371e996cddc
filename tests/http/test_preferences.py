"""Preferences over HTTP: defaults, replacing, versions, and the error text for each bad document."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, Gateway, Worker

PREFERENCES = "/api/0/users/me/preferences/"
MUTE = f"{ACME}/incidents/1/mute/"
DEFAULT_MODES = {"email": "instant", "chat": "off"}
DEFAULTS: dict[str, Any] = {
    "channels": dict.fromkeys(("mention", "team_mention", "subscribed", "alert_action"), DEFAULT_MODES),
    "digest": {"every": "day", "at": "09:00"},
    "quietHours": None,
    "mutedIncidents": [],
}


def test_without_preferences_there_are_defaults(gateway: Gateway) -> None:
    response = gateway.get(PREFERENCES)

    assert (response.status_code, response.json()) == (200, DEFAULTS)
    assert response.headers["etag"].startswith('"0-')
    assert gateway.get(PREFERENCES, If_None_Match=response.headers["etag"]).status_code == 304


def test_preferences_are_replaced_and_read_again(gateway: Gateway, busy_worker: Worker) -> None:
    wanted = {
        "channels": {
            "mention": {"email": "instant", "chat": "instant"}, "team_mention": {"email": "digest", "chat": "off"},
            "subscribed": {"email": "off", "chat": "off"}, "alert_action": {"email": "off", "chat": "off"},
        },
        "digest": {"every": "hour", "at": "07:30"},
        "quietHours": {"start": "22:00", "end": "07:00"},
        "mutedIncidents": [],
    }  # fmt: skip

    put = gateway.put(PREFERENCES, wanted)

    assert (put.status_code, put.json()) == (200, wanted)
    assert gateway.get(PREFERENCES).json() == wanted
    assert gateway.get(PREFERENCES, by="dev-ana").json() == DEFAULTS


def test_what_a_document_omits_has_its_default(gateway: Gateway, busy_worker: Worker) -> None:
    gateway.put(PREFERENCES, {"quietHours": {"start": "22:00", "end": "07:00"}, "digest": {"every": "hour"}})

    put = gateway.put(PREFERENCES, {"channels": {"subscribed": {"email": "digest"}}})

    channels = DEFAULTS["channels"] | {"subscribed": {"email": "digest", "chat": "off"}}
    assert put.json() == DEFAULTS | {"channels": channels}


def test_a_document_that_was_read_can_be_sent_back(gateway: Gateway, busy_worker: Worker) -> None:
    read = gateway.get(PREFERENCES).json()

    assert gateway.put(PREFERENCES, read).json() == read


def test_a_stale_version_is_refused(gateway: Gateway, busy_worker: Worker) -> None:
    first = gateway.get(PREFERENCES).headers["etag"]
    assert gateway.put(PREFERENCES, {}, If_Match=first).status_code == 200

    stale = gateway.put(PREFERENCES, {}, If_Match=first)

    assert (stale.status_code, stale.json()["detail"]) == (412, "The resource has changed since you read it.")


def test_muting_an_incident_gives_the_preferences_a_new_version(gateway: Gateway, busy_worker: Worker) -> None:
    read = gateway.get(PREFERENCES).headers["etag"]
    gateway.post(MUTE, {})

    stale = gateway.put(PREFERENCES, {"mutedIncidents": []}, If_Match=read)

    assert stale.status_code == 412
    assert len(gateway.get(PREFERENCES).json()["mutedIncidents"]) == 1


VALID_REASONS = "mention, team_mention, subscribed, alert_action"
NO_TIME = "is not a time of day. Use HH:MM, from 00:00 to 23:59."
NO_DICTIONARY = "Invalid data. Expected a dictionary, but got"


@pytest.mark.parametrize(
    ("document", "errors"),
    [
        ({"chanels": {}}, {"chanels": ["Unknown field."]}),
        ({"channels": None}, {"channels": ["This field may not be null."]}),
        ({"channels": []}, {"channels": [f"{NO_DICTIONARY} list."]}),
        (
            {"channels": {"mentoin": {}}},
            {"channels": {"mentoin": [f"Unknown key. Valid keys: {VALID_REASONS}."]}},
        ),
        ({"channels": {"mention": "off"}}, {"channels": {"mention": [f"{NO_DICTIONARY} str."]}}),
        ({"channels": {"mention": None}}, {"channels": {"mention": ["This field may not be null."]}}),
        (
            {"channels": {"mention": {"sms": "off"}}},
            {"channels": {"mention": {"sms": ["Unknown key. Valid keys: email, chat."]}}},
        ),
        (
            {"channels": {"mention": {"inbox": "off"}}},
            {"channels": {"mention": {"inbox": ["The inbox cannot be switched off for mentions."]}}},
        ),
        (
            {"channels": {"team_mention": {"inbox": "off"}}},
            {"channels": {"team_mention": {"inbox": ["The inbox cannot be switched off for mentions."]}}},
        ),
        (
            {"channels": {"mention": {"email": "loud"}, "subscribed": {"chat": 1, "email": None}}},
            {
                "channels": {
                    "mention": {"email": ['"loud" is not a valid choice. Valid choices: off, instant, digest.']},
                    "subscribed": {"chat": ["Not a valid string."], "email": ["This field may not be null."]},
                }
            },
        ),
        (
            {"channels": {"alert_action": {"email": "digest"}}},
            {
                "channels": {
                    "alert_action": {"email": ['"digest" is not a valid choice. Valid choices: off, instant.']}
                }
            },
        ),
        ({"digest": None}, {"digest": ["This field may not be null."]}),
        ({"digest": {}}, {"digest": {"every": ["This field is required."]}}),
        (
            {"digest": {"every": "week", "at": "9:00"}},
            {
                "digest": {
                    "every": ['"week" is not a valid choice. Valid choices: hour, day.'],
                    "at": [f'"9:00" {NO_TIME}'],
                }
            },
        ),
        ({"digest": {"every": "day", "at": "24:00"}}, {"digest": {"at": [f'"24:00" {NO_TIME}']}}),
        ({"digest": {"every": "day", "at": 9}}, {"digest": {"at": ["Not a valid string."]}}),
        (
            {"digest": {"every": "day", "zone": "UTC"}},
            {"digest": {"zone": ["Unknown key. Valid keys: every, at."]}},
        ),
        ({"quietHours": "night"}, {"quietHours": [f"{NO_DICTIONARY} str."]}),
        ({"quietHours": {"start": "22:00"}}, {"quietHours": {"end": ["This field is required."]}}),
        (
            {"quietHours": {"start": "22:00", "end": "7"}},
            {"quietHours": {"end": [f'"7" {NO_TIME}']}},
        ),
        (
            {"quietHours": {"start": "22:00", "end": "22:00"}},
            {"quietHours": ["Quiet hours may not end when they start; send null for none."]},
        ),
        ({"mutedIncidents": None}, {"mutedIncidents": ["This field may not be null."]}),
        ({"mutedIncidents": "1"}, {"mutedIncidents": ['Expected a list of items but got type "str".']}),
        (
            {"mutedIncidents": [1, "x", 0]},
            {"mutedIncidents": {"1": ["A valid id is required."], "2": ["A valid id is required."]}},
        ),
        (
            {"mutedIncidents": list(range(1, 1002))},
            {"mutedIncidents": ["Ensure this field has no more than 1000 elements."]},
        ),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_the_place_of_the_error(
    gateway: Gateway, document: dict[str, Any], errors: dict[str, Any]
) -> None:
    response = gateway.put(PREFERENCES, document)

    assert (response.status_code, response.json()) == (400, errors)


def test_an_item_of_a_bulk_request_is_checked_alike(gateway: Gateway, busy_worker: Worker) -> None:
    good = {"type": "preferences.replace", "channels": {"mention": {"email": "digest"}}}
    bad = {"type": "preferences.replace", "quietHours": {"start": "22:00"}, "zone": "UTC"}

    refused = gateway.post(f"{ACME}/commands/", {"commands": [good, bad]})
    accepted = gateway.post(f"{ACME}/commands/", {"commands": [good]}, Prefer="wait=10")

    assert refused.json() == {
        "commands": {"1": {"quietHours": {"end": ["This field is required."]}, "zone": ["Unknown field."]}}
    }
    assert accepted.json()["commands"][0]["outcome"]["status"] == 200
    assert gateway.get(PREFERENCES).json()["channels"]["mention"]["email"] == "digest"


# --- callers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["dev-key", "dev-bot", "dev-ops", "dev-plain-bot"])
def test_only_people_have_preferences(gateway: Gateway, token: str) -> None:
    assert gateway.get(PREFERENCES, by=token).status_code == 403
    assert gateway.put(PREFERENCES, {}, by=token).status_code == 403


def test_an_unknown_caller_is_refused(gateway: Gateway) -> None:
    assert gateway.get(PREFERENCES, by="dev-nobody").status_code == 401


def test_a_person_without_an_organization_has_preferences(gateway: Gateway, busy_worker: Worker) -> None:
    put = gateway.put(PREFERENCES, {"digest": {"every": "hour", "at": "09:00"}}, by="dev-out")

    assert put.status_code == 200
    assert gateway.get(PREFERENCES, by="dev-out").json()["digest"]["every"] == "hour"


def test_a_service_changes_the_preferences_of_the_member_for_whom_it_acts(
    gateway: Gateway, busy_worker: Worker
) -> None:
    put = gateway.put(PREFERENCES, {"digest": {"every": "hour"}}, by="dev-bot", Act_As="user:12")

    assert put.status_code == 200
    assert gateway.get(PREFERENCES, by="dev-ana").json()["digest"]["every"] == "hour"
    assert gateway.get(PREFERENCES).json() == DEFAULTS


def test_the_command_belongs_to_no_organization(gateway: Gateway, busy_worker: Worker, ledger: Engine) -> None:
    put = gateway.put(PREFERENCES, {})

    command = gateway.get(f"/api/0/commands/{uuid.UUID(put.headers['command-id'])}/").json()
    assert (command["type"], command["status"], command["organization"]) == ("preferences.replace", "applied", None)
    with ledger.connect() as connection:
        assert connection.exec_driver_sql("SELECT subject, organization_id FROM commands").all() == [("user:11", None)]


def test_without_a_worker_the_command_is_accepted(gateway: Gateway) -> None:
    response = gateway.put(PREFERENCES, {}, Prefer="respond-async")

    assert (response.status_code, response.json()["organization"]) == (202, None)


# --- muted incidents -------------------------------------------------------------------------------------------


def test_the_listed_incidents_are_muted_without_end(
    gateway: Gateway, busy_worker: Worker, incident: int, other_incident: int
) -> None:
    first = gateway.put(PREFERENCES, {"mutedIncidents": [str(incident), other_incident, incident]}).json()
    second = gateway.put(PREFERENCES, {"mutedIncidents": [other_incident]}).json()
    kept = gateway.put(PREFERENCES, {}).json()

    assert first["mutedIncidents"] == [str(each) for each in sorted((incident, other_incident))]
    assert second["mutedIncidents"] == kept["mutedIncidents"] == [str(other_incident)]
    assert gateway.get(PREFERENCES).json() == kept


def test_an_incident_out_of_reach_is_answered_as_one_that_does_not_exist(
    gateway: Gateway, busy_worker: Worker, acme: Acme, ledger: Engine, incident: int
) -> None:
    with ledger.connect() as connection:
        foreign = connection.exec_driver_sql(
            "SELECT i.id FROM incidents i JOIN organizations o ON o.id = i.organization_id WHERE o.slug = 'closed'"
        ).scalar_one()

    refused = gateway.put(PREFERENCES, {"mutedIncidents": [incident, foreign, 999]}, by="dev-ana")

    assert (refused.status_code, refused.json()) == (
        400,
        {"mutedIncidents": {"1": [f"Incident does not exist: {foreign}"], "2": ["Incident does not exist: 999"]}},
    )
    assert gateway.get(PREFERENCES, by="dev-ana").json() == DEFAULTS


def test_mutes_that_the_caller_cannot_read_are_neither_shown_nor_replaced(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, incident: int, other_incident: int
) -> None:
    gateway.put(PREFERENCES, {"mutedIncidents": [incident, other_incident]})
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive' WHERE slug = 'p2'")

    assert gateway.get(PREFERENCES).json()["mutedIncidents"] == [str(incident)]
    assert gateway.put(PREFERENCES, {"mutedIncidents": []}).json()["mutedIncidents"] == []

    with ledger.connect() as connection:
        assert connection.exec_driver_sql("SELECT incident_id FROM incident_mutes").all() == [(other_incident,)]


def test_a_mute_with_an_end_is_not_listed_and_stays(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, incident: int
) -> None:
    gateway.post(MUTE, {"until": "2999-01-01T00:00:00Z"})

    assert gateway.put(PREFERENCES, {"mutedIncidents": []}).json()["mutedIncidents"] == []

    with ledger.connect() as connection:
        assert connection.exec_driver_sql("SELECT incident_id FROM incident_mutes").all() == [(incident,)]
    assert gateway.put(PREFERENCES, {"mutedIncidents": [incident]}).json()["mutedIncidents"] == [str(incident)]
