"""Settings for the gateway."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import Field, field_validator

from tasks.settings import DEFAULT_NOTIFY_WINDOW, ProcessSettings, SecretSettings


class GatewaySettings(ProcessSettings, SecretSettings):
    """Settings for the gateway, including those that every process reads.

    ``rate`` is the number of commands per second that each caller may submit. ``origins`` is a comma-separated list, in
    which ``*`` stands for every origin. ``notify_window`` is in seconds; previews show when messages would be sent.
    Without ``secret``, no page can be opened, because tickets and sessions are signed with it. ``trusted_proxies`` is a
    comma-separated list of networks. ``keep_alive`` is how many seconds an idle connection is kept open.
    """

    rate: int = Field(default=1000, ge=1)
    origins: str = ""
    public_url: str | None = None
    notify_window: float = Field(default=DEFAULT_NOTIFY_WINDOW, ge=0, le=3600)
    trusted_proxies: str = "127.0.0.0/8,::1/128"
    keep_alive: int = Field(default=75, ge=0)

    @field_validator("public_url")
    @classmethod
    def _with_scheme(cls, url: str | None) -> str | None:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("it must start with http:// or https://")
        return url.rstrip("/") if url else None

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        _networks(text)
        return text

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks whose proxies may say how callers reach the gateway."""
        return _networks(self.trusted_proxies)

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of other sites whose web pages may call the API."""
        return frozenset(origin.strip().rstrip("/").lower() for origin in self.origins.split(",") if origin.strip())

    @property
    def with_secrets(self) -> dict[str, str]:
        """The settings that contain secrets and are set, by variable name."""
        values = {
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "REDIS_URL": self.redis_url,
            "TOCSIN_SECRET": self.secret,
        }
        return {name: value for name, value in values.items() if value}

    @property
    def public_origin(self) -> str | None:
        """The origin of the gateway's public URL, if that URL is set."""
        return "/".join(self.public_url.split("/")[:3]).lower() if self.public_url else None


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return tuple(ip_network(name) for name in names)
    except ValueError as error:
        raise ValueError(f"it must be a list of networks, such as 10.0.0.0/8,::1/128: {error}") from None
