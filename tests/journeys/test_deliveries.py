"""Whoever is told of an incident is told by every channel of the demo: mail, webhook and chat."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.journeys.stack import ACME, Stack
from tests.waiting import eventually

pytestmark = pytest.mark.xdist_group("stack")


@pytest.fixture
def stack(demo: Stack) -> Stack:
    return demo


def caught(stack: Stack, kind: str, containing: str) -> list[dict[str, Any]]:
    """Return what the catcher has of this kind, newest first, if its text contains this one."""
    (page,) = (line.split()[1] for line in stack.program.lines if re.match(r"catcher +http://", line))
    return [each for each in httpx.get(f"{page}{kind}").json() if containing in json.dumps(each)]


def header(mail: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in mail["headers"] if key == name]


def post_comment(stack: Stack, *mentions: str) -> tuple[str, str]:
    """Post a comment as Mem, and return its text, which is unique, and the activity's id."""
    text = f"Look, {uuid4()}"
    with stack.client("dev-mem") as mem:
        posted = mem.post(f"{ACME}/incidents/1/comments/", json={"comment": text, "mentions": mentions})
    assert posted.status_code == 201
    return text, posted.json()["id"]


def test_a_person_who_is_mentioned_gets_one_mail_whose_links_work(stack: Stack) -> None:
    text, activity = post_comment(stack, "user:13")

    [mail] = eventually(lambda: caught(stack, "mails", text))

    assert mail["to"] == ["ben@x.test"]
    assert len(header(mail, "Message-ID")) == 1
    [link] = re.findall(r"View the alert: (\S+)", mail["text"])
    assert link.startswith(f"{stack.url}/organizations/acme/alerts/1/?")
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(link)
        assert (page.status_code, "Checkout answers slowly" in page.text) == (200, True)
        [unsubscribe] = (each.strip("<>") for each in header(mail, "List-Unsubscribe"))
        assert header(mail, "List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]
        assert browser.post(unsubscribe, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    with stack.client("dev-ben") as ben:
        eventually(lambda: not ben.get(f"{ACME}/incidents/1/").json()["isSubscribed"])

        def outcomes() -> list[tuple[str, str]]:
            decisions = ben.get(f"{ACME}/incidents/1/explain/").json()["decisions"]
            return sorted((each["channel"], each["outcome"]) for each in decisions if each["activity"] == activity)

        eventually(lambda: outcomes() == [("email", "delivered"), ("inbox", "delivered")])
        # Other tests look for what is unread.
        ben.post(f"{ACME}/notifications/read/", json={"all": True})


def test_the_demos_webhook_receives_signed_events(stack: Stack) -> None:
    text, _ = post_comment(stack)

    [call] = eventually(
        lambda: [each for each in caught(stack, "webhooks", text) if "incident.comment_posted" in each["body"]]
    )

    assert (call["path"], call["signature"]) == ("/hook/demo", "verified")
    event = json.loads(call["body"])
    assert (event["type"], event["data"]["activity"]["comment"]) == ("incident.comment_posted", text)


def test_the_demos_chat_room_is_told_of_new_incidents(stack: Stack) -> None:
    [message] = eventually(lambda: caught(stack, "chats", "Card payments fail"))

    assert message["room"] == "on-call"
    assert f"{stack.url}/organizations/acme/alerts/2/" in message["text"]


def test_the_secret_of_the_demos_webhook_is_readable_only_by_its_owner(stack: Stack) -> None:
    assert (stack.folder / "webhook-secrets.json").stat().st_mode & 0o777 == 0o600
