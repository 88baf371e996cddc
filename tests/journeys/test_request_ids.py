"""A request id identifies a request's lines in the logs of every process in a running stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.journeys.stack import ACME, Stack
from tests.waiting import eventually

STEPS = {
    "gateway": {"request", "commands.accepted"},
    "worker": {"batch.applied"},
    "relay": {"events.published"},
    "notifier": {"events.planned"},
}


def test_a_request_id_is_found_in_the_logs_of_every_process(demo: Stack) -> None:
    with demo.client(**{"X-Request-Id": "find-me-everywhere"}) as mem:
        posted = mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Look at this.", "mentions": ["user:12"]})

    assert posted.headers["x-request-id"] == "find-me-everywhere"
    eventually(lambda: steps_of("find-me-everywhere", demo) == STEPS)


def test_every_log_line_is_json_and_the_first_names_the_version(demo: Stack) -> None:
    for kind in STEPS:
        for log in logs_of(demo, kind):
            lines = [json.loads(line) for line in log.read_text().splitlines()]

            assert (lines[0]["event"], lines[0]["kind"]) == ("process.started", kind)
            assert lines[0]["version"]


def steps_of(request_id: str, stack: Stack) -> dict[str, set[str]]:
    """Return the events of the log lines that contain this request id, by kind of process."""
    found: dict[str, set[str]] = {}
    for kind in STEPS:
        lines: list[dict[str, Any]] = [
            json.loads(line) for log in logs_of(stack, kind) for line in log.read_text().splitlines()
        ]
        found[kind] = {
            line["event"]
            for line in lines
            if line.get("request_id") == request_id or request_id in line.get("request_ids", ())
        }
    return found


def logs_of(stack: Stack, kind: str) -> list[Path]:
    """Return the log files of all processes of this kind."""
    return sorted((stack.folder / "logs").glob(f"{kind}*.log"))
