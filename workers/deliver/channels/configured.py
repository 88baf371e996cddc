"""The channels that the settings configure. Deliveries on the others wait, visibly."""

from __future__ import annotations

from models.notifications.tickets import Tickets
from workers.deliver.channel import Channel
from workers.deliver.channels.email.channel import EmailChannel
from workers.settings import WorkerSettings


def make_channels(settings: WorkerSettings) -> list[Channel]:
    """Return the channels for which every required setting is set, without connecting to anything.

    :raises SettingsError: if a setting has a value that cannot be used.
    """
    if not settings.secrets:
        return []
    channels = [EmailChannel.from_settings(settings, Tickets(settings.secrets))]
    return [channel for channel in channels if channel is not None]
