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
from datetime import UTC, datetime, timedelta
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

    def silence(self, alertname: str) -> None:
        now = datetime.now(UTC)
        silence = {
            "matchers": [{"name": "alertname", "value": alertname, "isRegex": False, "isEqual": True}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "Mem",
            "comment": "known",
        }
        self.client.post("/api/v2/silences", json=silence).raise_for_status()
        eventually(lambda: self.is_suppressed(alertname), within_seconds=WITHIN_SECONDS)

    def is_suppressed(self, alertname: str) -> bool:
        """Return whether the alert fires and is silenced or inhibited."""
        alerts = self.client.get("/api/v2/alerts", params={"filter": f'alertname="{alertname}"'}).json()
        return [each["status"]["state"] for each in alerts] == ["suppressed"]

    def sent(self) -> float:
        """Return the number of notifications sent."""
        metrics = self.client.get("/metrics").text
        [count] = re.findall(r'^alertmanager_notifications_total{integration="webhook"} (\S+)$', metrics, re.MULTILINE)
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


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "{}:{}".format(*free.getsockname())


@contextlib.contextmanager
def running_alertmanager(folder: Path, configuration: str, *flags: str) -> Iterator[Alertmanager]:
    """Run Alertmanager on a free port, unclustered unless the flags say so, with its data in the folder."""
    (folder / "alertmanager.yml").write_text(configuration)
    address = free_address()
    with (folder / "alertmanager.log").open("w") as log, httpx.Client(base_url=f"http://{address}") as client:
        process = subprocess.Popen(
            [
                str(BINARY),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={address}",
                *(flags or ["--cluster.listen-address="]),
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
    configuration = documented("yaml", "receivers:")
    assert DOCUMENTED in configuration
    with running_alertmanager(folder, configuration.replace(DOCUMENTED, stack.url)) as running:
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


# --- what Alertmanager does not say -----------------------------------------------------------------------------------

QUICK = """
route:
  receiver: tocsin
  group_by: [GROUP_BY]
  group_wait: 100ms
  group_interval: 300ms
  repeat_interval: 1h
  routes:
    - receiver: limited
      matchers: [alertname = Limited]
inhibit_rules:
  - source_matchers: [alertname = Inhibiting]
    target_matchers: [alertname = Inhibited]
receivers:
  - name: tocsin
    webhook_configs:
      - &webhook
        url: GATEWAY/api/0/organizations/acme/integrations/alertmanager/
        http_config: {authorization: {credentials: dev-alertmanager}}
  - name: limited
    webhook_configs:
      - <<: *webhook
        max_alerts: 1
"""
GROUPED = "alertname, project"


def quick(stack: Stack, *, group_by: str = GROUPED) -> str:
    return QUICK.replace("GATEWAY", stack.url).replace("GROUP_BY", group_by)


def key_of(alertname: str, route: str = "{}") -> str:
    return f'{route}:{{alertname="{alertname}", project="p1"}}'


def wait_for_another_group(stack: Stack, alertmanager: Alertmanager, alertname: str) -> None:
    """Wait until another group's incident was opened and closed, after anything that Alertmanager had to say before."""
    alertmanager.fire("warning", alertname=alertname)
    wait_for_incident(stack, key_of(alertname), status=10)
    alertmanager.resolve("warning", alertname=alertname)
    wait_for_incident(stack, key_of(alertname), status=2)


@pytest.fixture
def place(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for an Alertmanager of the test's own."""
    path: Path = folder / request.node.name
    path.mkdir()
    return path


def test_alerts_that_resolve_while_they_are_silenced_or_inhibited_leave_their_incidents_open(
    stack: Stack, place: Path
) -> None:
    with running_alertmanager(place, quick(stack)) as alertmanager:
        for name in ("Silenced", "Inhibited"):
            alertmanager.fire("critical", alertname=name)
            wait_for_incident(stack, key_of(name), status=20)
        alertmanager.silence("Silenced")
        alertmanager.fire("critical", alertname="Inhibiting")
        eventually(lambda: alertmanager.is_suppressed("Inhibited"), within_seconds=WITHIN_SECONDS)
        for name in ("Silenced", "Inhibited"):
            alertmanager.resolve("critical", alertname=name)

        wait_for_another_group(stack, alertmanager, "AfterSuppression")

    for name in ("Silenced", "Inhibited"):
        wait_for_incident(stack, key_of(name), status=20)


def test_a_group_of_which_only_some_alerts_are_sent_is_not_closed_while_others_fire(stack: Stack, place: Path) -> None:
    key = key_of("Limited", '{}/{alertname="Limited"}')
    with running_alertmanager(place, quick(stack)) as alertmanager:
        for instance in ("a", "b"):
            alertmanager.fire("critical", alertname="Limited", instance=instance)
        wait_for_incident(stack, key, status=20)
        sent = alertmanager.sent()
        # The only alert that is sent is the first one, so the group seems to be resolved.
        alertmanager.resolve("critical", alertname="Limited", instance="a")
        eventually(lambda: alertmanager.sent() > sent, within_seconds=WITHIN_SECONDS)
        wait_for_another_group(stack, alertmanager, "AfterTruncation")
        wait_for_incident(stack, key, status=20)

        alertmanager.resolve("critical", alertname="Limited", instance="b")

        wait_for_incident(stack, key, status=2)


def test_after_a_change_of_group_by_a_group_with_another_key_opens_another_incident(stack: Stack, place: Path) -> None:
    with running_alertmanager(place, quick(stack)) as alertmanager:
        alertmanager.fire("critical", alertname="Regrouped")
        before = wait_for_incident(stack, key_of("Regrouped"), status=20)
        (place / "alertmanager.yml").write_text(quick(stack, group_by="alertname"))
        alertmanager.client.post("/-/reload").raise_for_status()
        after = wait_for_incident(stack, '{}:{alertname="Regrouped"}', status=20)

        alertmanager.resolve("critical", alertname="Regrouped")

        wait_for_incident(stack, '{}:{alertname="Regrouped"}', status=2)
    assert wait_for_incident(stack, key_of("Regrouped"), status=20)["identifier"] == before["identifier"]
    assert after["identifier"] != before["identifier"]


@pytest.mark.parametrize("keeps_storage", [True, False], ids=["kept", "lost"])
def test_after_a_restart_alerts_that_still_fire_keep_their_incident_and_others_leave_theirs_open(
    stack: Stack, place: Path, *, keeps_storage: bool
) -> None:
    firing, resolved = f"StillFiring{keeps_storage}", f"ResolvedMeanwhile{keeps_storage}"
    with running_alertmanager(place, quick(stack)) as alertmanager:
        for name in (firing, resolved):
            alertmanager.fire("critical", alertname=name)
            wait_for_incident(stack, key_of(name), status=20)
    if not keeps_storage:
        shutil.rmtree(place / "alertmanager")
    with running_alertmanager(place, quick(stack)) as alertmanager:
        # Prometheus repeats alerts that fire, and tells of those that have resolved for a while.
        alertmanager.fire("critical", alertname=firing)
        alertmanager.resolve("critical", alertname=resolved)
        wait_for_another_group(stack, alertmanager, f"AfterRestart{keeps_storage}")
        still_open = wait_for_incident(stack, key_of(firing), status=20)

        alertmanager.resolve("critical", alertname=firing)

        closed = wait_for_incident(stack, key_of(firing), status=2)
    assert closed["identifier"] == still_open["identifier"]
    wait_for_incident(stack, key_of(resolved), status=2 if keeps_storage else 20)


def test_two_alertmanagers_in_a_cluster_share_one_incident(stack: Stack, place: Path) -> None:
    peers = [free_address(), free_address()]
    with contextlib.ExitStack() as both:
        cluster = []
        for own, other in (peers, peers[::-1]):
            folder = place / own.rpartition(":")[2]
            folder.mkdir()
            flags = (
                f"--cluster.listen-address={own}", f"--cluster.peer={other}", "--cluster.peer-timeout=1s",
                "--cluster.gossip-interval=50ms", "--cluster.pushpull-interval=1s",
            )  # fmt: skip
            cluster.append(both.enter_context(running_alertmanager(folder, quick(stack), *flags)))
        for each in cluster:
            each.fire("critical", alertname="Clustered")
        opened = wait_for_incident(stack, key_of("Clustered"), status=20)

        for each in cluster:
            each.resolve("critical", alertname="Clustered")

        closed = wait_for_incident(stack, key_of("Clustered"), status=2)
    assert closed["identifier"] == opened["identifier"]
