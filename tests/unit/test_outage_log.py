"""The log of repeated errors: once per outage, and as a sentence where an operator must act."""

from __future__ import annotations

from redis.exceptions import AuthenticationError
from structlog.testing import capture_logs

from tasks.outage_log import OutageLog


def test_only_the_first_of_several_equal_errors_is_logged() -> None:
    outage = OutageLog("loop.failed", loop="relay")

    with capture_logs() as lines:
        for _ in range(3):
            outage.record_error(ConnectionError("away"))

    [line] = lines
    assert (line["event"], line["loop"], line["log_level"]) == ("loop.failed", "relay", "warning")
    assert isinstance(line["exc_info"], ConnectionError)
    assert outage.errors == 3


def test_a_refused_login_after_an_outage_is_logged_as_a_sentence() -> None:
    outage = OutageLog("loop.failed")

    with capture_logs() as lines:
        for error in (ConnectionError("away"), AuthenticationError("WRONGPASS"), AuthenticationError("WRONGPASS")):
            outage.record_error(error)

    assert [line["log_level"] for line in lines] == ["warning", "error"]
    assert "exc_info" not in lines[1]
    assert lines[1]["error"].startswith("the broker refuses access (WRONGPASS)")


def test_the_next_outage_is_logged_again() -> None:
    outage = OutageLog("loop.failed")

    with capture_logs() as lines:
        outage.record_error(ConnectionError("away"))
        ended = outage.end()
        outage.record_error(ConnectionError("away"))

    assert ended == 1
    assert len(lines) == 2
