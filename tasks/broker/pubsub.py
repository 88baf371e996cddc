# redis-py says that it is typed, and is so in part.
# mypy: disable-error-code="no-untyped-call"
"""Wake-ups over Valkey's publish and subscribe: they save a wait, and nothing but time depends on them.

Whoever waits also polls. Without a URL, or with Valkey away, that is all that happens.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis
import redis.asyncio
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

OUTCOMES_CHANNEL = "tocsin:outcomes"
"""Ids of commands that ended, separated by spaces."""

EVENTS_CHANNEL = "tocsin:events"
"""Events wait for the relay or the notifier; the text does not matter."""

INBOX_CHANNEL = "tocsin:inbox"
"""Inboxes have new items; the text does not matter."""

TIMEOUT_SECONDS = 0.25
SKIP_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0

log = structlog.get_logger(__name__)


class WakeupPublisher:
    """Publishes wake-ups after a commit; never raises, and costs at most a quarter of a second in a while.

    After a failure it says nothing for ``SKIP_SECONDS``, so that an outage does not slow every batch down.
    """

    def __init__(self, url: str | None) -> None:
        self._client = _client(url) if url else None
        self._quiet_until = 0.0
        self._away = False

    def publish(self, channel: str, payload: str = "") -> None:
        """Wake who listens on this channel."""
        if self._client is None or time.monotonic() < self._quiet_until:
            return
        try:
            self._client.publish(channel, payload)
        except (RedisError, OSError) as error:
            self._quiet_until = time.monotonic() + SKIP_SECONDS
            if not self._away:
                log.warning("wake.away", error=str(error))
            self._away = True
        else:
            self._away = False

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()


class WakeupListener:
    """Waits for a wake-up or a time-out, for loops that poll; wake-ups in between come as one."""

    def __init__(self, url: str | None, channels: Iterable[str]) -> None:
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._listening = threading.Event()
        self._url = url
        self._channels = tuple(channels)
        self._thread = threading.Thread(target=self._listen_for_ever, args=(url,), name="wake-listener", daemon=True)

    def start(self) -> None:
        """Start listening; without a URL there is nothing to hear."""
        if self._url:
            self._thread.start()

    def stop(self) -> None:
        """End listening, and the wait of whoever waits."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(2 * TIMEOUT_SECONDS)

    def wait(self, timeout: float) -> bool:
        """Block until a wake-up or for ``timeout`` seconds; whether it was a wake-up."""
        woken = self._woken.wait(timeout)
        self._woken.clear()
        return woken

    def wait_until_subscribed(self, timeout: float) -> bool:
        """Block until the channels are subscribed, or for ``timeout`` seconds; whether they are."""
        return self._listening.wait(timeout)

    def _listen_for_ever(self, url: str) -> None:
        pause = 0.1
        while not self._stopped.is_set():
            try:
                self._listen(url)
            except (RedisError, OSError) as error:
                log.debug("wake.reconnecting", error=str(error), seconds=pause)
            heard = self._listening.is_set()
            self._listening.clear()
            pause = 0.1 if heard else min(pause * 2, MAX_BACKOFF_SECONDS)
            self._stopped.wait(pause)

    def _listen(self, url: str) -> None:
        with _client(url) as client, client.pubsub() as pubsub:
            pubsub.subscribe(*self._channels)
            while not self._stopped.is_set():
                message = pubsub.get_message(timeout=TIMEOUT_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._listening.set()
                # To have subscribed is a wake-up too: something may have been said before.
                self._woken.set()


async def subscribe(
    url: str | None,
    channels: Iterable[str],
    on_message: Callable[[str, str], None],
    *,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Hand every message to ``on_message(channel, payload)``, reconnecting for ever; ends when it is cancelled.

    ``on_listening`` is called at every (re)connection: what was said before that is lost, so look once.
    """
    pause = 0.1

    def subscribed() -> None:
        nonlocal pause
        pause = 0.1
        on_listening()

    while url:
        try:
            await _listen_once(url, tuple(channels), on_message, subscribed)
        except (RedisError, OSError) as error:
            log.debug("wake.reconnecting", error=str(error), seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_BACKOFF_SECONDS)
    await asyncio.Event().wait()


async def _listen_once(
    url: str, channels: tuple[str, ...], on_message: Callable[[str, str], None], subscribed: Callable[[], None]
) -> None:
    client = redis.asyncio.Redis.from_url(_spelling(url), **_options())
    async with client, client.pubsub() as pubsub:
        await pubsub.subscribe(*channels)
        subscribed()
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=30)
            if message is not None:
                on_message(str(message["channel"]), str(message["data"]))


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(_spelling(url), retry=Retry(NoBackoff(), 0), **_options())


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "health_check_interval": 10,
        "decode_responses": True,
        "encoding_errors": "replace",
    }


def _spelling(url: str) -> str:
    # kombu and redis-py name a unix socket differently.
    return "unix://" + url.removeprefix("redis+socket://") if url.startswith("redis+socket://") else url
