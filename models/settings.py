"""The base class of all settings, and the name and purpose of every setting.

Each package's own ``settings.py`` subclasses :class:`Settings`. An entry point builds the object once and passes it
down. No module reads the environment when it is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SETTING_NAMES: dict[str, str] = {
    "DATABASE_URL": "PostgreSQL database to use instead of the embedded one, as postgresql://user:password@host/name",
    "BROKER_URL": "broker to use instead of the embedded Valkey: redis://… or amqp://…",
    "REDIS_URL": "Valkey or Redis for wake-up notifications; by default BROKER_URL, if that is redis://",
    "TOCSIN_DATA": "data directory of the embedded servers (default ./.tocsin)",
    "TOCSIN_PUBLIC_URL": "base URL of tocsin, for the links in e-mails and responses; it may contain a path. Its origin"
    " is the only one of the gateway's own",
    "TOCSIN_TRUSTED_PROXIES": "networks of reverse proxies whose X-Forwarded-Proto, -Host and -Prefix count, as CIDRs"
    " separated by commas; by default the loopback addresses",
    "TOCSIN_KEEP_ALIVE": "seconds that the gateway keeps an idle connection open (default 75)",
    "TOCSIN_SECRET": "key that signs tickets and encrypts stored secrets; `tocsin up` puts one in the data directory",
    "TOCSIN_ORIGINS": "origins, besides the gateway's own, that browsers may send requests from; separated by commas",
    "TOCSIN_RATE": "commands that one caller may send per second; bursts may be five times as large",
    "TOCSIN_NOTIFY_WINDOW": "seconds that e-mail and chat messages are delayed in case of an edit or a deletion",
    "TOCSIN_SMTP_URL": "mail server, as smtp://user:password@host:587 or smtps://…; without it, e-mails wait",
    "TOCSIN_MAIL_FROM": "sender of e-mails, as tocsin@example.org; by default tocsin at the host of TOCSIN_PUBLIC_URL",
    "TOCSIN_DKIM_SELECTOR": "selector of the key that signs e-mails (DKIM), if the mail server does not sign them",
    "TOCSIN_DKIM_KEY": "file with that key, RSA or Ed25519, in PEM",
    "TOCSIN_WEBHOOK_ALLOW": "private networks that webhooks may connect to, also by http, as CIDRs separated by commas",
    "TOCSIN_SERVICE_QUEUES": "queues of other services that the relay declares and binds to the events,"
    " as name=key,key;name=key",
    "TOCSIN_KEEP_DAYS": "days after which finished commands and what followed from them are deleted (90); 0 keeps all",
    "TOCSIN_METRICS": "where a worker, relay or notifier serves its metrics, as HOST:PORT, or as HOST:FIRST-LAST for"
    " several on one host, each on the first port that is free; without it, nowhere",
    "TOCSIN_CELERY_EVENTS": "1 makes the Celery workers send events and accept remote control, for Flower",
    "TOCSIN_WORKER_NAME": "name that tells workers on one host apart in Flower; by default the process id",
    "TOCSIN_LOG_LEVEL": "debug, info, warning or error",
}
"""The purpose of each setting, by name, as printed by `tocsin doctor`. Any other ``TOCSIN_`` name is an error."""

SECRET_SETTING_NAMES = frozenset({"DATABASE_URL", "BROKER_URL", "REDIS_URL", "TOCSIN_SECRET", "TOCSIN_SMTP_URL"})
"""The settings whose secret parts are masked in output."""


class SettingsError(Exception):
    """Raised when a setting is unknown, missing or invalid. The message names the setting and says what to do."""


class Settings(BaseSettings):
    """The base class of a package's settings.

    Values are read from the environment or, if they are not set there, from ``.env`` in the working directory.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_prefix="TOCSIN_")

    @classmethod
    def from_environment(cls) -> Self:
        """Read and validate the settings.

        :raises SettingsError: when a required setting is missing or a value is invalid.
        """
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = environment_name(cls, str(first["loc"][0]))
            if first["type"] == "missing":
                raise SettingsError(f"{name} is not set: it is the {SETTING_NAMES[name]}") from None
            raise SettingsError(f"{name} is invalid: {first['msg'].removeprefix('Value error, ')}") from None


class DatabaseSettings(Settings):
    """Settings for a process that needs only the database."""

    database_url: str = Field(validation_alias="DATABASE_URL")

    @field_validator("database_url")
    @classmethod
    def _select_driver(cls, url: str) -> str:
        return sqlalchemy_url(url)


def sqlalchemy_url(url: str) -> str:
    """Return the PostgreSQL URL in the form that makes SQLAlchemy use psycopg.

    :raises ValueError: when the URL does not refer to a PostgreSQL database.
    """
    for scheme in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    raise ValueError("it must start with postgresql://, the only database that tocsin supports")


def check_setting_names(environment: Mapping[str, str], *, dotenv: Path = Path(".env")) -> None:
    """Check that every ``TOCSIN_`` name in the environment and in ``.env`` is a known setting.

    :raises SettingsError: when a name is unknown. The message suggests the closest known name.
    """
    for name in [*environment, *dotenv_values(dotenv)]:
        if name.startswith("TOCSIN_") and name not in SETTING_NAMES:
            close = difflib.get_close_matches(name, SETTING_NAMES, n=1)
            hint = f"did you mean {close[0]}?" if close else "`tocsin doctor` lists the settings."
            raise SettingsError(f"{name} is not a setting of tocsin; {hint}")


def environment_name(settings: type[Settings], field: str) -> str:
    """Return the name of the environment variable from which a settings field is read."""
    alias = settings.model_fields[field].validation_alias if field in settings.model_fields else field
    return alias if isinstance(alias, str) else f"TOCSIN_{field.upper()}"
