"""The Celery application. It carries only hints, so a lost message delays work but never loses it."""

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
"""Maps the file parameters of an amqps:// URL, named as in a rediss:// URL, to py-amqp's names."""


def make_app(settings: BrokerSettings) -> Celery:
    """Return a Celery application that uses the guarded transports. It connects on first use."""
    guard_transports()
    app = Celery("tocsin", set_as_current=False)
    app.conf.update(
        broker_url=_kombu_url(settings.broker_url),
        broker_use_ssl=_tls(settings.broker_url),
        broker_transport_options=_valkey_options() if settings.on_redis else _rabbitmq_options(),
        broker_connection_timeout=2,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Errors such as a full server or a key of the wrong type are retried until an operator has fixed them.
        broker_channel_error_retry=True,
        task_queues=lane_queues(on_rabbitmq=not settings.on_redis),
        task_create_missing_queues=False,
        task_default_queue=None,
        **_message_options(),
        **_worker_options(),
        **_monitoring_options(celery_events=settings.celery_events),
    )
    return app


def _message_options() -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_publish_retry": True,
        # One immediate retry, in case the broker has closed an idle connection. The sweeper does the real retrying.
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
    }


def _worker_options() -> dict[str, Any]:
    return {
        "worker_consumer": "tasks.broker.consumer:HintConsumer",
        "worker_prefetch_multiplier": 1,
        "task_acks_late": True,
        # A hint whose task kills its process is acknowledged: if redelivered, it would kill the next process, too.
        # Its commands still wait in the ledger, which counts the attempt, and the sweeper sends new hints for them.
        "task_reject_on_worker_lost": False,
        "task_acks_on_failure_or_timeout": True,
        "task_soft_time_limit": SOFT_LIMIT_SECONDS,
        "task_time_limit": HARD_LIMIT_SECONDS,
        # A running task carries on without the broker and commits, whatever happens to its message.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0.0,
        "worker_disable_rate_limits": True,
    }


def _monitoring_options(*, celery_events: bool) -> dict[str, Any]:
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
        # Hints have no priorities: one list per queue instead of four.
        "priority_steps": [0],
        **_publisher_retries(),
    }


def _rabbitmq_options() -> dict[str, Any]:
    return {"confirm_publish": True, "read_timeout": 5, "write_timeout": 5, **_publisher_retries()}


def _publisher_retries() -> dict[str, Any]:
    # For publishers, whose connections kombu would otherwise retry forever. Workers have a setting of their own.
    return {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def _kombu_url(url: str) -> str:
    """Return the broker's URL without the TLS file parameters, which :func:`_tls` passes on under other names."""
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return url
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in _AMQPS_FILES]
    return parts._replace(query=urlencode(kept)).geturl()


def _tls(url: str) -> dict[str, Any] | None:
    # By default, Celery encrypts without verifying the certificate. Only a rediss:// URL may request that.
    if url.startswith("rediss://"):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if url.startswith("amqps://"):
        parameters = dict(parse_qsl(urlsplit(url).query))
        files = {amqp_name: parameters[name] for name, amqp_name in _AMQPS_FILES.items() if name in parameters}
        # With None, kombu inserts the URL's host, against which the certificate is then verified.
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None} | files
    return None
