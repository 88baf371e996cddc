"""A real Prometheus Alertmanager, configured as in docs/alertmanager.md, sends alerts that open and close incidents."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.alertmanager import payload
from tests.journeys.stack import ACME, Stack
from tests.journeys.subprocesses import public_temp_dir
from tests.project.tree import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.xdist_group("stack")

BINARY = shutil.which("prometheus-alertmanager")
DOCUMENTED = "http://127.0.0.1:8400"
LABELS = {"alertname": "HighLatency", "instance": "web-1", "project": "p1"}
KEY = '{}:{alertname="HighLatency", project="p1"}'
WITHIN_SECONDS = 60
"""A time longer than the documented intervals and Alertmanager's pauses between retries."""


@dataclass
class Alertmanager:
    """A running Alertmanager, to which alerts are sent as Prometheus sends them."""

    client: httpx.Client

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/-/ready").is_success
        return False

    def fire(self, severity: str, **labels: str) -> None:
        self._post_alert(severity, labels)

    def resolve(self, severity: str, **labels: str) -> None:
        self._post_alert(severity, labels, endsAt=datetime.now(UTC).isoformat())

    def failures(self) -> float:
        """Return the number of failed webhook requests."""
        metrics = self.client.get("/metrics").text
        [count] = re.findall(
            r'^alertmanager_notification_requests_failed_total{integration="webhook"} (\S+)$', metrics, re.MULTILINE
        )
        return float(count)

    def _post_alert(self, severity: str, labels: dict[str, str], **facts: str) -> None:
        alert = {
            "labels": LABELS | {"severity": severity} | labels,
            "annotations": {"summary": "Checkout answers slowly"},
        }
        self.client.post("/api/v2/alerts", json=[alert | facts]).raise_for_status()


def documented(language: str, word: str) -> str:
    """Return the documentation's code block in this language that contains a word."""
    page = (ROOT / "docs" / "alertmanager.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if word in block]
    return str(found)


@contextlib.contextmanager
def running_alertmanager(folder: Path, gateway: str) -> Iterator[Alertmanager]:
    """Run Alertmanager unclustered on a free port, with its data in the folder."""
    configuration = documented("yaml", "receivers:")
    assert DOCUMENTED in configuration
    (folder / "alertmanager.yml").write_text(configuration.replace(DOCUMENTED, gateway))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    with (folder / "alertmanager.log").open("w") as log, httpx.Client(base_url=f"http://{address}") as client:
        process = subprocess.Popen(
            [
                str(BINARY),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            running = Alertmanager(client)
            eventually(lambda: process.poll() is not None or running.is_ready(), within_seconds=WITHIN_SECONDS)
            assert process.poll() is None, (folder / "alertmanager.log").read_text()
            yield running
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    if BINARY is None and "CI" not in os.environ:
        pytest.skip("prometheus-alertmanager is not installed (Debian and Ubuntu: apt install prometheus-alertmanager)")
    assert BINARY is not None, "prometheus-alertmanager is missing"
    with public_temp_dir() as place:
        yield place


@pytest.fixture(scope="module")
def stack(demo: Stack) -> Stack:
    return demo


@pytest.fixture(scope="module")
def alertmanager(folder: Path, stack: Stack) -> Iterator[Alertmanager]:
    with running_alertmanager(folder, stack.url) as running:
        yield running


def wait_for_incident(stack: Stack, key: str, **facts: Any) -> dict[str, Any]:
    """Wait until the incident with this group key has these fields; return the incident."""

    def found() -> list[dict[str, Any]]:
        with stack.client("dev-ana") as ana, contextlib.suppress(httpx.TransportError):
            listed = ana.get(f"{ACME}/incidents/", params={"dedupKey": key})
            return [each for each in listed.json() if listed.is_success and facts.items() <= each.items()]
        return []

    [incident] = eventually(found, within_seconds=WITHIN_SECONDS)
    return incident


def test_an_incident_opens_escalates_and_closes_with_its_alerts(stack: Stack, alertmanager: Alertmanager) -> None:
    alertmanager.fire("warning")
    opened = wait_for_incident(stack, KEY, status=10)
    with stack.client("dev-ana") as ana:
        ana.post(f"{ACME}/incidents/{opened['identifier']}/subscriptions/").raise_for_status()
    alertmanager.fire("critical")
    alertmanager.resolve("warning")
    escalated = wait_for_incident(stack, KEY, status=20)
    alertmanager.resolve("critical")
    closed = wait_for_incident(stack, KEY, status=2)

    assert (opened["title"], opened["projects"]) == ("Checkout answers slowly", ["p1"])
    assert {each["identifier"] for each in (opened, escalated, closed)} == {opened["identifier"]}
    assert (closed["statusMethod"], closed["dateClosed"] is None) == (3, False)
    with stack.client("dev-ana") as ana:
        history = ana.get(f"{ACME}/incidents/{opened['identifier']}/activity/?desc=0").json()
        assert [(each["type"], each["value"], each["user"]) for each in history] == [
            (4, None, None), (1, None, None), (2, "20", None), (2, "2", None),
        ]  # fmt: skip
        notified = [item["incident"]["identifier"] for item in ana.get(f"{ACME}/notifications/").json()]
        assert opened["identifier"] not in notified


def test_alerts_sent_during_an_outage_arrive_afterwards(stack: Stack, alertmanager: Alertmanager) -> None:
    with stack.process_down("gateway"):
        alertmanager.fire("critical", alertname="DiskFull", project="p2")
        eventually(alertmanager.failures, within_seconds=WITHIN_SECONDS)

    incident = wait_for_incident(stack, '{}:{alertname="DiskFull", project="p2"}', status=20)
    assert incident["projects"] == ["p2"]


def test_the_documented_token_may_post_alerts_and_read_their_outcome(stack: Stack) -> None:
    token = stack.run_tocsin(*shlex.split(documented("sh", "token create"))[1:]).strip()
    group = payload(groupKey="{}:{}", commonLabels={"alertname": "Anything", "project": "p1"})

    with stack.client(token) as alertmanager:
        response = alertmanager.post(f"{ACME}/integrations/alertmanager/", json=group)
        command = alertmanager.get(response.headers["location"], headers={"Prefer": "wait=30"}).json()

    assert (response.status_code, command["status"], command["outcome"]["status"]) == (202, "applied", 201)
