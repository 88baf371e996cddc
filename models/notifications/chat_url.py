"""The Apprise URLs of chat destinations: which are accepted, and what of them may be shown.

An Apprise URL is a secret as a whole: of ``slack://`` and ``tgram://`` even the host is a token. A URL is accepted if
its service is in :data:`SERVICES` and if Apprise finds exactly one destination in it. Whatever controls Apprise and not
the message is removed. docs/chat.md tells how to register each service, and docs/decisions/0034-chat.md why the list is
short.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from apprise import AppriseAsset

URL_PURPOSE: Final = "chat destination"
"""The purpose of the key that encrypts the URLs (:class:`models.secrets.SecretBox`)."""

MAX_URL_CHARACTERS: Final = 2000


class ChatService(NamedTuple):
    """A service that messages can be sent to.

    ``plugin`` is Apprise's class for it. ``host`` is what is shown of its address; ``None`` if the URL names the host,
    which is then checked like a webhook's. ``parameters`` are those of the URL that choose the destination; all others
    are removed. ``required`` holds attributes that the plugin must have after reading the URL, ``replaced`` those that
    are then set, and ``targets`` the attribute that must name at least one target. ``is_markdown`` tells that the
    service renders any text as Markdown.
    """

    plugin: str
    host: str | None
    parameters: frozenset[str] = frozenset()
    required: tuple[tuple[str, Any], ...] = ()
    replaced: tuple[tuple[str, Any], ...] = ()
    targets: str | None = None
    is_markdown: bool = False


_MATTERMOST: Final = ChatService(
    "NotifyMattermost", None, frozenset({"channel", "channels", "to"}), required=(("mode", "webhook"),)
)
_WORKFLOWS: Final = ChatService(
    "NotifyWorkflows",
    None,
    frozenset({"id", "workflow", "sig", "signature", "ver", "api-version", "route", "routeid", "pa"}),
    is_markdown=True,
)
_NTFY: Final = ChatService("NotifyNtfy", None, frozenset({"to", "token", "auth", "mode", "priority"}))
# Without a token of its own, Apprise logs in with the password for each message, and registers whom it cannot log in.
# Without a room, it sends to all of them. With encryption, it replaces the device's keys for each message.
_MATRIX: Final = ChatService(
    "NotifyMatrix",
    None,
    frozenset({"to", "version", "v", "discovery", "hsreq"}),
    required=(("mode", "off"), ("user", None)),
    replaced=(("e2ee", False),),
    targets="rooms",
)
_GOTIFY: Final = ChatService("NotifyGotify", None, frozenset({"priority"}))
_ROCKETCHAT: Final = ChatService(
    "NotifyRocketChat", None, frozenset({"to", "webhook"}), required=(("mode", "webhook"),), is_markdown=True
)

SERVICES: Final[dict[str, ChatService]] = {
    "slack": ChatService("NotifySlack", "slack.com", frozenset({"to"})),
    "discord": ChatService("NotifyDiscord", "discord.com", frozenset({"thread"})),
    "mmost": _MATTERMOST,
    "mmosts": _MATTERMOST,
    # Without a chat, Apprise asks Telegram who wrote to the bot last, and sends it there.
    "tgram": ChatService(
        "NotifyTelegram", "api.telegram.org", frozenset({"to", "topic", "thread", "silent"}), targets="targets"
    ),
    "workflow": _WORKFLOWS,
    "workflows": _WORKFLOWS,
    "ntfy": _NTFY,
    "ntfys": _NTFY,
    "matrix": _MATRIX,
    "matrixs": _MATRIX,
    "gotify": _GOTIFY,
    "gotifys": _GOTIFY,
    "rocket": _ROCKETCHAT,
    "rockets": _ROCKETCHAT,
    "gchat": ChatService(
        "NotifyGoogleChat",
        "chat.googleapis.com",
        frozenset({"key", "token", "workspace", "thread", "threadkey"}),
        is_markdown=True,
    ),
    "zulip": ChatService("NotifyZulip", "zulipchat.com", frozenset({"to", "token"}), targets="targets"),
    "pagerduty": ChatService(
        "NotifyPagerDuty", "pagerduty.com", frozenset({"region", "source", "component", "group", "class"})
    ),
}
"""The services to which messages can be sent, by the schema of the URL."""

_NATIVE_SCHEMA: Final = "https"
"""The schema of the URLs that the services themselves hand out. Apprise recognizes some, and translates them."""

NTFY_CLOUD: Final = "ntfy.sh"

MALFORMED: Final = "Apprise cannot read this URL. docs/chat.md shows the form for each service."
TOO_LONG: Final = f"Ensure this field has no more than {MAX_URL_CHARACTERS} characters."
UNSUPPORTED: Final = f"This service is not supported. The URL must start with one of: {', '.join(SERVICES)}."
NOT_ONE: Final = "The URL must name exactly one destination."
NO_TARGET: Final = "The URL must name the chat, room or stream to send to."
WRONG_CREDENTIALS: Final = "This kind of access is not supported. docs/chat.md shows which token the service needs."
CONTROLLED: Final = "The URL contains a parameter that is not supported."

# Control characters and white space: Apprise takes them for separators between URLs. A backslash moves the host.
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\\]")
_CONTROL_ATTRIBUTES: Final = (
    ("optional", False),
    ("retry", 0),
    ("verify_certificate", True),
    ("redirects", False),
    ("overflow_mode", "upstream"),
)
"""What every plugin must be set to after reading a URL: the result is never turned into a success, for example."""


class InvalidChatUrl(ValueError):
    """Raised for a URL that is not accepted. The message is a sentence for the caller, without any part of the URL."""


@dataclass(frozen=True, slots=True)
class ChatUrl:
    """An accepted URL, without what controls Apprise.

    ``shown`` has only its schema and host. ``target_url`` is the address to which a connection is made, if the URL
    chooses it. The representation does not contain the secret.
    """

    url: str = field(repr=False)
    shown: str
    target_url: str | None
    service: ChatService


def parse_chat_url(url: str) -> ChatUrl:
    """Return the accepted URL.

    :raises InvalidChatUrl: if it is not accepted.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidChatUrl(TOO_LONG)
    if _UNSAFE.search(url):
        raise InvalidChatUrl(MALFORMED)
    schema = url.partition("://")[0].lower()
    if schema == _NATIVE_SCHEMA:
        url = _translate(url)
        schema = url.partition("://")[0].lower()
    if schema not in SERVICES:
        raise InvalidChatUrl(UNSUPPORTED)
    service = SERVICES[schema]
    kept = _without_controls(url, service)
    plugin = load_plugin(kept)
    return ChatUrl(kept, f"{schema}://{service.host or _host(plugin)}", _target_url(plugin, service), service)


