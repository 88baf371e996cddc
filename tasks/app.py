"""The Celery application, built from settings: only hints travel, and losing one costs time, never work."""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery

from tasks.broker.topology import lane_queues
from tasks.broker.transport import guard_transports
from tasks.settings import BrokerSettings

SOFT_LIMIT_SECONDS = 8
HARD_LIMIT_SECONDS = 12

_AMQPS_FILES: Final = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
"""The parameters of an amqps:// URL, spelt as in a rediss:// URL, by py-amqp's names."""


def make_app(settings: BrokerSettings) -> Celery:
    """A Celery application on the guarded transports; it connects when it is first used."""
    guard_transports()
    app = Celery("tocsin", set_as_current=False)
    app.conf.update(
        broker_url=_address(settings.broker_url),
        broker_use_ssl=_tls(settings.broker_url),
        broker_transport_options=_valkey_options() if settings.on_redis else _rabbitmq_options(),
        broker_connection_timeout=2,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A full server, a key of another type: for an operator to mend, and until then to be tried again.
        broker_channel_error_retry=True,
        task_queues=lane_queues(on_rabbitmq=not settings.on_redis),
        task_create_missing_queues=False,
        task_default_queue=None,
        **_messages(),
        **_work(),
        **_quiet(celery_events=settings.celery_events),
    )
    return app


def _messages() -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_publish_retry": True,
        # One, at once: it mends a connection that the broker closed in the meantime. The sweeper is the real retry.
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
    }


def _work() -> dict[str, Any]:
    return {
        "worker_consumer": "tasks.broker.consumer:HintConsumer",
        "worker_prefetch_multiplier": 1,
        "task_acks_late": True,
        # A task that kills its process is acknowledged, not redelivered: the rows it was about still wait, the sweeper
        # hints at them again, and the ledger counts the attempt. A redelivered hint would kill the next process too.
        "task_reject_on_worker_lost": False,
        "task_acks_on_failure_or_timeout": True,
        "task_soft_time_limit": SOFT_LIMIT_SECONDS,
        "task_time_limit": HARD_LIMIT_SECONDS,
        # What is running when the broker goes away runs on: it commits, whatever becomes of its message.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0.0,
        "worker_disable_rate_limits": True,
    }


def _quiet(*, celery_events: bool) -> dict[str, Any]:
    return {
        "worker_enable_remote_control": celery_events,
        "worker_send_task_events": celery_events,
        "task_send_sent_event": celery_events,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _valkey_options() -> dict[str, Any]:
    return {
        "visibility_timeout": 60,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_timeout": 2,
        "socket_connect_timeout": 1,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # No hint goes before another: one list per queue instead of four.
        "priority_steps": [0],
        **_publisher_patience(),
    }


def _rabbitmq_options() -> dict[str, Any]:
    return {"confirm_publish": True, "read_timeout": 5, **_publisher_patience()}


def _publisher_patience() -> dict[str, Any]:
    # kombu opens a publisher's connection with these; without them it tries for ever. Workers have their own setting.
    return {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def _address(url: str) -> str:
    """The broker's URL as kombu takes it: py-amqp wants the files from :func:`_tls`, by names of its own."""
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return url
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in _AMQPS_FILES]
    return parts._replace(query=urlencode(kept)).geturl()


def _tls(url: str) -> dict[str, Any] | None:
    # Celery's defaults encrypt and do not look whom they talk to. Only a rediss:// URL may ask for that.
    if url.startswith("rediss://"):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if url.startswith("amqps://"):
        asked = dict(parse_qsl(urlsplit(url).query))
        files = {theirs: asked[ours] for ours, theirs in _AMQPS_FILES.items() if ours in asked}
        # Without a name kombu puts in the host's own, and the certificate is compared with it.
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None} | files
    return None
