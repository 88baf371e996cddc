"""The demo's catcher of mails, webhooks and chat messages: what is sent to it can be read back, and is shown safely."""

from __future__ import annotations

import json
import os
import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser
from standardwebhooks.webhooks import Webhook

from tasks.startup import free_port
from tests.chromium import DESKTOP, PHONE, open_tab
from tests.journeys.stack import Stack
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT, run_tocsin
from workers.stack.mail_catcher import KEPT, MAX_BYTES

pytestmark = pytest.mark.xdist_group("stack")


@dataclass(frozen=True)
class Catcher:
    """A running catcher."""

    client: httpx.Client
    smtp_port: int
    secrets_file: Path

    def mail(
        self, subject: str = "Hello", text: str = "How are you?", to: str = "ana@x.test", html: str | None = None
    ) -> None:
        """Send a mail over SMTP."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "mem@x.test", to, subject
        message.set_content(text)
        if html is not None:
            message.add_alternative(html, subtype="html")
        self.send(message.as_bytes(policy=policy.SMTP), to)

    def send(self, raw: bytes, to: str = "ana@x.test") -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp_port) as server:
            server.sendmail("mem@x.test", [to], raw)


@contextmanager
def running_catcher(secrets_file: Path) -> Iterator[Catcher]:
    smtp_port, http_port = free_port("127.0.0.1", 0), free_port("127.0.0.1", 0)
    words = ["catcher", "--smtp-port", str(smtp_port), "--http-port", str(http_port)]
    words += ["--webhook-secrets", str(secrets_file)]
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
            yield Catcher(client, smtp_port, secrets_file)
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def catcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catcher]:
    with running_catcher(tmp_path_factory.mktemp("catcher") / "secrets.json") as running:
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

    (mail,) = (each for each in httpx.get(f"{address(stack, 'catcher')}mails").json() if each["subject"] == "Grüße")

    assert (mail["sender"], mail["to"], mail["subject"]) == ("mem@x.test", ["ana@x.test"], "Grüße")
    assert mail["text"].strip() == "Kannst du schauen?"
    assert ["To", "ana@x.test"] in mail["headers"]


def test_a_webhook_posted_to_the_demo_is_echoed_and_can_be_read_back(stack: Stack) -> None:
    echo = httpx.post(f"{address(stack, 'webhooks')}/mine", content=b'{"a": 1}', headers={"webhook-id": "msg_1"})

    calls = httpx.get(f"{address(stack, 'catcher')}webhooks").json()
    (call,) = (each for each in calls if each["path"] == "/hook/mine")

    assert echo.json() == {name: value for name, value in call.items() if name != "signature"}
    assert call["body"] == '{"a": 1}'
    assert ["webhook-id", "msg_1"] in call["headers"]


def test_a_killed_catcher_is_restarted_on_the_same_port(stack: Stack) -> None:
    pid = stack.kill("catcher")
    stack.wait_for_restart("catcher", other_than=pid)

    assert httpx.get(address(stack, "catcher")).status_code == 200


def test_the_last_line_of_the_demo_is_the_ready_message(stack: Stack) -> None:
    assert stack.program.lines[-1] == f"ready {stack.url}"


def test_the_demo_prints_a_link_that_logs_an_operator_in_once(stack: Stack) -> None:
    link = next(line for line in stack.program.lines if line.startswith("operations ")).split()[1]

    statuses = [httpx.get(link, follow_redirects=False).status_code for _ in range(2)]

    assert statuses == [303, 403]


# --- the catcher alone -------------------------------------------------------------------------------------------


def test_the_page_shows_messages_and_executes_none_of_their_content(catcher: Catcher) -> None:
    script = "<script>alert(1)</script>"
    catcher.mail(subject=script, text=script)
    catcher.client.post("/hook", content=script)

    page = catcher.client.get("/")

    assert page.text.count("&lt;script&gt;") >= 3
    assert "<script>" not in page.text
    rules = page.headers["content-security-policy"]
    assert rules.startswith("default-src 'none';")
    assert "unsafe" not in rules
    for kind in ("mails", "webhooks"):
        newest = catcher.client.get(f"/{kind}").json()[0]["id"]
        assert "<script>" not in catcher.client.get(f"/{kind}/{newest}").text


def test_a_mails_document_may_run_and_load_nothing(catcher: Catcher) -> None:
    catcher.mail(html="<p style='color: red'>Hello</p><script>alert(1)</script><img src='https://x.test/pixel.gif'>")
    newest = catcher.client.get("/mails").json()[0]["id"]

    page, document = (catcher.client.get(f"/mails/{newest}{path}") for path in ("", "/document"))

    assert page.text.count('<iframe class="') == 2
    assert page.text.count('sandbox=""') == 2
    assert "style='color: red'" in document.text
    rules = [each.strip() for each in document.headers["content-security-policy"].split(";")]
    assert rules == [
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'self'", "sandbox",
    ]  # fmt: skip


def test_a_mail_is_shown_rendered_as_text_and_as_it_came(catcher: Catcher) -> None:
    catcher.mail("Grüße", "Siehe https://x.test/seite.", html='<a href="https://x.test/ticket?a=1&amp;b=2">Öffnen</a>')
    newest = catcher.client.get("/mails").json()[0]["id"]

    rendered, text, raw = (catcher.client.get(f"/mails/{newest}/{tab}").text for tab in ("rendered", "text", "raw"))

    assert 'href="https://x.test/ticket?a=1&amp;b=2"' in rendered
    assert 'href="https://x.test/seite"' in rendered
    assert "Siehe https://x.test/seite." in text
    assert "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=" in raw


@pytest.mark.parametrize("path", ["/mails/0", "/mails/999999", "/mails/1/other", "/webhooks/0", "/mails/x"])
def test_what_was_not_received_is_not_found(catcher: Catcher, path: str) -> None:
    assert catcher.client.get(path).status_code == 404


SECRET = "whsec_c2VjcmV0IGZvciB0aGUgdGVzdHM="
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQ="


@pytest.mark.parametrize(
    ("path", "secret", "body", "state"),
    [
        pytest.param("/hook/mine", SECRET, '{"type": "incident.opened"}', "verified", id="right"),
        pytest.param("/hook/mine", f"{OTHER_SECRET} {SECRET}", '{"a": 1}', "verified", id="rotated"),
        pytest.param("/hook/mine", OTHER_SECRET, '{"a": 1}', "wrong", id="another secret"),
        pytest.param("/hook/mine", None, '{"a": 1}', "not signed", id="none"),
        pytest.param("/hook/other", SECRET, '{"a": 1}', "no secret known", id="unknown path"),
    ],
)
def test_the_signature_of_a_webhook_is_verified(
    catcher: Catcher, path: str, secret: str | None, body: str, state: str
) -> None:
    catcher.secrets_file.write_text(json.dumps({"/hook/mine": SECRET}))
    now = datetime.now(UTC)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp()))}
    if secret is not None:
        headers["webhook-signature"] = " ".join(Webhook(each).sign("msg_1", now, body) for each in secret.split())

    catcher.client.post(path, content=body, headers=headers)

    newest = catcher.client.get("/webhooks").json()[0]
    assert newest["signature"] == state
    assert f"Signature: {state}" in catcher.client.get(f"/webhooks/{newest['id']}").text
    assert f"signature: {state}" in catcher.client.get("/").text


@pytest.mark.parametrize(("timestamp", "signature"), [("x", "v1,AAAA"), ("9" * 30, "v1,AAAA"), ("1", "é"), ("1", ",,")])
def test_a_malformed_signature_is_wrong(catcher: Catcher, timestamp: str, signature: str) -> None:
    catcher.secrets_file.write_text(json.dumps({"/hook/mine": SECRET}))
    headers = {"webhook-id": "1", "webhook-timestamp": timestamp, "webhook-signature": signature.encode()}

    catcher.client.post("/hook/mine", content="{}", headers=headers)  # type: ignore[arg-type]

    assert catcher.client.get("/webhooks").json()[0]["signature"] == "wrong"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"/hook/mine": 1}', '{"/hook/mine": "whsec_"}'])
def test_a_damaged_file_of_secrets_knows_none(catcher: Catcher, text: str) -> None:
    catcher.secrets_file.write_text(text)

    catcher.client.post("/hook/mine", content="{}", headers={"webhook-signature": "v1,AAAA"})

    assert catcher.client.get("/webhooks").json()[0]["signature"] == "no secret known"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Disk full", "Disk full"),
        ('{"text": "Disk full"}', "Disk full"),
        ('{"title": "tocsin", "message": "Disk full", "type": "info"}', "tocsin\nDisk full"),
        ("[1]", "[1]"),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_a_chat_message_is_shown_as_its_text(catcher: Catcher, body: str, text: str) -> None:
    answer = catcher.client.post("/chat/on-call", content=body)

    newest = catcher.client.get("/chats").json()[0]
    assert (answer.status_code, answer.text) == (200, "ok")
    assert (newest["room"], newest["text"], newest["body"]) == ("on-call", text, body)
    assert "#on-call" in catcher.client.get("/").text


def test_the_address_of_a_mattermost_hook_names_the_room(catcher: Catcher) -> None:
    catcher.client.post("/chat/on-call/hooks/key", json={"text": "Disk full"})

    newest = catcher.client.get("/chats").json()[0]
    assert (newest["room"], newest["text"]) == ("on-call", "Disk full")


def test_a_page_is_told_of_what_it_has_not_seen(catcher: Catcher) -> None:
    seen = int(re.findall('data-seen="([0-9]+)"', catcher.client.get("/").text)[0])
    catcher.client.post("/hook")

    with catcher.client.stream("GET", f"/events?seen={seen}") as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("data:")) == f"data: {seen + 1}"
        catcher.mail()
        assert next(line for line in lines if line.startswith("data:")) == f"data: {seen + 2}"


def test_the_page_follows_live_and_shows_a_mail_in_a_browser(chromium: Browser, catcher: Catcher) -> None:
    with open_tab(chromium, DESKTOP) as tab:
        tab.page.goto(str(catcher.client.base_url))
        catcher.mail("Live subject", html="<p style='color: #c62a2f'>Disk full</p><script>alert(1)</script>")

        tab.page.get_by_text("Live subject").click()

        for frame in ("on a phone", "on a desktop"):
            tab.page.frame_locator(f"iframe[title='{frame}']").get_by_text("Disk full").wait_for()
        colour = tab.page.frames[1].locator("p").evaluate("each => getComputedStyle(each).color")
        assert colour == "rgb(198, 42, 47)"
        # The browser says that it has not run the script, and that the list, which was left, no longer follows.
        assert [each for each in tab.complaints if "sandboxed" not in each and "/events" not in each] == []


def test_no_page_of_the_catcher_is_wider_than_a_phone(chromium: Browser, catcher: Catcher) -> None:
    word = "x" * 200
    catcher.mail(word, word, html=f"<p>{word}</p>")
    catcher.client.post(f"/hook/{word}", content=word)
    catcher.client.post(f"/chat/{word}", content=word)
    mail, call = (catcher.client.get(f"/{kind}").json()[0]["id"] for kind in ("mails", "webhooks"))
    with open_tab(chromium, PHONE) as tab:
        overflows = {}
        for path in ("/", f"/mails/{mail}", f"/mails/{mail}/raw", f"/webhooks/{call}"):
            tab.page.goto(f"{catcher.client.base_url}{path}")
            overflows[path] = tab.overflow

    assert set(overflows.values()) == {0}


def test_the_catcher_has_the_colours_of_the_gateways_pages() -> None:
    sheets = [
        files("gateway.pages").joinpath("static/tocsin.css").read_text(),
        files("workers.stack").joinpath("catcher/catcher.css").read_text(),
    ]

    palettes = {sheet.partition("\n* {")[0] for sheet in sheets}

    assert len(palettes) == 1
    assert "--critical" in palettes.pop()


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
