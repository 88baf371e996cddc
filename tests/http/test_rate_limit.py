"""The rate limiter: how a token bucket empties and refills."""

from __future__ import annotations

import pytest

from gateway.rate_limit import RateLimiter
from models.refusals import TooManyRequests


def test_a_bucket_holds_five_seconds_of_requests_and_refills_at_the_configured_rate() -> None:
    now = 0.0
    rate = RateLimiter(10, clock=lambda: now)

    rate.acquire("user:1", 50)
    with pytest.raises(TooManyRequests) as refused:
        rate.acquire("user:1")
    rate.acquire("user:2")
    now = 1.0
    rate.acquire("user:1", 10)

    assert refused.value.retry_after == 1
    with pytest.raises(TooManyRequests):
        rate.acquire("user:1")
