"""Celery message envelopes, valid ones and ones that are malformed in every way we know."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

from models.enums import Lane
from tasks.broker.hints import Hint

QUEUE = Lane.COMMANDS.value
FORGED = "forged:1"

FORGED_CALL = {
    "task": Lane.COMMANDS.task_name,
    "args": Hint((FORGED,)).to_args(),
    "kwargs": {},
    "options": {"queue": QUEUE},
    "subtask_type": None,
    "immutable": True,
}


def an_envelope(subject: str = FORGED, *, body: Any = None, **headers: Any) -> dict[str, Any]:
    """Return a valid envelope; its hint's default subject must never be handled."""
    call = [Hint((subject,)).to_args(), {}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]
    text = json.dumps(call if body is None else body)
    return {
        "body": base64.b64encode(text.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": Lane.COMMANDS.task_name,
            "id": "11111111-1111-4111-8111-111111111111",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "11111111-1111-4111-8111-111111111111",
            "parent_id": None,
            "argsrepr": "hint",
            "kwargsrepr": "",
            "origin": "gen1@host",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **headers,
        },
        "properties": {
            "correlation_id": "11111111-1111-4111-8111-111111111111",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "22222222-2222-4222-8222-222222222222",
        },
    }


def raw(envelope: object) -> bytes:
    """Return an envelope in the form in which Valkey stores it in a list."""
    return json.dumps(envelope).encode()


def _with(part: str, **values: Any) -> bytes:
    envelope = an_envelope()
    envelope[part].update(values)
    return raw(envelope)


def _changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    envelope = copy.deepcopy(an_envelope())
    change(envelope)
    return raw(envelope)


def _call(args: Any = None, kwargs: Any = None, **embed: Any) -> bytes:
    good = Hint((FORGED,)).to_args()
    return raw(an_envelope(body=[good if args is None else args, {} if kwargs is None else kwargs, embed]))


def _body(body: str) -> bytes:
    return _changed(lambda envelope: envelope.update(body=body))


_FAR_FUTURE = "2099-01-01T00:00:00+00:00"
_TYPED = {"__type__": "datetime", "__value__": 5}

