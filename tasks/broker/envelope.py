"""What a message on our queues may look like: the rules of :mod:`tasks.broker.transport`, as plain functions.

The envelope is kombu's: ``body``, ``content-type``, ``content-encoding``, ``headers`` and ``properties``. On Valkey it
is a JSON text anyone could have pushed; for RabbitMQ the transport builds the same object from the AMQP message.
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
    """A message that no publisher of ours wrote; the text says which of its parts gives it away."""


def rejection_reason(envelope: bytes | Mapping[str, Any], *, queue: str) -> str | None:
    """Why this message must not reach Celery or a consumer, or none; see :func:`validate_envelope`."""
    try:
        validate_envelope(envelope, queue=queue)
    except InvalidEnvelope as unfit:
        return str(unfit)
    return None


def validate_envelope(envelope: bytes | Mapping[str, Any], *, queue: str) -> dict[str, Any]:
    """The envelope, parsed if it was raw, and on a lane without the headers we do not know.

    On every queue it must be a small JSON object that kombu can hold, acknowledge and restore; on a lane its task must
    be the lane's own, its only argument a hint, and everything that makes Celery act beyond that must be empty.

    :raises Unfit: it is anything else.
    """
    if not isinstance(envelope, Mapping):
        if len(envelope) > MAX_BYTES:
            raise InvalidEnvelope(f"larger than {MAX_BYTES} bytes")
        envelope = _mapping(_parsed(envelope, "envelope"), "envelope")
    headers = _mapping(envelope.get("headers"), "headers")
    properties = _mapping(envelope.get("properties"), "properties")
    _hold(_ENVELOPE, envelope, "envelope")
    _hold(_PROPERTIES, properties, "properties")
    _admit_address(_mapping(properties.get("delivery_info"), "delivery_info"), queue)
    body = _parsed(_body_of(envelope, properties), "body")
    if queue not in _TASKS:
        return dict(envelope)
    _hold(_HEADERS, headers, "headers")
    if headers["task"] != _TASKS[queue]:
        raise InvalidEnvelope("headers: not the task of this lane")
    _admit_call(body)
    # Celery copies every header into the task's context, where one named `callbacks` would act.
    return {**envelope, "headers": {name: value for name, value in headers.items() if name in _HEADERS}}


def _is_empty(value: object) -> bool:
    return not value


def _is_token(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]{1,255}", value) is not None


def _is_text(value: object) -> bool:
    # Printable: a lone surrogate is legal JSON and breaks the first encoder it meets.
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
    # Time lives in `due_at` columns, limits in the settings, and a hint leads to nothing but its own task.
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


def _hold(rules: Mapping[str, Rule], values: Mapping[str, Any], where: str) -> None:
    for name, holds in rules.items():
        if not holds(values.get(name)):
            raise InvalidEnvelope(f"{where}: {name}")


def _admit_address(address: Mapping[str, Any], queue: str) -> None:
    exchange, routing_key = address.get("exchange"), address.get("routing_key")
    # A restored message is pushed where it says it came from; without an exchange that could be any key.
    if not (isinstance(exchange, str) and _is_text(exchange)) or not (routing_key == queue or _is_token(exchange)):
        raise InvalidEnvelope("properties: delivery_info")


def _admit_call(body: object) -> None:
    match body:
        case [args, dict(kwargs), dict(embed)] if not kwargs:
            if not embed.keys() <= _EMBED or any(embed.values()):
                raise InvalidEnvelope("body: what is to follow is not empty")
        case _:
            raise InvalidEnvelope("body: not a call")
    try:
        Hint.parse(args)
    except InvalidHint as error:
        raise InvalidEnvelope("body: no hint") from error


def _body_of(envelope: Mapping[str, Any], properties: Mapping[str, Any]) -> bytes:
    match properties.get("body_encoding"), envelope.get("body"):
        case None, bytes(body) if len(body) <= MAX_BYTES:  # RabbitMQ carries bytes; JSON has none
            return body
        case "base64", str(body):
            try:
                return base64.b64decode(body, validate=True)
            except ValueError as error:
                raise InvalidEnvelope("body: not base64") from error
    raise InvalidEnvelope("body: encoding")


def _parsed(text: bytes, what: str) -> object:
    try:
        return json.loads(text.decode(), object_hook=_plain, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEnvelope(f"{what}: not JSON") from error


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # kombu turns such objects into dates, bytes and UUIDs, and raises what it likes when they are none.
    if "__type__" in value:
        raise ValueError("a typed value")
    return value


def _no_constant(name: str) -> Never:
    raise ValueError(name)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidEnvelope(f"{what}: not an object")
    return value
