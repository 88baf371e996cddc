"""The channels that the settings configure. Deliveries on the others wait, visibly."""

from __future__ import annotations

from models.notifications.network_guard import HostResolver, NetworkGuard
from models.notifications.tickets import Tickets
from models.notifications.webhook import SECRET_PURPOSE
from models.secrets import SecretBox
from workers.deliver.channel import Channel
from workers.deliver.channels.email.channel import EmailChannel
from workers.deliver.channels.webhook import WebhookChannel
from workers.deliver.http_sender import HttpSender
from workers.settings import WorkerSettings


def make_channels(settings: WorkerSettings) -> list[Channel]:
    """Return the channels for which every required setting is set, without connecting to anything.

    :raises SettingsError: if a setting has a value that cannot be used.
    """
    if not settings.secrets:
        return []
    sender = HttpSender(NetworkGuard(settings.allowed_networks), HostResolver())
    channels: list[Channel] = [WebhookChannel(SecretBox(settings.secrets, SECRET_PURPOSE), sender)]
    if email := EmailChannel.from_settings(settings, Tickets(settings.secrets)):
        channels.append(email)
    return channels
