"""TOCSIN_SERVICE_QUEUES is parsed into queues with routing keys, and an error in it is reported."""

from __future__ import annotations

import pytest

from models.settings import SettingsError
from tasks.service_queues import ServiceQueue, parse_service_queues
from tasks.settings import BrokerSettings


@pytest.mark.parametrize("text", ["", " ", ";", " ; "])
def test_without_text_there_are_no_service_queues(text: str) -> None:
    assert parse_service_queues(text) == ()


def test_queues_are_separated_by_semicolons_and_keys_by_commas() -> None:
    assert parse_service_queues(" a.b-c = incident.*, command.dead ;\nd=#;") == (
        ServiceQueue("a.b-c", ("incident.*", "command.dead")),
        ServiceQueue("d", ("#",)),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("billing", "'billing' is not a queue with its routing keys"),
        ("=incident.*", "'=incident.*' is not a queue with its routing keys"),
        ("bill ing=#", "'bill ing=#' is not a queue with its routing keys"),
        ("billing=", "'' is not a routing key of the queue billing"),
        ("billing=incident..opened", "'incident..opened' is not a routing key of the queue billing"),
        ("billing=incident*", "'incident*' is not a routing key of the queue billing"),
        ("billing=#,", "'' is not a routing key of the queue billing"),
        ("tocsin.dead=#", "the queue name tocsin.dead is reserved"),
        ("amq.gen=#", "the queue name amq.gen is reserved"),
        ("bulk=#", "the queue name bulk is reserved"),
        ("billing=#;billing=incident.*", "it lists the queue billing twice"),
    ],
)
def test_an_error_names_the_setting_and_the_invalid_value(
    monkeypatch: pytest.MonkeyPatch, text: str, error: str
) -> None:
    monkeypatch.setenv("BROKER_URL", "amqp://nowhere//")
    monkeypatch.setenv("TOCSIN_SERVICE_QUEUES", text)

    with pytest.raises(SettingsError) as raised:
        BrokerSettings.from_environment()

    assert str(raised.value).startswith(f"TOCSIN_SERVICE_QUEUES is invalid: {error}")
