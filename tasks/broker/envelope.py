"""Validation of the messages on tocsin's queues: the rules that :mod:`tasks.broker.transport` enforces.

The envelope is kombu's: ``body``, ``content-type``, ``content-encoding``, ``headers`` and ``properties``. On Valkey, it
is JSON text that any client could have pushed. On RabbitMQ, the transport builds it from the AMQP message.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Never

from models.enums import Lane
from tasks.broker.hints import Hint, InvalidHint

MAX_BYTES = 1024 * 1024

Rule = Callable[[object], bool]


class InvalidEnvelope(Exception):
    """Raised when a message cannot have been published by tocsin. The error's text names the invalid part."""


def rejection_reason(envelope: bytes | Mapping[str, Any], *, queue: str) -> str | None:
    """Return why :func:`validate_envelope` rejects the envelope, or ``None`` if it is valid."""
    try:
        validate_envelope(envelope, queue=queue)
    except InvalidEnvelope as error:
        return str(error)
    return None


def validate_envelope(envelope: bytes | Mapping[str, Any], *, queue: str) -> dict[str, Any]:
    """Validate an envelope and return it parsed. For a lane's queue, unknown headers are removed.

    On every queue, the envelope must be a small JSON object that kombu can process, acknowledge and restore. On a
    lane's queue, it must call the lane's task with a hint as the only argument, and every field that could make Celery
    do anything more must be empty.

    :raises InvalidEnvelope: the envelope breaks one of these rules.
    """
    if not isinstance(envelope, Mapping):
        if len(envelope) > MAX_BYTES:
            raise InvalidEnvelope(f"larger than {MAX_BYTES} bytes")
        envelope = _mapping(_parsed(envelope, "envelope"), "envelope")
    headers = _mapping(envelope.get("headers"), "headers")
    properties = _mapping(envelope.get("properties"), "properties")
    _check_fields(_ENVELOPE, envelope, "envelope")
    _check_fields(_PROPERTIES, properties, "properties")
    _check_delivery_info(_mapping(properties.get("delivery_info"), "delivery_info"), queue)
    body = _parsed(_body_of(envelope, properties), "body")
    if queue not in _TASKS:
        return dict(envelope)
    _check_fields(_HEADERS, headers, "headers")
    if headers["task"] != _TASKS[queue]:
        raise InvalidEnvelope("headers: not the task of this lane")
    _check_call(body)
    # Celery copies every header into the task's context, where one named `callbacks` would be executed.
    return {**envelope, "headers": {name: value for name, value in headers.items() if name in _HEADERS}}


def _is_empty(value: object) -> bool:
    return not value


def _is_token(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]{1,255}", value) is not None


def _is_text(value: object) -> bool:
    # Printable, because a lone surrogate is legal JSON but cannot be encoded as UTF-8.
    return value is None or (isinstance(value, str) and len(value) <= 1000 and value.isprintable())


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_small_number(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= 255)


def _is_utf8(value: object) -> bool:
    return isinstance(value, str) and value.lower() == "utf-8"


_ENVELOPE: dict[str, Rule] = {
    "content-type": lambda value: value == "application/json",
    "content-encoding": _is_utf8,
}

_PROPERTIES: dict[str, Rule] = {
    "delivery_tag": _is_token,
    "priority": _is_small_number,
    "correlation_id": _is_text,
    "reply_to": _is_text,
}

_HEADERS: dict[str, Rule] = {
    "task": _is_token,
    "id": _is_token,
    "lang": _is_text,
    "root_id": _is_text,
    "parent_id": _is_text,
    "argsrepr": _is_text,
    "kwargsrepr": _is_text,
    "origin": _is_text,
    "traceparent": _is_text,
    "tracestate": _is_text,
    "redelivered": _is_flag,
    "ignore_result": _is_flag,
    # Due times are columns, time limits are settings, and a hint starts no task but its own.
    "eta": _is_empty,
    "expires": _is_empty,
    "timelimit": lambda value: value in (None, [None, None]),
    "retries": _is_empty,
    "shadow": _is_empty,
    "group": _is_empty,
    "group_index": _is_empty,
    "replaced_task_nesting": _is_empty,
    "stamped_headers": _is_empty,
    "stamps": _is_empty,
    "compression": _is_empty,
}

_EMBED = frozenset({"callbacks", "errbacks", "chain", "chord"})
_TASKS = {lane.value: lane.task_name for lane in Lane}


def _check_fields(rules: Mapping[str, Rule], values: Mapping[str, Any], where: str) -> None:
    for name, is_valid in rules.items():
        if not is_valid(values.get(name)):
            raise InvalidEnvelope(f"{where}: {name}")


def _check_delivery_info(address: Mapping[str, Any], queue: str) -> None:
    exchange, routing_key = address.get("exchange"), address.get("routing_key")
    # kombu puts a message back at the address that it names. Without an exchange, that could be any Redis key.
    if not (isinstance(exchange, str) and _is_text(exchange)) or not (routing_key == queue or _is_token(exchange)):
        raise InvalidEnvelope("properties: delivery_info")


def _check_call(body: object) -> None:
    match body:
        case [args, dict(kwargs), dict(embed)] if not kwargs:
            if not embed.keys() <= _EMBED or any(embed.values()):
                raise InvalidEnvelope("body: callbacks, errbacks, chain or chord is not empty")
        case _:
            raise InvalidEnvelope("body: not a call")
    try:
        Hint.parse(args)
    except InvalidHint as error:
        raise InvalidEnvelope("body: not a hint") from error


def _body_of(envelope: Mapping[str, Any], properties: Mapping[str, Any]) -> bytes:
    match properties.get("body_encoding"), envelope.get("body"):
        case None, bytes(body) if len(body) <= MAX_BYTES:  # from RabbitMQ; JSON has no bytes
            return body
        case "base64", str(body):
            try:
                return base64.b64decode(body, validate=True)
            except ValueError as error:
                raise InvalidEnvelope("body: not base64") from error
    raise InvalidEnvelope("body: encoding")


def _parsed(text: bytes, what: str) -> object:
    try:
        return json.loads(text.decode(), object_hook=_reject_typed_value, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEnvelope(f"{what}: not JSON") from error


def _reject_typed_value(value: dict[str, Any]) -> dict[str, Any]:
    # kombu would convert such an object to a date, bytes or a UUID, and raise arbitrary errors for a malformed one.
    if "__type__" in value:
        raise ValueError("a typed value")
    return value


def _reject_constant(name: str) -> Never:
    raise ValueError(name)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidEnvelope(f"{what}: not an object")
    return value
