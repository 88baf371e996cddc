"""A destination of each service, and where its requests hold the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.delivery.chat.chat_server import Posted


class Service(NamedTuple):
    """A service: the URL of a destination, and a function that reads the text that a request posts.

    ``mark_up`` tells how the service's own mark-up escapes the text, if it does.
    """

    url: str
    text_of: Callable[[Posted], str]
    unescape: Callable[[str], str] = str


def _html(text: str) -> str:
    return (
        text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&quot;", '"')
        .replace("&amp;", "&")
    )


def _field(*path: Any) -> Callable[[Posted], str]:
    def read(posted: Posted) -> str:
        value = posted.json()
        for name in path:
            value = value[name]
        return str(value)

    return read


SERVICES = {
    "slack": Service("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", _field("attachments", 0, "text"), _html),
    "slack bot": Service("slack://xoxb-1234-1234-abc124/#general", _field("attachments", 0, "text"), _html),
    "discord": Service("discord://123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz", _field("content")),
    "mattermost": Service("mmosts://mm.example.org/3ccdd113474722377935511fc85d3dd4", _field("text")),
    "telegram": Service("tgram://123456789:abcdefg_hijklmnop-qrstuvwxyzABCDEF/-1001234", _field("text"), _html),
    "teams": Service(
        "workflows://prod-12.westus.logic.azure.com:443/643e69f83c8944/438d6f78a9c1d2345/",
        _field("attachments", 0, "content", "body", 0, "text"),
    ),
    "ntfy": Service("ntfys://ntfy.example.org/alerts", _field("message")),
    "matrix": Service("matrixs://syt_secret@matrix.example.org/!room:example.org", _field("body")),
    "gotify": Service("gotifys://gotify.example.org/AbCdEf0123456", _field("message")),
    "rocketchat": Service("rockets://tokena/tokenb@rocket.example.org/#ops", _field("text")),
    "google chat": Service("gchat://AAAA/chatkey/chattoken", _field("text"), _html),
    "pagerduty": Service("pagerduty://integrationkey@apikey", _field("payload", "summary")),
}
"""The services that the tests post to, by name. Zulip posts a form and is tested alone."""
