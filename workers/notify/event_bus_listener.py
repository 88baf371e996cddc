# kombu is only partly typed, although it is marked as typed.
# mypy: disable-error-code="no-untyped-call"
"""The listener on the event bus, which wakes the notifier when there are new events."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from kombu.messaging import Consumer

from tasks.app import make_app
from tasks.broker.topology import declare, notifier_queue
from tasks.settings import BrokerSettings

LISTEN_SECONDS: Final = 0.5
"""How many seconds the listener waits for a message before it checks whether to stop."""

log = structlog.get_logger(__name__)


class EventBusListener:
    """A background thread that empties the notifier's queue and calls ``on_events`` when the queue held a message.

    The messages are acknowledged without being read, because the notifier reads the events from the database. While the
    broker is unreachable, the notifier relies on polling.
    """

    def __init__(self, settings: BrokerSettings, on_events: Callable[[], None]) -> None:
        self._app = make_app(settings)
        self._queue = notifier_queue(on_rabbitmq=not settings.on_redis)
        self._on_events = on_events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus-listener", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout: float = 2.0) -> None:
        """Stop the thread, and wait up to ``timeout`` seconds for it to end."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        unreachable = False
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:
                if not unreachable:
                    log.warning("bus.unreachable", error=str(error) or type(error).__name__)
                unreachable = True
                self._stop.wait(1.0)
            else:
                unreachable = False

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            declare(connection)
            with Consumer(
                connection.default_channel,
                self._queue,
                on_message=self._on_message,
                prefetch_count=1,
                auto_declare=False,
            ):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=LISTEN_SECONDS)

    def _on_message(self, message: Any) -> None:
        # The other messages say the same, and the rows that they announce are committed already.
        self._queue(message.channel).purge()
        message.ack()
        self._on_events()
