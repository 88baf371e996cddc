"""Every process logs only JSON lines, from start to end."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tasks.startup import free_port
from tests.conftest import Database
from tests.journeys.subprocesses import running_process
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

READY = {"gateway": "Uvicorn running", "worker": " ready.", "relay": "process.started", "notifier": "process.started"}


@pytest.mark.parametrize("name", READY)
def test_every_log_line_of_a_process_is_json_and_its_start_and_end_are_logged(
    name: str, database: Database, servers: EmbeddedServers, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ports = ("--port", str(free_port("127.0.0.1", 0))) if name == "gateway" else ()

    with running_process(name, *ports, environment=servers.environment | {"DATABASE_URL": database.url}, log=log):
        eventually(lambda: READY[name] in log.read_text())

    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "process.started"
    assert (lines[0]["kind"], lines[0]["version"]) == (name, version("tocsin"))
    assert "process.stopped" in events[-2:]
