"""Which Apprise URLs are accepted, and what of them is shown."""

from __future__ import annotations

import pytest

from models.notifications.chat_url import (
    MALFORMED,
    NO_TARGET,
    NOT_ONE,
    TOO_LONG,
    UNSUPPORTED,
    WRONG_CREDENTIALS,
    InvalidChatUrl,
    load_plugin,
    parse_chat_url,
)
from models.notifications.network_guard import ForbiddenTarget, NetworkGuard

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
MATTERMOST = "mmosts://mm.example.org/3ccdd113474722377935511fc85d3dd4"
WORKFLOW = (
    "https://prod-12.westus.logic.azure.com:443/workflows/643e69f83c8944/triggers/manual/paths/invoke"
    "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=438d6f78a9c1d2345"
)

ACCEPTED = {
    SLACK: ("slack://slack.com", None),
    "slack://xoxb-1234-1234-abc124/#general": ("slack://slack.com", None),
    "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": ("slack://slack.com", None),
    "https://discord.com/api/webhooks/123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz": ("discord://discord.com", None),
    MATTERMOST: ("mmosts://mm.example.org", "https://mm.example.org/"),
    "mmost://10.0.0.5:8065/3ccdd113474722377935511fc85d3dd4": ("mmost://10.0.0.5", "http://10.0.0.5:8065/"),
    "tgram://123456789:abcdefg_hijklmnop-qrstuvwxyzABCDEF/-1001234": ("tgram://api.telegram.org", None),
    WORKFLOW: ("workflow://prod-12.westus.logic.azure.com", "https://prod-12.westus.logic.azure.com:443/"),
    "ntfys://user:password@ntfy.example.org/alerts": ("ntfys://ntfy.example.org", "https://ntfy.example.org/"),
    "ntfy://alerts": ("ntfy://ntfy.sh", None),
    "matrixs://token@matrix.example.org/!room:example.org": (
        "matrixs://matrix.example.org",
        "https://matrix.example.org/",
    ),
    "gotifys://gotify.example.org/AbCdEf0123456": ("gotifys://gotify.example.org", "https://gotify.example.org/"),
    "rockets://a/b@rocket.example.org/#ops": ("rockets://rocket.example.org", "https://rocket.example.org/"),
    "gchat://workspace/key/token": ("gchat://chat.googleapis.com", None),
    "zulip://bot@acme/aaaaaaaabbbbbbbbccccccccdddddddd/ops": ("zulip://zulipchat.com", None),
    "pagerduty://integrationkey@apikey": ("pagerduty://pagerduty.com", None),
}

REFUSED = {
    "json://example.org/": UNSUPPORTED,
    "jsons://example.org/?+Authorization=Bearer": UNSUPPORTED,
    "form://example.org/": UNSUPPORTED,
    "syslog://": UNSUPPORTED,
    "mqtt://example.org/topic": UNSUPPORTED,
    "mailto://user:password@example.org": UNSUPPORTED,
    "apprises://example.org/token": UNSUPPORTED,
    "opsgenie://apikey/": UNSUPPORTED,
    "http://example.org/": UNSUPPORTED,
    "slack": MALFORMED,
    "": UNSUPPORTED,
    "https://example.org/": MALFORMED,
    "slack://": MALFORMED,
    "slack://T1JJ3T3L2": MALFORMED,
    f"{MATTERMOST} {SLACK}": MALFORMED,
    f"{MATTERMOST}\\@example.com": MALFORMED,
    f"{MATTERMOST},{SLACK}": NOT_ONE,
    f"{SLACK}/#one/#two": NOT_ONE,
    "ntfys://ntfy.example.org/one/two": NOT_ONE,
    "ntfys://ntfy.example.org/one?to=two": NOT_ONE,
    "tgram://123456789:abcdefg_hijklmnop-qrstuvwxyzABCDEF/": NO_TARGET,
    "matrixs://user:password@matrix.example.org/!room:example.org": WRONG_CREDENTIALS,
    "rockets://user:password@rocket.example.org/#ops": WRONG_CREDENTIALS,
    f"{MATTERMOST}{'/x' * 1000}": TOO_LONG,
}


@pytest.mark.parametrize("url", ACCEPTED)
def test_a_url_of_a_known_service_is_accepted_and_shown_without_its_secrets(url: str) -> None:
    parsed = parse_chat_url(url)

    assert (parsed.shown, parsed.target_url) == ACCEPTED[url]
    assert parse_chat_url(parsed.url) == parsed


@pytest.mark.parametrize("url", REFUSED)
def test_another_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(InvalidChatUrl) as refused:
        parse_chat_url(url)

    assert str(refused.value) == REFUSED[url]


@pytest.mark.parametrize(
    "parameters",
    [
        "optional=yes", "retry=5&wait=9", "cto=99&rto=99", "overflow=split", "format=markdown", "tags=a,b",
        "redirect=yes", "verify=no", "emojis=yes", "image=yes&footer=yes", "OPTIONAL=yes", "%6fptional=yes",
        "x=1;optional=yes", "template=/etc/hostname", "batch=no&ping=%40everyone", "store=yes", "tz=UTC",
    ],
)  # fmt: skip
def test_parameters_that_control_apprise_are_removed(parameters: str) -> None:
    parsed = parse_chat_url(f"{SLACK}?{parameters}")

    assert parsed.url == SLACK
    assert load_plugin(parsed.url).optional is False


def test_parameters_that_choose_the_destination_are_kept() -> None:
    url = "discord://123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz?format=markdown&thread=1234"

    assert parse_chat_url(url).url == "discord://123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz?thread=1234"


def test_a_stored_url_with_a_control_parameter_is_not_loaded() -> None:
    with pytest.raises(InvalidChatUrl):
        load_plugin(f"{SLACK}?optional=yes")


def test_the_url_is_in_no_representation() -> None:
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in repr(parse_chat_url(SLACK))


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_an_impossible_port_is_refused_by_the_guard(port: int) -> None:
    target = parse_chat_url(f"mmosts://mm.example.org:{port}/3ccdd113474722377935511fc85d3dd4").target_url

    # Apprise ignores the port 0.
    if port == 0:
        assert target == "https://mm.example.org/"
    else:
        with pytest.raises(ForbiddenTarget):
            NetworkGuard().check_url(str(target))
