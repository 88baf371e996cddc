"""Settings for the worker, the relay and the notifier."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from models.notifications.mailbox import ascii_domain, parse_mailbox
from models.operations.retention import DEFAULT_KEEP_DAYS
from models.settings import Settings
from tasks.settings import DEFAULT_NOTIFY_WINDOW, MetricsSettings, ProcessSettings, SecretSettings

_DEFAULT_SMTP_PORTS: Final = {"smtp": 25, "smtps": 465}
_SUBMISSION_PORT: Final = 587
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class SmtpServer(NamedTuple):
    """A mail server, as named by ``TOCSIN_SMTP_URL``. With ``is_tls``, the connection begins with TLS."""

    host: str
    port: int
    is_tls: bool
    user: str | None
    password: str | None

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this host."""
        return self.host in _LOOPBACK_HOSTS


class RetentionSettings(Settings):
    """How many days finished work is kept. 0 keeps everything."""

    keep_days: int = Field(default=DEFAULT_KEEP_DAYS, ge=0, le=36_500)


class RelaySettings(ProcessSettings, MetricsSettings, RetentionSettings):
    """Settings for the relay."""


class NotifierSettings(ProcessSettings, MetricsSettings):
    """Settings for the notifier. ``notify_window`` is in seconds."""

    notify_window: float = Field(default=DEFAULT_NOTIFY_WINDOW, ge=0, le=3600)


class WorkerSettings(NotifierSettings, SecretSettings, RetentionSettings):
    """Settings for the worker, which sends messages, too.

    ``worker_name`` tells workers on one host apart in Celery's node names.
    """

    worker_name: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    public_url: str | None = None
    smtp_url: str | None = None
    mail_from: str | None = None
    dkim_selector: str | None = None
    dkim_key: str | None = None

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, setting: str | None) -> str | None:
        if setting:
            parse_smtp_url(setting)
        return setting or None

    @field_validator("mail_from")
    @classmethod
    def _check_mail_from(cls, setting: str | None) -> str | None:
        if setting and parse_mailbox(setting).needs_smtputf8:
            raise ValueError("the part before the @ must be ASCII")
        return setting or None

    @property
    def smtp_server(self) -> SmtpServer | None:
        """The mail server in ``smtp_url``; ``None`` if the setting is not set."""
        return parse_smtp_url(self.smtp_url) if self.smtp_url else None


def parse_smtp_url(url: str) -> SmtpServer:
    """Return the mail server that a URL names, such as ``smtp://user:password@host:587``.

    The port is by default 465 for ``smtps://``, and for ``smtp://`` 587 with a user and 25 without.

    :raises ValueError: if it is not such a URL. The message does not contain the password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it must look like smtp://user:password@host:587, with %-escapes in the password") from None
    if parts.scheme not in _DEFAULT_SMTP_PORTS:
        raise ValueError("it must start with smtp:// or smtps://")
    if not host or port == 0 or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("it must look like smtp://user:password@host:587, with %-escapes in the password")
    user = unquote(parts.username) if parts.username else None
    if user is None and parts.password:
        raise ValueError("it has a password and no user")
    default = _SUBMISSION_PORT if user and parts.scheme == "smtp" else _DEFAULT_SMTP_PORTS[parts.scheme]
    return SmtpServer(
        host=host if host.isascii() else ascii_domain(host),
        port=port or default,
        is_tls=parts.scheme == "smtps",
        user=user,
        password=unquote(parts.password or "") if user else None,
    )
