"""Secrets that everyone knows are found in settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.known_secrets import is_loopback, settings_with_known_secrets

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOCSIN_SECRET", "for-trying-out-only"),
        ("TOCSIN_SECRET", "a-secret-of-our-own, for-trying-out-only"),
        ("DATABASE_URL", "postgresql://gateway:gateway@postgres:5432/tocsin"),
        ("BROKER_URL", "amqp://tocsin:toc%73in@rabbitmq:5672//"),
        ("REDIS_URL", "redis://:guest@10.0.0.1/0"),
    ],
)
def test_a_published_default_is_found(name: str, value: str) -> None:
    assert settings_with_known_secrets({name: value, "TOCSIN_RATE": "1"}) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOCSIN_SECRET", "a-secret-of-our-own"),
        ("DATABASE_URL", "postgresql://gateway:of-our-own@postgres/tocsin"),
        ("DATABASE_URL", "postgresql://tocsin@/tocsin?host=/run/postgres"),
        ("BROKER_URL", "amqp://guest:guest@localhost//"),
        ("BROKER_URL", "amqp://guest:guest@[::1]//"),
        ("REDIS_URL", "redis://[broken"),
    ],
)
def test_other_secrets_and_servers_on_loopback_are_not(name: str, value: str) -> None:
    assert settings_with_known_secrets({name: value}) == []


def test_every_default_in_the_compose_file_is_known() -> None:
    defaults = re.findall(r"(\w+:\S*)?\$\{(\w*(?:PASSWORD|SECRET)):-([^}]+)\}", COMPOSE.read_text())

    assert len(defaults) > 5
    for _, name, default in defaults:
        environment = {"TOCSIN_SECRET": default} if name == "TOCSIN_SECRET" else {"DATABASE_URL": f"x://u:{default}@h/"}
        assert settings_with_known_secrets(environment), name


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_only_loopback_addresses_are_private(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
