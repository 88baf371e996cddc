"""Request bodies: JSON parsing, size limits, media types, conditions, and bulk requests."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from models.messaging.command_ledger import commands
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, Worker
from tests.waiting import eventually


def send(
    gateway: Gateway, content: bytes, *, path: str = COMMENTS, media_type: str = "application/json"
) -> httpx.Response:
    with gateway.client(Content_Type=media_type, Prefer="respond-async") as client:
        return client.post(path, content=content)


def command_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return connection.execute(select(func.count()).select_from(commands)).scalar_one()


def response_count(gateway: Gateway, status: int) -> int:
    """Return the number of responses with this status, as counted by the metrics."""
    lines = gateway.get("/metrics", by=None).text.splitlines()
    return sum(line.startswith("tocsin_http_answers_total{") and f'status="{status}"' in line for line in lines)


def nested(levels: int) -> bytes:
    # The outer object is the first level.
    return b'{"comment": "x", "deep": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"comment": "a", "comment": "b"}',
        b'{"comment": "a", "deep": {"x": 1, "x": 1}}',
        b'{"comment": NaN}',
        b'{"comment": -Infinity}',
        b'{"comment": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"comment": ' + b"1" * 5000 + b"}",
        nested(21),
        b"[" * 60_000,
        b" ",
    ],
    ids=["syntax error", "duplicate key", "nested duplicate key", "NaN", "-Infinity", "not UTF-8", "byte order mark",
         "number of 5,000 digits", "21 levels", "60,000 levels", "only a space"],
)  # fmt: skip
def test_invalid_json_is_refused(gateway: Gateway, content: bytes) -> None:
    response = send(gateway, content)

    assert response.status_code == 400
    assert response.json()["detail"].startswith("JSON parse error - ")


def test_twenty_levels_of_nesting_are_accepted(gateway: Gateway) -> None:
    assert send(gateway, nested(20)).status_code == 202


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"[]", "list"), (b'"x"', "str"), (b"1", "int"), (b"1.5", "float"), (b"true", "bool"), (b"null", "NoneType")],
)
def test_a_body_that_is_not_an_object_is_refused_with_an_error_that_names_its_type(
    gateway: Gateway, content: bytes, kind: str
) -> None:
    response = send(gateway, content)

    text = f"Invalid data. Expected a dictionary, but got {kind}."
    assert (response.status_code, response.json()) == (400, {"non_field_errors": [text]})


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"comment": ["This field is required."]}),
        ({"comment": None}, {"comment": ["This field may not be null."]}),
        ({"comment": " "}, {"comment": ["This field may not be blank."]}),
        ({"comment": ["x"]}, {"comment": ["Not a valid string."]}),
        ({"comment": "a\0b"}, {"comment": ["Null characters are not allowed."]}),
        ({"comment": "x", "mentions": "ana"}, {"mentions": ['Expected a list of items but got type "str".']}),
        ({"comment": "x", "mentions": None}, {"mentions": ["This field may not be null."]}),
        ({"comment": "x", "external_id": ""}, {"external_id": ["This field may not be blank."]}),
    ],
)
def test_an_invalid_field_is_named_in_the_error(gateway: Gateway, body: Any, errors: Any) -> None:
    response = gateway.post(COMMENTS, body)

    assert (response.status_code, response.json()) == (400, errors)


def test_an_empty_body_counts_as_an_empty_object(gateway: Gateway) -> None:
    assert send(gateway, b"").json() == {"comment": ["This field is required."]}


def test_digits_may_be_surrounded_by_any_whitespace(gateway: Gateway) -> None:
    path = f"{ACME}/notifications/read/"

    assert gateway.post(path, {"upTo": "\x1f\u2003\x1c7\x85"}, Prefer="respond-async").status_code == 202
    assert gateway.post(path, {"upTo": "7\ufeff"}).json() == {"upTo": ["A valid integer is required."]}


def test_the_directory_body_must_be_utf_8(gateway: Gateway) -> None:
    with gateway.client("dev-ops") as client:
        response = client.put("/api/0/directory/", content="{}".encode("utf-16"))

    assert response.status_code == 400


def test_a_lone_surrogate_is_a_field_error(gateway: Gateway) -> None:
    response = send(gateway, b'{"comment": "\\ud800"}')

    assert response.json() == {"comment": ["Surrogate characters are not allowed: U+D800."]}


def test_a_body_up_to_the_size_limit_is_accepted(gateway: Gateway) -> None:
    frame = len(b'{"comment": ""}')

    fits = send(gateway, b'{"comment": "%s"}' % (b"x" * (65_536 - frame)))
    exceeds = send(gateway, b'{"comment": "%s"}' % (b"x" * (65_537 - frame)))

    assert (fits.status_code, exceeds.status_code) == (202, 413)


def test_a_body_of_unknown_length_is_not_read_beyond_the_limit(gateway: Gateway) -> None:
    with gateway.client(Content_Type="application/json") as client:
        response = client.post(COMMENTS, content=(b"x" * 1000 for _ in range(100)))

    assert response.status_code == 413


def test_a_truncated_body_is_not_accepted_as_a_shorter_one(gateway: Gateway, ledger: Engine) -> None:
    request = f"POST {ACME}/incidents/1/seen/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer dev-mem\r\n"

    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as caller:
        caller.sendall(f"{request}Prefer: respond-async\r\nContent-Length: 99\r\n\r\n{{}}".encode())
        caller.shutdown(socket.SHUT_WR)
        eventually(lambda: response_count(gateway, 400) + response_count(gateway, 202))

    assert (response_count(gateway, 202), command_count(ledger)) == (0, 0)


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json; charset=utf-8", 202),
        ("application/vnd.acme+json", 202),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/json", 415),
    ],
)
def test_only_json_is_accepted(gateway: Gateway, media_type: str, status: int) -> None:
    assert send(gateway, b'{"comment": "x"}', media_type=media_type).status_code == status


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, deflate", "x"])
def test_an_encoded_body_is_refused(gateway: Gateway, coding: str) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Content_Encoding=coding, Prefer="respond-async")

    assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "identity")
    assert response.json() == {"detail": "Send the body without Content-Encoding."}


def test_the_identity_coding_is_accepted(gateway: Gateway) -> None:
    response = gateway.post(COMMENTS, A_COMMENT, Content_Encoding="Identity", Prefer="respond-async")

    assert response.status_code == 202


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"GET {ACME}/ HTTP/1.1", 400),
        (f"GET {ACME}/ HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        (f"GET {ACME}/ HTTP/1.1\r\nHost: a\r\nhost: b", 400),
        (f"GET {ACME}/ HTTP/1.1\r\nHost: a", 200),
        (f"GET {ACME}/ HTTP/1.0", 200),
        (f"GET {ACME}/?a=b%2Fc HTTP/1.1\r\nHost: a", 200),
        (f"GET {ACME}%2Fincidents/ HTTP/1.1\r\nHost: a", 404),
        (f"GET {ACME}/incidents/1%2factivity/ HTTP/1.1\r\nHost: a", 404),
    ],
)
def test_the_target_of_a_request_is_unambiguous(gateway: Gateway, head: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=20) as caller:
        caller.sendall(f"{head}\r\nAuthorization: Bearer dev-mem\r\nConnection: close\r\n\r\n".encode())
        response = caller.makefile("rb").read()

    assert int(response.split()[1]) == status


def test_a_body_without_a_content_type_is_parsed_as_json(gateway: Gateway) -> None:
    with gateway.client(Prefer="respond-async") as client:
        assert client.post(COMMENTS, content=b'{"comment": "x"}').status_code == 202


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        *((tag, 202) for tag in ("*", '"3"', '"3-ab12"', 'W/"3"', '"x"', '""', '"1", W/"2"', ', "1" ,, "2",')),
        *((tag, 400) for tag in ("3", 'w/"3"', '"1" "2"', '"1", *', "", '"1', '"a b"')),
    ],
)
def test_if_match_is_star_or_a_list_of_tags(gateway: Gateway, tag: str, status: int) -> None:
    assert gateway.post(COMMENTS, A_COMMENT, If_Match=tag, Prefer="respond-async").status_code == status


# --- bulk --------------------------------------------------------------------------------------------------------


def an_item(**facts: Any) -> dict[str, Any]:
    return {"type": "comment.post", "incident": 1, "comment": "x"} | facts


def test_errors_identify_the_invalid_bulk_items_and_no_item_is_accepted(gateway: Gateway, ledger: Engine) -> None:
    items: list[Any] = [
        an_item(),
        {"type": "comment.post", "comment": "x"},
        an_item(colour="red", mentions=3),
        {"type": "comment.burn"},
        {"comment": "x"},
        "comment.post",
        an_item(idempotencyKey=""),
        an_item(organization="acme"),
        an_item(type=None),
    ]

    response = gateway.post(COMMANDS, {"commands": items})

    assert (response.status_code, response.json()) == (400, {"commands": {
        "1": {"incident": ["This field is required."]},
        "2": {"mentions": ['Expected a list of items but got type "int".'], "colour": ["Unknown field."]},
        "3": {"type": ['Unknown command type "comment.burn".']},
        "4": {"type": ["This field is required."]},
        "5": {"non_field_errors": ["Invalid data. Expected a dictionary, but got str."]},
        "6": {"idempotencyKey": ["Send 1 to 255 visible ASCII characters."]},
        "7": {"organization": ["Unknown field."]},
        "8": {"type": ["This field may not be null."]},
    }})  # fmt: skip
    assert command_count(ledger) == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "This field is required."),
        ({"commands": None}, "This field may not be null."),
        ({"commands": {}}, 'Expected a list of items but got type "dict".'),
        ({"commands": []}, "This list may not be empty."),
        ({"commands": [an_item()] * 1001}, "Ensure this field has no more than 1000 elements."),
    ],
    ids=["missing", "null", "object", "empty", "too many"],
)
def test_an_invalid_command_list_is_refused(gateway: Gateway, body: Any, text: str) -> None:
    response = gateway.post(COMMANDS, body)

    assert (response.status_code, response.json()) == (400, {"commands": [text]})


def test_a_bulk_item_may_be_as_large_as_a_single_body_but_no_larger(gateway: Gateway, ledger: Engine) -> None:
    most = "x" * 65_000

    fits = gateway.post(COMMANDS, {"commands": [an_item(comment=most), an_item(comment=most)]})
    exceeds = gateway.post(COMMANDS, {"commands": [an_item(), an_item(comment=most + "x" * 600)]})

    assert (fits.status_code, exceeds.status_code, command_count(ledger)) == (202, 413, 2)


def test_a_thousand_commands_keep_the_order_of_the_list(gateway: Gateway, worker: Worker) -> None:
    response = gateway.post(COMMANDS, {"commands": [an_item(comment=str(number)) for number in range(1000)]})

    for _ in range(3):
        worker.apply()
    page = gateway.get(f"{ACME}/incidents/1/activity/?desc=0").json()

    assert (response.status_code, len(response.json()["commands"])) == (202, 1000)
    assert [activity["comment"] for activity in page] == [str(number) for number in range(100)]


def test_a_bulk_request_waits_for_outcomes_only_if_asked_to(gateway: Gateway, busy_worker: Worker) -> None:
    items = {"commands": [an_item(), an_item(incident="77"), an_item(incident="dedup:none"), an_item(incident="a")]}

    at_once = gateway.post(COMMANDS, items)
    waited = gateway.post(COMMANDS, items, Prefer="wait=20")

    assert (at_once.status_code, at_once.headers["retry-after"]) == (202, "1")
    assert {each["status"] for each in at_once.json()["commands"]} == {"accepted"}
    assert (waited.status_code, waited.headers["preference-applied"]) == (200, "wait=20")
    outcomes = [(each["status"], each["outcome"]["status"]) for each in waited.json()["commands"]]
    assert outcomes == [("applied", 201)] + [("rejected", 404)] * 3


def test_a_service_opens_incidents_in_bulk(gateway: Gateway, busy_worker: Worker) -> None:
    items = [{"type": "incident.open", "title": f"t{number}", "projects": ["p1"]} for number in range(3)]

    response = gateway.post(COMMANDS, {"commands": items}, by="dev-bot", Prefer="wait=20")

    identifiers = [int(each["outcome"]["body"]["identifier"]) for each in response.json()["commands"]]
    assert identifiers == sorted(identifiers)
