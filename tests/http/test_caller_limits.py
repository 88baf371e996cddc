"""Limits on one caller: what it may spend, how much it may have open, and how often its address may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.api import pipeline
from gateway.caller_slots import CallerSlots
from gateway.rate_limit import FAILURE_SECONDS, FailureLimit, RateLimiter
from models.refusals import TooManyRequests
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway
from tests.http.streams import EVENTS, listening
from tests.waiting import eventually

LIST = f"{ACME}/incidents/"
AN_ITEM = {"type": "comment.post", "incident": 1, **A_COMMENT}

Send = Callable[[], httpx.Response]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(gateway: Gateway, clock: Clock) -> Gateway:
    """A gateway on which each caller may send a command per second, and five at once, by a clock that stands still."""
    gateway.app.state.container.rate_limiter = RateLimiter(1, clock=clock)
    return gateway


@pytest.fixture
def costly_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every response to a read costs more than a full bucket holds."""
    monkeypatch.setattr(pipeline, "READ_BYTES", 0.01)


def comment(gateway: Gateway, **headers: str) -> httpx.Response:
    return gateway.post(COMMENTS, A_COMMENT, **{"Prefer": "respond-async"} | headers)


def bulk(gateway: Gateway, items: int) -> httpx.Response:
    return gateway.post(COMMANDS, {"commands": [AN_ITEM] * items})


# --- the rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({}, {}, 400),
        (A_COMMENT, {"If_Match": "x"}, 400),
        ({"comment": "x" * 70_000}, {}, 413),
        (A_COMMENT, {"Content_Encoding": "gzip"}, 415),
    ],
)
def test_a_refused_write_costs_as_much_as_a_command(
    limited: Gateway, body: Any, headers: dict[str, str], status: int
) -> None:
    responses = [limited.post(COMMENTS, body, **headers) for _ in range(6)]
    another = limited.post(COMMENTS, body, by="dev-ana", **headers)

    assert [response.status_code for response in responses] == [status] * 5 + [429]
    assert another.status_code == status


def test_a_command_that_is_refused_after_it_was_paid_for_costs_no_more(limited: Gateway) -> None:
    for text in ("a", "b", "b", "b", "b"):
        limited.post(COMMENTS, {"comment": text}, Prefer="respond-async", Idempotency_Key="one")

    assert comment(limited).status_code == 429


def test_a_large_response_to_a_read_delays_the_next_requests_of_its_caller(
    limited: Gateway, costly_reads: None
) -> None:
    first, second, write = limited.get(LIST), limited.get(LIST), comment(limited)
    another = limited.get(LIST, by="dev-ana")

    assert (first.status_code, second.status_code, write.status_code) == (200, 429, 429)
    assert another.status_code == 200


def test_small_responses_to_reads_cost_next_to_nothing(limited: Gateway) -> None:
    assert {limited.get(LIST).status_code for _ in range(10)} == {200}
    assert comment(limited).status_code == 202


def test_a_bulk_request_above_what_a_full_bucket_holds_is_told_how_many_it_may_send(limited: Gateway) -> None:
    too_many, most = bulk(limited, 6), bulk(limited, 4)

    # The refused request costs one.
    assert (too_many.status_code, too_many.json()) == (413, {"detail": "At most 5 commands may be sent at once."})
    assert most.status_code == 202


@pytest.mark.parametrize(
    "send",
    [comment, lambda gateway: bulk(gateway, 5), lambda gateway: gateway.get(LIST)],
    ids=["command", "bulk", "read"],
)
def test_after_retry_after_the_same_request_is_accepted(
    limited: Gateway, costly_reads: None, clock: Clock, send: Callable[[Gateway], httpx.Response]
) -> None:
    limited.get(LIST)
    clock.now = 0.3

    refused = [send(limited) for _ in range(3)]
    clock.now += int(refused[0].headers["retry-after"])

    assert {response.status_code for response in refused} == {429}
    assert send(limited).status_code in (200, 202)


def test_a_program_shares_its_rate_with_the_people_for_whom_it_acts_or_may_not_act(limited: Gateway) -> None:
    for person in (11, 12, 99, "x"):
        limited.post(COMMENTS, {}, by="dev-bot", Act_As=f"user:{person}")
    limited.post(COMMENTS, {}, by="dev-bot")

    refused = limited.post(COMMENTS, A_COMMENT, by="dev-bot", Act_As="user:12")
    of_nobody = limited.get(LIST, by="dev-bot", Act_As="user:99")
    themselves = comment(limited)

    assert (refused.status_code, of_nobody.status_code, themselves.status_code) == (429, 429, 202)


# --- what is open ----------------------------------------------------------------------------------------------


def test_a_caller_may_have_only_so_many_streams(gateway: Gateway) -> None:
    gateway.app.state.container.broadcaster._slots = CallerSlots(2)

    with listening(gateway):
        with listening(gateway):
            refused = gateway.get(EVENTS)
            with listening(gateway, "dev-ana"):
                pass
        eventually(lambda: gateway.app.state.container.broadcaster.stream_count == 1)
        with listening(gateway):
            pass

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "15")


@pytest.fixture
def waiting(gateway: Gateway, clock: Clock) -> Iterator[Gateway]:
    """A gateway on which each caller may have one request in hand, and Mem has one that waits, as no worker runs."""
    container = gateway.app.state.container
    container.requests = CallerSlots(1, clock=clock)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gateway.post, COMMENTS, A_COMMENT, Prefer="wait=9")
        eventually(lambda: bool(container.outcomes._waits))
        yield gateway
        container.outcomes.release()


def test_a_caller_may_have_only_so_many_requests_in_hand(waiting: Gateway) -> None:
    refused = comment(waiting)
    another = waiting.get(LIST, by="dev-ana")

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "9")
    assert another.status_code == 200


# --- wrong tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
def suspicious(gateway: Gateway, clock: Clock) -> Gateway:
    """A gateway that blocks an address after three wrong tokens."""
    gateway.app.state.container.wrong_tokens = FailureLimit(3, clock=clock)
    return gateway


def test_an_address_with_many_wrong_tokens_gets_429_for_a_minute(suspicious: Gateway, clock: Clock) -> None:
    wrong = [suspicious.get(LIST, by=f"wrong-{number}") for number in range(5)]
    right = suspicious.get(LIST)
    from_elsewhere = suspicious.get(LIST, by="wrong", X_Forwarded_For="192.0.2.1")
    clock.now = FAILURE_SECONDS
    later = suspicious.get(LIST, by="wrong")

    assert [response.status_code for response in wrong] == [401, 401, 401, 429, 429]
    assert wrong[-1].headers["retry-after"] == "60"
    assert (right.status_code, from_elsewhere.status_code, later.status_code) == (200, 401, 401)


def test_a_missing_token_is_not_a_wrong_one(suspicious: Gateway) -> None:
    assert {suspicious.get(LIST, by=None).status_code for _ in range(5)} == {401}


def test_addresses_of_ipv6_count_by_their_network() -> None:
    limit = FailureLimit(2)
    limit.record("2001:db8:0:1::1")
    limit.record("2001:db8:0:1:ffff::2")

    with pytest.raises(TooManyRequests):
        limit.require_allowed("2001:db8:0:1::3")
    limit.require_allowed("2001:db8:0:2::1")
    limit.require_allowed("192.0.2.1")
