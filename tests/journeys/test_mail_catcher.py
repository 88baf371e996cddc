"""The demo's mail catcher and webhook echo: messages sent to them can be read back."""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from tasks.startup import free_port
from tests.journeys.stack import Stack
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT, run_tocsin
from workers.stack.mail_catcher import KEPT, MAX_BYTES

pytestmark = pytest.mark.xdist_group("stack")


@dataclass(frozen=True)
class Catcher:
    """A running catcher."""

    client: httpx.Client
    smtp_port: int

    def mail(self, subject: str = "Hello", text: str = "How are you?", to: str = "ana@x.test") -> None:
        """Send a mail over SMTP."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "mem@x.test", to, subject
        message.set_content(text)
        self.send(message.as_bytes(), to)

    def send(self, raw: bytes, to: str = "ana@x.test") -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp_port) as server:
            server.sendmail("mem@x.test", [to], raw)


@contextmanager
def running_catcher() -> Iterator[Catcher]:
    smtp_port, http_port = free_port("127.0.0.1", 0), free_port("127.0.0.1", 0)
    words = ["catcher", "--smtp-port", str(smtp_port), "--http-port", str(http_port)]
    readable, writable = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *words],
        env=CLEAN_ENVIRONMENT | {"READY_FD": str(writable)},
        pass_fds=[writable],
    )
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe, httpx.Client(base_url=f"http://127.0.0.1:{http_port}") as client:
        try:
            assert pipe.read() == b"ready\n"
            yield Catcher(client, smtp_port)
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def catcher() -> Iterator[Catcher]:
    with running_catcher() as running:
        yield running


# --- in the demo -------------------------------------------------------------------------------------------------


@pytest.fixture
def stack(demo: Stack) -> Stack:
    return demo


def address(stack: Stack, name: str) -> str:
    """Return the URL that the demo printed under this name."""
    (line,) = (line for line in stack.program.lines if re.match(rf"{name} +\w+://", line))
    return line.split()[1]


def test_an_email_sent_to_the_demo_can_be_read_back(stack: Stack) -> None:
    url = stack.state["environment"]["TOCSIN_SMTP_URL"]
    assert address(stack, "mail") == url
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "mem@x.test", "ana@x.test", "Grüße"
    message.set_content("Kannst du schauen?")
    with smtplib.SMTP("127.0.0.1", int(url.rsplit(":", 1)[1])) as server:
        server.send_message(message)

    (mail,) = httpx.get(f"{address(stack, 'catcher')}mails").json()

    assert (mail["sender"], mail["to"], mail["subject"]) == ("mem@x.test", ["ana@x.test"], "Grüße")
    assert mail["text"].strip() == "Kannst du schauen?"
    assert ["To", "ana@x.test"] in mail["headers"]


def test_a_webhook_posted_to_the_demo_is_echoed_and_can_be_read_back(stack: Stack) -> None:
    echo = httpx.post(f"{address(stack, 'webhooks')}/mine", content=b'{"a": 1}', headers={"webhook-id": "msg_1"})

    (call,) = httpx.get(f"{address(stack, 'catcher')}webhooks").json()

    assert echo.json() == call
    assert (call["path"], call["body"]) == ("/hook/mine", '{"a": 1}')
    assert ["webhook-id", "msg_1"] in call["headers"]


def test_a_killed_catcher_is_restarted_on_the_same_port(stack: Stack) -> None:
    pid = stack.kill("catcher")
    stack.wait_for_restart("catcher", other_than=pid)

    assert httpx.get(address(stack, "catcher")).status_code == 200


def test_the_last_line_of_the_demo_is_the_ready_message(stack: Stack) -> None:
    assert stack.program.lines[-1] == f"ready {stack.url}"


# --- the catcher alone -------------------------------------------------------------------------------------------


def test_the_page_shows_messages_and_executes_none_of_their_content(catcher: Catcher) -> None:
    script = "<script>alert(1)</script>"
    catcher.mail(subject=script, text=script)
    catcher.client.post("/hook", content=script)

    page = catcher.client.get("/")

    assert page.text.count("&lt;script&gt;") >= 3
    assert "<script" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none';")


def test_only_the_newest_messages_are_kept(catcher: Catcher) -> None:
    for number in range(KEPT + 1):
        catcher.client.post(f"/hook/{number}")

    calls = catcher.client.get("/webhooks").json()

    assert [call["path"] for call in calls] == [f"/hook/{number}" for number in range(KEPT, 0, -1)]


def test_oversized_messages_are_refused_and_not_kept(catcher: Catcher) -> None:
    before = catcher.client.get("/mails").json(), catcher.client.get("/webhooks").json()

    assert catcher.client.post("/hook", content=b"x" * (MAX_BYTES + 1)).status_code == 413
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        catcher.mail(text="x\n" * MAX_BYTES)

    assert refused.value.smtp_code == 552
    assert (catcher.client.get("/mails").json(), catcher.client.get("/webhooks").json()) == before


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"\xff\xfe: \xff\r\n\r\n\xff", "\ufffd\ufffd: \ufffd\r\n\r\n\ufffd", id="not text"),
        pytest.param(b"Content-Type: text/plain; charset=klingon\r\n\r\nnuqneH", "nuqneH", id="an unknown charset"),
        pytest.param(b"Subject: =?x?q?=?=\r\nTo: <<\r\n\r\nhi", "hi", id="broken headers"),
        pytest.param(b"Content-Type: multipart/mixed\r\n\r\nhi", "", id="parts without a boundary"),
    ],
)
def test_a_malformed_email_is_caught(catcher: Catcher, raw: bytes, text: str) -> None:
    catcher.send(raw, to="nobody@x.test")

    newest = catcher.client.get("/mails").json()[0]

    assert newest["to"] == ["nobody@x.test"]
    assert newest["text"].strip() == text


def test_requests_for_another_host_name_are_refused(catcher: Catcher) -> None:
    assert catcher.client.get("/mails", headers={"Host": "evil.test"}).status_code == 400


def test_a_port_in_use_is_reported(catcher: Catcher, tmp_path: Path) -> None:
    ended = run_tocsin("catcher", "--smtp-port", str(catcher.smtp_port), "--http-port", str(free_port("127.0.0.1", 0)))

    assert ended.returncode != 0
    assert "address already in use" in ended.stderr


def test_the_doctor_accepts_delivery_settings(tmp_path: Path) -> None:
    settings = {"SMTP_URL": "smtp://me:secret@host", "MAIL_FROM": "a@b", "WEBHOOK_ALLOW": "::1/128"}
    # Run in an empty directory, because a demo that is running in this clone has its own settings.
    done = run_tocsin(
        "doctor", "--data", str(tmp_path), **{f"TOCSIN_{name}": value for name, value in settings.items()}
    )

    assert "smtp://me:(hidden)@host" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert "no setting of tocsin" not in done.stderr
