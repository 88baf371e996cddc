"""What every room reads from the environment, and the one list of all setting names.

A room's own ``settings.py`` subclasses :class:`Settings`; an entry point builds it once and passes it down.
Nothing reads the environment while being imported.
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
    "DATABASE_URL": "PostgreSQL to use instead of the embedded one, as postgresql://user:password@host/name",
    "BROKER_URL": "broker to use instead of the embedded Valkey: redis://… or amqp://…",
    "REDIS_URL": "Valkey or Redis for wake-ups; a redis:// BROKER_URL serves both",
    "TOCSIN_DATA": "folder of the embedded servers' files (default ./.tocsin)",
    "TOCSIN_PUBLIC_URL": "address that links in mails use",
    "TOCSIN_SECRET": "signs tickets and encrypts stored secrets; generated under the data folder by `tocsin up`",
    "TOCSIN_ORIGINS": "origins other than the gateway's own that browsers may call from, separated by commas",
    "TOCSIN_RATE": "commands a second one caller may send; five times as many in a burst",
    "TOCSIN_NOTIFY_WINDOW": "seconds that e-mail and chat wait for an edit or a deletion",
    "TOCSIN_SMTP_URL": "mail server, as smtp://user:password@host:587 or smtps://…; this release sends no mails yet",
    "TOCSIN_MAIL_FROM": "address that mails come from; this release sends no mails yet",
    "TOCSIN_WEBHOOK_ALLOW": "networks that webhooks may reach although private, as CIDRs separated by commas;"
    " this release sends no webhooks yet",
    "TOCSIN_CELERY_EVENTS": "1 lets our Celery workers send events and take remote control, for Flower",
    "TOCSIN_LOG_LEVEL": "debug, info, warning or error",
}
"""Every setting, with what it is for; `tocsin doctor` prints them. A ``TOCSIN_`` name that is not here is an error."""

SECRET_SETTING_NAMES = frozenset({"DATABASE_URL", "BROKER_URL", "REDIS_URL", "TOCSIN_SECRET", "TOCSIN_SMTP_URL"})
"""Settings that are printed with their secret part hidden."""


class SettingsError(Exception):
    """The environment names a setting wrongly or gives it a bad value; the text says which, and what to do."""


class Settings(BaseSettings):
    """Base of every room's settings: environment first, then ``.env`` in the working directory."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_prefix="TOCSIN_")

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check the settings.

        :raises SettingsError: a required setting is missing or a value does not fit.
        """
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = environment_name(cls, str(first["loc"][0]))
            if first["type"] == "missing":
                raise SettingsError(f"{name} is not set: it is the {SETTING_NAMES[name]}") from None
            raise SettingsError(f"{name} does not fit: {first['msg'].removeprefix('Value error, ')}") from None


class DatabaseSettings(Settings):
    """Where PostgreSQL is."""

    database_url: str = Field(validation_alias="DATABASE_URL")

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, url: str) -> str:
        return sqlalchemy_url(url)


def sqlalchemy_url(url: str) -> str:
    """The address of a database as SQLAlchemy takes it.

    :raises ValueError: it is not PostgreSQL's.
    """
    for scheme in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    raise ValueError("it must start with postgresql://, the only database tocsin speaks")


def check_setting_names(environment: Mapping[str, str], *, dotenv: Path = Path(".env")) -> None:
    """Refuse unknown ``TOCSIN_`` names, in the environment and in ``.env``, before anything starts.

    :raises SettingsError: naming the unknown setting and the one that was probably meant.
    """
    for name in [*environment, *dotenv_values(dotenv)]:
        if name.startswith("TOCSIN_") and name not in SETTING_NAMES:
            close = difflib.get_close_matches(name, SETTING_NAMES, n=1)
            meant = f"did you mean {close[0]}?" if close else "`tocsin doctor` lists the names there are."
            raise SettingsError(f"{name} is no setting of tocsin; {meant}")


def environment_name(settings: type[Settings], field: str) -> str:
    """The variable that a field of a room's settings is read from."""
    alias = settings.model_fields[field].validation_alias if field in settings.model_fields else field
    return alias if isinstance(alias, str) else f"TOCSIN_{field.upper()}"