def load_plugin(url: str) -> Any:
    """Return Apprise's plugin for an accepted URL. It is made anew for each message, so that it has no state.

    :raises InvalidChatUrl: if the URL is not accepted, or not any more.
    """
    plugin = _only_plugin(url)
    service = SERVICES.get(url.partition("://")[0].lower())
    if service is None or type(plugin).__name__ != service.plugin:
        raise InvalidChatUrl(UNSUPPORTED)
    if len(plugin) != 1:
        raise InvalidChatUrl(NOT_ONE)
    if any(getattr(plugin, name) != value for name, value in service.required):
        raise InvalidChatUrl(WRONG_CREDENTIALS)
    if service.targets is not None and not getattr(plugin, service.targets):
        raise InvalidChatUrl(NO_TARGET)
    if plugin.tags or any(getattr(plugin, name) != value for name, value in _CONTROL_ATTRIBUTES):
        raise InvalidChatUrl(CONTROLLED)
    # Apprise would wait between the requests of one message.
    for name, value in (*service.replaced, ("request_rate_per_sec", 0)):
        setattr(plugin, name, value)
    return plugin


def make_asset() -> AppriseAsset:
    """Return the settings for Apprise: no redirects, no images from other servers, nothing kept on disk."""
    from apprise import AppriseAsset

    return AppriseAsset(
        app_id="tocsin",
        app_desc="tocsin",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        async_mode=False,
        storage_mode="memory",
        # The channel limits the time itself; Apprise would only stop waiting.
        service_timeout=0,
    )


def silence_apprise() -> None:
    """Keep Apprise and its HTTP library from logging: their lines contain URLs and messages."""
    for name in ("apprise", "urllib3"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [logging.NullHandler()]


def _only_plugin(url: str) -> Any:
    from apprise import Apprise

    silence_apprise()
    apprise = Apprise(asset=make_asset())
    try:
        is_complete = apprise.add(url)
    except Exception:
        raise InvalidChatUrl(MALFORMED) from None
    if len(apprise) > 1:
        raise InvalidChatUrl(NOT_ONE)
    if not is_complete or len(apprise) != 1:
        raise InvalidChatUrl(MALFORMED)
    return apprise[0]


def _translate(url: str) -> str:
    """Return the Apprise URL for a URL that a service has handed out, such as a Slack webhook."""
    plugin = _only_plugin(url)
    if not any(type(plugin).__name__ == service.plugin for service in SERVICES.values()):
        raise InvalidChatUrl(UNSUPPORTED)
    translated = plugin.url(privacy=False)
    return str(translated)


def _without_controls(url: str, service: ChatService) -> str:
    """Return the URL with those parameters that choose the destination.

    The names are read as Apprise reads them. What else it may understand is found out by :func:`load_plugin`.
    """
    address, _, query = url.partition("?")
    pairs = (pair for part in query.split("&") for pair in part.split(";"))
    kept = [pair for pair in pairs if unquote(pair.partition("=")[0]).strip().lower() in service.parameters]
    return f"{address}?{'&'.join(kept)}" if kept else address


def _host(plugin: Any) -> str:
    return str(plugin.host or NTFY_CLOUD)


def _target_url(plugin: Any, service: ChatService) -> str | None:
    """Return the address to check, as a URL without a path, if the URL chooses the host."""
    if service.host is not None or not plugin.host:
        return None
    # Workflows have no insecure form: their schema without an s means https, too.
    scheme = "https" if plugin.secure or service is _WORKFLOWS else "http"
    port = f":{plugin.port}" if plugin.port else ""
    return f"{scheme}://{plugin.host}{port}/"
