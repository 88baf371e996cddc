"""The channels that the settings configure. Deliveries on the others wait, visibly."""

from __future__ import annotations

import os

from models.notifications.chat_url import URL_PURPOSE
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
    # Apprise takes a while to import, and only workers of the lane for deliveries need it.
    from workers.deliver.channels.chat.channel import ChatChannel

    guard = NetworkGuard(settings.allowed_networks)
    channels: list[Channel] = [
        WebhookChannel(SecretBox(settings.secrets, SECRET_PURPOSE), HttpSender(guard, HostResolver())),
        ChatChannel(
            SecretBox(settings.secrets, URL_PURPOSE),
            guard,
            public_url=settings.public_url,
            ca_file=os.environ.get("SSL_CERT_FILE"),
        ),
    ]
    if email := EmailChannel.from_settings(settings, Tickets(settings.secrets)):
        channels.append(email)
    return channels
