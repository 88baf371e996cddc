"""Generate requests that must be refused: each has at least one defect and is otherwise valid."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

Header = tuple[bytes, bytes]

STREAM: Final = "text/event-stream"
NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})

EXISTING: Final = {
    "organization": "acme", "identifier": "1", "project": "p1", "rule": "1", "trigger": "1001", "action": "1002",
    "webhook": "1", "delivery": "01a224b3-4109-77a6-b7e9-0495fba1aaaa",
}  # fmt: skip

# Credentials that may neither write nor read streams.
UNAUTHORIZED_TO_READ: Final = [
    b"", b"Bearer", b"Bearer ", b"Bearer nobody", b"Basic dXNlcjpwYXNz", b"Bearer dev-gone", b"Bearer dev-out",
    b"bearer \xff\xfe", b"Bearer " + b"x" * 9_000, b"Digest dev-own",
]  # fmt: skip
UNAUTHORIZED_TO_WRITE: Final = [*UNAUTHORIZED_TO_READ, b"Bearer dev-viewer", b"Bearer dev-key"]
OWNER: Final = b"Bearer dev-own"
OPERATOR: Final = b"Bearer dev-ops"
SERVICE: Final = b"Bearer dev-bot"

INVALID_JSON: Final = [
    b"{", b"}", b"[", b'"', b"nul", b"{]", b"[1,]", b'{"a":1,}', b"{'a':1}", b'{"a" 1}', b"{} {}", b"// x\n{}", b" ",
    b"\0", b"\xff", b'{"comment":"\xc3\x28"}', b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b'{"a":NaN}', b'{"a":Infinity}',
    b'{"a":01}', b'{"a":+1}', b'{"a":1e}', b'{"a":"\n"}', b'{"a":"\\x"}', b'{"a":"\\u12"}',
    b'{"comment":1,"comment":2}', b'{"a":{"b":1,"b":1}}', b'{"a":' + b"9" * 5_000 + b"}", b"[" * 60_000,
    b'{"a":' * 9_000, b"[" * 21 + b"]" * 21, b'{"a":' * 21 + b"1" + b"}" * 21, gzip.compress(b'{"comment":"x"}'),
    b"<?xml version='1.0'?><a/>", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
    b'{"comment":"' + b"x" * 66_000 + b'"',
]  # fmt: skip
NON_OBJECTS: Final = [
    b"[]", b"[{}]", b"1", b"-0", b"1e400", b"1.5", b"true", b"null", b'""', b'"\\u0000"', b'"\\ud800"', b"[[[[[]]]]]",
]  # fmt: skip

VALID_FIELDS: Final[dict[str, Any]] = {
    "comment": "x", "status": 2, "title": "x", "projects": ["p1"], "ids": [1], "target": "everyone", "name": "x",
    "aggregate": "count()", "query": "", "timeWindow": 10, "thresholdType": 0, "label": "critical",
    "alertThreshold": 100, "triggers": [{"label": "critical", "alertThreshold": 100}], "type": "email",
    "targetType": "user", "targetIdentifier": "12", "project": "p1", "value": 101,
    "timestamp": "2026-11-23T10:00:00Z", "version": "4", "groupKey": "x", "alerts": [{"status": "firing"}],
    "url": "https://93.184.215.14/", "events": ["*"], "reason": "x", "scope": "queue",
}  # fmt: skip

JUNK: Final[list[Any]] = [
    None, True, 0, -1, 1.5, 1e308, 10**30, 10**4_000, 2**63, "", " ", "x", "\0", "\ud800", "1" * 40, "²", "１",
    "a" * 10_000, [], {}, [None], [[]], {"a": {"a": []}}, ["\0"], {"\0": 1}, "'; DROP TABLE commands; --", "%s%n", "{}",
    "../../etc/passwd",
]  # fmt: skip
INVALID_VALUES: Final[list[Any]] = [None, False, True, {}, {"a": {"a": []}}, {"\0": 1}, [[[]]], [None], [{}], ["\0"]]
"""Values that no required field accepts, apart from :data:`VALID_ALL_THE_SAME`."""

VALID_ALL_THE_SAME: Final[list[tuple[str, Any]]] = [("value", None), ("alerts", [{}])]
"""An observation may be null, and an alert without a status has that of its group."""

# Path segments that name no organization and no incident.
INVALID_PATH_SEGMENTS: Final = [
    "%00", "acme%00", "%ff", "%c0%af", "%2e%2e%2f", "..%2f", "%2F", "a%2Fb", "-1", "+1", "1.0", "1e0", "0x1", "1%20",
    "%201", "%C2%B2", "%EF%BC%91", "9223372036854775808", "9" * 200, "x" * 4_000, "%25%30%30", "%E2%80%AE",
    "%F0%9F%92%A9", "null", "undefined", "%27%20OR%201=1", "{identifier}", "%0d%0aX:1", "%", "%zz", "~", ";a=b", "%3F",
    "%23",
]  # fmt: skip

QUERIES: Final = [
    "per_page=", "per_page=0", "per_page=-1", "per_page=1e3", "per_page=" + "9" * 300, "per_page=%00", "per_page=%B2",
    "cursor=", "cursor=%00", "cursor=0:0:0", "cursor=W10", "cursor=WzAsMCxbMV1d", "cursor=WzAsMCxbMWU0MDBdXQ",
    "cursor=" + "A" * 9_000, "cursor=WzAsMCxbImEiLCJiIl1d", "cursor=WzAsMCxbIlx1MDAwMCJdXQ", "cursor=eyJhIjoxfQ",
    "cursor=WzAsMCxbIjIwMjYtMTEtMjNUMTA6MDA6MDBaIiwxXV0", "cursor=WzEsMSxbIjk5OTktMTItMzFUMjM6NTk6NTktMTI6MDAiLDFdXQ",
    "query=%00", "query=%ff", "query=%25_%5C", "query=" + "%F0%9F%92%A9" * 500, "desc=%00", "unread=%00", "&&&&", "=",
    "=%00", "a[]=1&a[b]=2", "%", "%zz=%", "verbose=%00", "&".join(["a=1"] * 2_000), "status=%00", "user=%00",
    "mentions=%00", "mentions=user:" + "9" * 99, "mentions=team:0&mentions=%ff", "&".join(["mentions=x"] * 500),
    "dedupKey=%00", "dedupKey=%ff", "dedupKey=" + "x" * 9_000, "title=%00", "title=%25_%5C%5C%5C", "title=%ed%a0%80",
    "start=%00", "start=never", "start=" + "9" * 40 + "h", "start=0001-01-01T00:00:00%2B14:00", "end=%D9%A3", "end=-0",
    "end=9999-12-31T23:59:59-14:00", "end=1" + "e9" * 200, "project=" + "9" * 4_500, "project=%D9%A3", "project=-1",
    "projectSlug=%00", "projectSlug=$all&projectSlug=", "team=%00", "team=" + "9" * 99, "team=myteams&team=unassigned",
    "alertRule=" + "9" * 50, "alertRule=&includeSnapshots=0", "environment=%00", "environment=", "expand=activities",
    "expand=%00&expand=seen_by", "incident=%00",
]  # fmt: skip

INVALID_HEADER_VALUES: Final[dict[bytes, list[bytes]]] = {
    b"Idempotency-Key": [b"", b"a b", b"\xe9", b"k" * 256, b"\t"],
    b"If-Match": [b"1", b'w/"1"', b'"1" "2"', b"", b"*, *", b'"1", *', b'"1', b'"a b"'],
    b"Act-As": [b"user:11", b"", b"user:\xb2", b"team:1", b"user:" + b"9" * 99],
    b"Origin": [b"https://evil.test", b"null", b"\xff", b""],
    b"Content-Type": [
        b"text/plain",
        b"\xff",
        b"",
        b"json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
    ],
    b"Content-Encoding": [b"gzip", b"identity, br", b"\xff"],
    b"Authorization": [OWNER],
}
INVALID_HEADERS: Final[list[list[Header]]] = [
    *([(name, value)] for name, values in INVALID_HEADER_VALUES.items() for value in values),
    [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"a")],
    [(b"If-Match", b'"1"'), (b"If-Match", b"*")],
]
"""Headers each of which causes a write to be refused. The Authorization header is sent in addition to a valid one."""

HARMLESS_VALUES: Final[dict[bytes, list[bytes]]] = {
    b"Prefer": [b"wait=" + b"9" * 400, b"wait=-1, respond-async=\xff;;;,,", b"respond-async", b""],
    b"Accept": [b"application/problem+json", b"application/problem+json;q=\xb2,*/*;q=x", b"\xff" * 300, b""],
    b"If-None-Match": [b"*", b"\xff,,,", b'W/"' + b"x" * 5_000 + b'"'],
    b"Last-Event-ID": [b"\xff", b"x" * 5_000],
    b"Accept-Encoding": [b"\xff"],
    b"Content-Encoding": [b"identity", b""],
    b"Cookie": [b"a=\xff; b" * 50],
    b"Forwarded": [b'for="_\xff"'],
    b"Range": [b"bytes=9-1"],
    b"Upgrade-Insecure-Requests": [b"\xff"],
    b"X-Forwarded-For": [b"\xff"],
    b"X-Forwarded-Host": [b"evil.test"],
    b"X-Forwarded-Proto": [b"gopher"],
    b"X-Http-Method-Override": [b"DELETE"],
    b"X-" + b"y" * 200: [b"z" * 2_000],
    b"traceparent": [b"00-" + b"f" * 32 + b"-\xff-zz"],
}
HARMLESS_HEADERS: Final[list[Header]] = [(name, value) for name, values in HARMLESS_VALUES.items() for value in values]

_POST: Final = b"POST %(path)s HTTP/1.1\r\nHost: a\r\n"
_AS_OWNER: Final = _POST + b"Authorization: Bearer dev-own\r\n"
MALFORMED_HTTP: Final = [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n", b"\0\0\0\0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    _POST + b"Content-Length: -1\r\n\r\n{}",
    _POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Content-Length: 1e1\r\n\r\n{}",
    _POST + b"Content-Length: 9999999999999999999999\r\n\r\n{}",
    _POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
    _POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    _POST + b" : x\r\nContent-Length: 2\r\n\r\n{}",
    _AS_OWNER + b'Content-Length: 40\r\n\r\n{"comment":"x"}',
    _AS_OWNER + b'Content-Length: 999999999\r\n\r\n{"comment":"x"}',
    _AS_OWNER + b'Transfer-Encoding: chunked\r\n\r\nf\r\n{"comment":"x"}\r\n',
    b"POST %(path)s HTTP/1.0\r\nContent-Length: 50\r\n\r\n{}",
    b"GET %(path)s HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
"""Malformed or truncated HTTP messages, each of which needs its own connection."""

RULE_CHECKED_BY_WORKER: Final = ("/snooze/", "/observations/")

CALLERS: Final = {
    "directory": OPERATOR,
    "alertmanager": SERVICE,
    **dict.fromkeys(("dead", "series", "audit", "holds", "requeue", "discard"), OPERATOR),
}
"""Credentials for endpoints to which the owner may not write, by the last segment of the path."""

HOSTS: Final = [b"localhost", b"evil.test:1", b"[::1]", b"\xff", b""]
OTHER_METHODS: Final = ["HEAD", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "QUERY", "M-SEARCH"]


@dataclass(frozen=True)
class Operation:
    """An operation in the OpenAPI document."""

    method: str
    path: str
    required: tuple[str, ...] = ()
    has_body: bool = False
    is_open: bool = False
    streams: bool = False

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Request:
    """The bytes of a request, and whether it is a write."""

    content: bytes
    method: str
    is_write: bool


def operations_of(document: Any) -> list[Operation]:
    return [
        _operation(document, method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if method != "parameters"
    ]


def _operation(document: Any, method: str, path: str, described: Any) -> Operation:
    schema = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return Operation(
        method=method,
        path=path,
        required=tuple(schema.get("required", ())),
        has_body="requestBody" in described,
        is_open=described.get("security") == [],
        streams=STREAM in described["responses"].get("200", {}).get("content", {}),
    )


def hostile_requests(operations: Sequence[Operation], rng: Random) -> Iterator[Request]:
    """Yield requests endlessly; every write among them must be refused."""
    weights = [3 if operation.is_write else 1 for operation in operations]
    while True:
        [operation] = rng.choices(operations, weights)
        defect = rng.choice([each for each, fits in DEFECTS.items() if fits(operation)])
        yield defect(operation, rng)


def malformed_http(operations: Sequence[Operation], chance: Random) -> bytes:
    path = _path(chance.choice(operations), chance, NO_PARAMETERS).encode()
    return chance.choice(MALFORMED_HTTP).replace(b"%(path)s", path)


# --- one defect each ---------------------------------------------------------------------------------------------


def _unauthorized(operation: Operation, chance: Random) -> Request:
    who = chance.choice(UNAUTHORIZED_TO_READ if operation.streams else UNAUTHORIZED_TO_WRITE)
    body = chance.choice([_valid_body(operation, chance), _random_body(chance), chance.choice(INVALID_JSON), b""])
    return _request(operation, chance, credential=who, body=body)


def _invalid_json(operation: Operation, chance: Random) -> Request:
    return _request(operation, chance, body=chance.choice(INVALID_JSON))


def _truncated_json(operation: Operation, chance: Random) -> Request:
    body = _valid_body(operation, chance)
    return _request(operation, chance, body=body[: chance.randrange(1, len(body))])


def _non_object(operation: Operation, chance: Random) -> Request:
    return _request(operation, chance, body=chance.choice(NON_OBJECTS))


def _missing_field(operation: Operation, chance: Random) -> Request:
    fields = {**json.loads(_random_body(chance)), **json.loads(_valid_body(operation, chance))}
    del fields[chance.choice(operation.required)]
    return _request(operation, chance, body=_json(fields))


def _invalid_value(operation: Operation, chance: Random) -> Request:
    name = chance.choice(operation.required)
    value = chance.choice([each for each in INVALID_VALUES if (name, each) not in VALID_ALL_THE_SAME])
    return _request(operation, chance, body=_json(json.loads(_valid_body(operation, chance)) | {name: value}))


def _invalid_header(operation: Operation, chance: Random) -> Request:
    return _request(operation, chance, body=_valid_body(operation, chance), headers=chance.choice(INVALID_HEADERS))


def _invalid_path(operation: Operation, chance: Random) -> Request:
    named = re.findall(r"{(\w+)}", operation.path)
    # Comments, projects, webhooks and destinations, and the rule of a snooze or an observation, are looked up only by
    # the worker.
    looked_up = (
        set(named)
        - {"comment", "project", "webhook", "delivery", "destination"}
        - ({"rule"} if operation.path.endswith(RULE_CHECKED_BY_WORKER) else set())
    )
    invalid = {chance.choice(sorted(looked_up)), *chance.sample(named, k=chance.randrange(len(named)))}
    names = {name: chance.choice(INVALID_PATH_SEGMENTS) for name in sorted(invalid)}
    return _request(operation, chance, body=_valid_body(operation, chance), parameters=names)


def _random_query(operation: Operation, chance: Random) -> Request:
    query = "&".join(chance.sample(QUERIES, k=chance.randrange(1, 4)))
    return _request(operation, chance, query=query)


def _other_method(operation: Operation, chance: Random) -> Request:
    method = chance.choice(OTHER_METHODS)
    return _request(operation, chance, method=method, body=chance.choice([b"", _valid_body(operation, chance)]))


def _is_organization_write(operation: Operation) -> bool:
    return operation.is_write and "{organization}" in operation.path


DEFECTS: Final[Mapping[Callable[[Operation, Random], Request], Callable[[Operation], bool]]] = {
    # The credentials without an organization belong to people, who may change their own preferences.
    _unauthorized: lambda operation: "/users/me/" not in operation.path,
    _invalid_json: lambda operation: not operation.streams,
    _truncated_json: lambda operation: operation.has_body,
    _non_object: lambda operation: operation.has_body,
    _missing_field: lambda operation: bool(operation.required),
    _invalid_value: lambda operation: bool(operation.required),
    _invalid_header: _is_organization_write,
    _invalid_path: lambda operation: "{organization}" in operation.path,
    _random_query: lambda operation: not operation.is_write and not operation.streams,
    _other_method: lambda operation: not operation.streams,
}
"""Each defect, with the operations that must refuse it."""


# --- building a request ------------------------------------------------------------------------------------------


def _request(
    operation: Operation,
    rng: Random,
    *,
    method: str | None = None,
    credential: bytes | None = None,
    body: bytes = b"",
    headers: Sequence[Header] = (),
    parameters: Mapping[str, str] = NO_PARAMETERS,
    query: str = "",
) -> Request:
    method = method or operation.method
    if credential is None:
        credential = CALLERS.get(operation.path.rstrip("/").rpartition("/")[2], OWNER)
    path = _path(operation, rng, parameters)
    if query or rng.random() < 0.2:
        path += "?" + (query or rng.choice(QUERIES))
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: " + rng.choice(HOSTS)]
    lines += [b"Authorization: " + credential] if credential else []
    lines += [b": ".join(each) for each in [*headers, *rng.sample(HARMLESS_HEADERS, k=rng.randrange(3))]]
    if body and not any(name == b"Content-Type" for name, _ in headers):
        lines.append(b"Content-Type: application/json")
    if body and rng.random() < 0.3:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif body or operation.is_write:
        lines.append(b"Content-Length: %d" % len(body))
    return Request(b"\r\n".join(lines) + b"\r\n\r\n" + body, method, operation.is_write and method == operation.method)


def _path(operation: Operation, rng: Random, parameters: Mapping[str, str]) -> str:
    known = {**EXISTING, **parameters}
    path = operation.path
    while "{" in path:
        name = path.partition("{")[2].partition("}")[0]
        segment = known[name].replace("{", "%7B") if name in known else quote(rng.choice(INVALID_PATH_SEGMENTS))
        path = path.replace("{" + name + "}", segment)
    return path


def _valid_body(operation: Operation, chance: Random) -> bytes:
    # A body that every endpoint accepts.
    items = [{"type": "comment.post", "incident": 1, "comment": "x"}] * chance.randrange(1, 4)
    fields = {**VALID_FIELDS, "commands": items}
    if operation.path.endswith("/alertmanager/"):
        fields["status"] = "firing"
    return _json(fields)


def _random_body(chance: Random) -> bytes:
    names = [
        "comment",
        "status",
        "title",
        "projects",
        "ids",
        "upTo",
        "commands",
        "mentions",
        "dedupKey",
        "users",
        "query",
        "triggers",
        "targetIdentifier",
        "timestamp",
        "value",
        "alerts",
        "commonLabels",
        "\0",
        "",
    ]
    return _json({name: chance.choice(JUNK) for name in chance.sample(names, k=chance.randrange(1, 6))})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
