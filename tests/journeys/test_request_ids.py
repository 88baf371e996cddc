"""A request id identifies a request's lines in the logs of every process in a running stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.journeys.stack import ACME, Stack
from tests.waiting import eventually

STEPS = {
    "gateway.log": {"request", "commands.accepted"},
    "worker-1.log": {"batch.applied"},
    "relay.log": {"events.published"},
    "notifier.log": {"events.planned"},
}


def test_a_request_id_is_found_in_the_logs_of_every_process(demo: Stack) -> None:
    with demo.client(**{"X-Request-Id": "find-me-everywhere"}) as mem:
        posted = mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Look at this.", "mentions": ["user:12"]})

    assert posted.headers["x-request-id"] == "find-me-everywhere"
    eventually(lambda: steps_of("find-me-everywhere", demo) == STEPS)


def test_every_log_line_is_json_and_begins_with_the_version(demo: Stack) -> None:
    for name in STEPS:
        lines = [json.loads(line) for line in log_of(demo, name).read_text().splitlines()]

        assert lines[0]["event"] == "process.started"
        assert lines[0]["version"]


def steps_of(request_id: str, stack: Stack) -> dict[str, set[str]]:
    """Return the events of the log lines that contain this request id, by log file."""
    found: dict[str, set[str]] = {}
    for name in STEPS:
        lines: list[dict[str, Any]] = [json.loads(line) for line in log_of(stack, name).read_text().splitlines()]
        found[name] = {
            line["event"]
            for line in lines
            if line.get("request_id") == request_id or request_id in line.get("request_ids", ())
        }
    return found


def log_of(stack: Stack, name: str) -> Path:
    return stack.folder / "logs" / name