MALFORMED: dict[str, bytes] = {
    # the raw text
    "empty": b"",
    "not JSON": b"hello",
    "half an envelope": raw(an_envelope())[:100],
    "not UTF-8": b"\xff\xfe\x00{}",
    "a null": b"null",
    "a number": b"7",
    "a string": b'"commands"',
    "an array": b"[]",
    "an empty object": b"{}",
    "deeply nested": b"[" * 100_000,
    "a huge number": b'{"body":' + b"9" * 10_000 + b"}",
    "larger than allowed": raw(an_envelope("x", body="y" * 2_000_000)),
    "a typed value": raw({"__type__": "bytes", "__value__": "x"}),
    # headers
    "no headers": _changed(lambda envelope: envelope.pop("headers")),
    "null headers": _changed(lambda envelope: envelope.update(headers=None)),
    "headers a list": _changed(lambda envelope: envelope.update(headers=["task"])),
    "headers a string": _changed(lambda envelope: envelope.update(headers="task")),
    "no task": _changed(lambda envelope: envelope["headers"].pop("task")),
    "an unknown task": _with("headers", task="os.system"),
    "a task of Celery's own": _with("headers", task="celery.backend_cleanup"),
    "another lane's task": _with("headers", task=Lane.BULK.task_name),
    "task a list": _with("headers", task=[Lane.COMMANDS.task_name]),
    "task an object": _with("headers", task={"name": 1}),
    "no id": _changed(lambda envelope: envelope["headers"].pop("id")),
    "id a list": _with("headers", id=["1"]),
    "id a lone surrogate": _with("headers", id="\ud800"),
    "an eta in the far future": _with("headers", eta=_FAR_FUTURE),
    "an eta that is not a time": _with("headers", eta="soon"),
    "an eta that is a number": _with("headers", eta=5),
    "an eta before year 1": _with("headers", eta="0001-01-01T00:00:00+23:59"),
    "expires": _with("headers", expires=_FAR_FUTURE),
    "expires an object": _with("headers", expires={"in": 5}),
    "a custom time limit": _with("headers", timelimit=[1, 1]),
    "a time limit that is a string": _with("headers", timelimit="never"),
    "retries": _with("headers", retries=3),
    "a group": _with("headers", group="g1"),
    "a shadow name": _with("headers", shadow="payroll"),
    "stamps": _with("headers", stamped_headers=["a"], stamps={"a": 1}),
    "compressed": _with("headers", compression="application/x-gzip"),
    "an unknown compression": _with("headers", compression="zip of death"),
    "origin a lone surrogate": _with("headers", origin="\udfff"),
    # properties
    "no properties": _changed(lambda envelope: envelope.pop("properties")),
    "properties a list": _changed(lambda envelope: envelope.update(properties=[])),
    "no delivery tag": _changed(lambda envelope: envelope["properties"].pop("delivery_tag")),
    "delivery tag a list": _with("properties", delivery_tag=["t"]),
    "delivery tag an object": _with("properties", delivery_tag={"t": 1}),
    "delivery tag null": _with("properties", delivery_tag=None),
    "no delivery info": _changed(lambda envelope: envelope["properties"].pop("delivery_info")),
    "delivery info a string": _with("properties", delivery_info="commands"),
    "delivery info empty": _with("properties", delivery_info={}),
    "delivery info of another key": _with("properties", delivery_info={"exchange": "", "routing_key": "unacked"}),
    "priority infinite": raw(an_envelope()).replace(b'"priority": 0', b'"priority": 1e999'),
    "priority not a number": raw(an_envelope()).replace(b'"priority": 0', b'"priority": NaN'),
    "reply to an object": _with("properties", reply_to={"q": 1}),
    "an unknown body encoding": _with("properties", body_encoding="rot13"),
    "body encoding a number": _with("properties", body_encoding=5),
    # the body
    "no body": _changed(lambda envelope: envelope.pop("body")),
    "body null": _changed(lambda envelope: envelope.update(body=None)),
    "body an object": _changed(lambda envelope: envelope.update(body={"args": []})),
    "body a number": _changed(lambda envelope: envelope.update(body=7)),
    "body not base64": _body("!!!"),
    "body not JSON": _body(base64.b64encode(b"{").decode()),
    "body not UTF-8": _body(base64.b64encode(b"\xff").decode()),
    "body deeply nested": _body(base64.b64encode(b"[" * 100_000).decode()),
    "body an object of the first protocol": raw(an_envelope(body={"task": Lane.COMMANDS.task_name, "args": []})),
    "body an empty array": raw(an_envelope(body=[])),
    "body two elements": raw(an_envelope(body=[[], {}])),
    "body four elements": raw(an_envelope(body=[[], {}, {}, {}])),
    "args a string": _call("abc"),
    "args an object": _call({"subjects": []}),
    "args not a hint": _call([1]),
    "args typed values": _call([_TYPED]),
    "args with an extra element": _call([*Hint(("org:1",)).to_args(), 2]),
    "kwargs": _call(kwargs={"subjects": [FORGED]}),
    "kwargs a list": _call(kwargs=["x"]),
    "callbacks": _call(callbacks=[FORGED_CALL]),
    "callbacks of a wrong type": _call(callbacks=[7]),
    "errbacks": _call(errbacks=[FORGED_CALL]),
    "a chain": _call(chain=[FORGED_CALL]),
    "a chord": _call(chord=FORGED_CALL),
    "an unknown embed option": _call(reply_to="x"),
    "embed a list": raw(an_envelope(body=[[], {}, []])),
    # content type and encoding
    "pickle": _changed(lambda envelope: envelope.update({"content-type": "application/x-python-serialize"})),
    "yaml": _changed(lambda envelope: envelope.update({"content-type": "application/x-yaml"})),
    "content type unknown": _changed(lambda envelope: envelope.update({"content-type": "text/strange"})),
    "content type missing": _changed(lambda envelope: envelope.pop("content-type")),
    "content type a list": _changed(lambda envelope: envelope.update({"content-type": ["application/json"]})),
    "content encoding unknown": _changed(lambda envelope: envelope.update({"content-encoding": "klingon"})),
    "content encoding binary": _changed(lambda envelope: envelope.update({"content-encoding": "binary"})),
    "content encoding a number": _changed(lambda envelope: envelope.update({"content-encoding": 8})),
}
