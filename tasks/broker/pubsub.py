# redis-py is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""Wake-ups over Valkey's publish/subscribe. They only reduce latency.

Every waiting process also polls. If no Valkey URL is configured, or Valkey is unreachable, it only polls.
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
"""The channel for finished commands. The payload holds their ids, separated by spaces."""

EVENTS_CHANNEL = "tocsin:events"
"""The channel that tells the relay and the notifier of new events. The payload is ignored."""

INBOX_CHANNEL = "tocsin:inbox"
"""The channel for new inbox items. The payload is ignored."""

TIMEOUT_SECONDS = 0.25
SKIP_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0

log = structlog.get_logger(__name__)


class WakeupPublisher:
    """Publishes wake-ups after a commit. It never raises.

    Each network operation takes at most ``TIMEOUT_SECONDS``. After an error, nothing is published for ``SKIP_SECONDS``,
    so that an outage does not slow down each batch.
    """

    def __init__(self, url: str | None) -> None:
        self._client = _client(url) if url else None
        self._skip_until = 0.0
        self._unreachable = False

    def publish(self, channel: str, payload: str = "") -> None:
        """Wake the channel's subscribers."""
        if self._client is None or time.monotonic() < self._skip_until:
            return
        try:
            self._client.publish(channel, payload)
        except (RedisError, OSError) as error:
            self._skip_until = time.monotonic() + SKIP_SECONDS
            if not self._unreachable:
                log.warning("wakeup.unreachable", error=str(error))
            self._unreachable = True
        else:
            self._unreachable = False

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


class WakeupListener:
    """Lets a polling loop wait for wake-ups. Wake-ups that arrive between two waits are merged."""

    def __init__(self, url: str | None, channels: Iterable[str]) -> None:
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._subscribed = threading.Event()
        self._url = url
        self._channels = tuple(channels)
        self._thread = threading.Thread(target=self._run, args=(url,), name="wake-listener", daemon=True)

    def start(self) -> None:
        """Start the listening thread. Do nothing if no URL is configured."""
        if self._url:
            self._thread.start()

    def stop(self) -> None:
        """Stop listening, and wake the loop if it is waiting."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(2 * TIMEOUT_SECONDS)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a wake-up, and return whether one arrived."""
        woken = self._woken.wait(timeout)
        self._woken.clear()
        return woken

    def wait_until_subscribed(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the subscription, and return whether it is confirmed."""
        return self._subscribed.wait(timeout)

    def _run(self, url: str) -> None:
        pause = 0.1
        while not self._stopped.is_set():
            try:
                self._listen(url)
            except (RedisError, OSError) as error:
                log.debug("wakeup.reconnecting", error=str(error), seconds=pause)
            was_subscribed = self._subscribed.is_set()
            self._subscribed.clear()
            pause = 0.1 if was_subscribed else min(pause * 2, MAX_BACKOFF_SECONDS)
            self._stopped.wait(pause)

    def _listen(self, url: str) -> None:
        with _client(url) as client, client.pubsub() as pubsub:
            pubsub.subscribe(*self._channels)
            while not self._stopped.is_set():
                message = pubsub.get_message(timeout=TIMEOUT_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._subscribed.set()
                # The subscription itself is a wake-up, because earlier messages were missed.
                self._woken.set()


async def subscribe(
    url: str | None,
    channels: Iterable[str],
    on_message: Callable[[str, str], None],
    *,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Call ``on_message(channel, payload)`` for every message until cancelled, reconnecting whenever necessary.

    ``on_listening`` is called each time the subscription is established. Messages sent before that call are lost, so
    the caller then has to poll once.
    """
    pause = 0.1

    def subscribed() -> None:
        nonlocal pause
        pause = 0.1
        on_listening()

    while url:
        try:
            await _subscribe_once(url, tuple(channels), on_message, subscribed)
        except (RedisError, OSError) as error:
            log.debug("wakeup.reconnecting", error=str(error), seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_BACKOFF_SECONDS)
    await asyncio.Event().wait()


async def responds(url: str, *, seconds: float) -> bool:
    """Return whether the server responds within so many seconds."""
    try:
        async with asyncio.timeout(seconds), redis.asyncio.Redis.from_url(_redis_py_url(url), **_options()) as client:
            return bool(await client.ping())
    except (RedisError, OSError):
        return False


async def _subscribe_once(
    url: str, channels: tuple[str, ...], on_message: Callable[[str, str], None], subscribed: Callable[[], None]
) -> None:
    client = redis.asyncio.Redis.from_url(_redis_py_url(url), **_options())
    async with client, client.pubsub() as pubsub:
        await pubsub.subscribe(*channels)
        subscribed()
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=30)
            if message is not None:
                on_message(str(message["channel"]), str(message["data"]))


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(_redis_py_url(url), retry=Retry(NoBackoff(), 0), **_options())


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "health_check_interval": 10,
        "decode_responses": True,
        "encoding_errors": "replace",
    }


def _redis_py_url(url: str) -> str:
    # kombu and redis-py use different schemes for a Unix socket.
    return "unix://" + url.removeprefix("redis+socket://") if url.startswith("redis+socket://") else url
