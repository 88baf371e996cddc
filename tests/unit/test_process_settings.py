"""Which settings each process of a stack is given."""

from __future__ import annotations

import pytest

from models.settings import SETTING_NAMES
from workers.stack.process_settings import process_environment, process_setting_names

EVERY_SETTING = dict.fromkeys(SETTING_NAMES, "x")


@pytest.mark.parametrize("process", ["relay", "notifier", "catcher", "migrate"])
def test_processes_that_send_and_sign_nothing_are_given_no_secret(process: str) -> None:
    given = process_environment(process, EVERY_SETTING)

    assert {"TOCSIN_SECRET", "TOCSIN_SMTP_URL", "TOCSIN_DKIM_KEY"}.isdisjoint(given)


def test_the_catcher_is_given_no_server() -> None:
    assert process_environment("catcher", EVERY_SETTING) == {"TOCSIN_DATA": "x"}


@pytest.mark.parametrize("process", ["gateway", "worker"])
def test_processes_that_sign_are_given_the_secret(process: str) -> None:
    assert "TOCSIN_SECRET" in process_environment(process, EVERY_SETTING)


def test_variables_that_are_not_settings_stay() -> None:
    assert process_environment("relay", {"PATH": "/bin", "SSL_CERT_FILE": "ca"}) == {
        "PATH": "/bin",
        "SSL_CERT_FILE": "ca",
    }


def test_every_setting_of_a_process_is_given_to_one() -> None:
    given = {name for process in ("gateway", "worker", "relay", "notifier") for name in process_setting_names(process)}

    assert given == set(SETTING_NAMES)
