"""Whoever is told of an incident is told by every channel of the demo: mail, webhook and chat."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.event_schemas import validator_for
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


def test_an_event_has_the_same_body_on_the_exchange_in_a_stream_and_in_a_webhook(stack: Stack) -> None:
    seen = Event()

    def comment_until_seen() -> None:
        while not seen.wait(0.2):
            post_comment(stack)

    with stack.running_tap("--binding", "incident.comment_posted", "--json") as tap, ThreadPoolExecutor() as pool:
        commenting = pool.submit(comment_until_seen)
        try:
            on_exchange = json.loads(tap.read_until("incident.comment_posted"))
        finally:
            seen.set()
        commenting.result()
    with stack.client("dev-mem", **{"Last-Event-ID": str(UUID(int=0))}) as mem:
        in_stream = streamed_event(mem, on_exchange["id"])
    [call] = eventually(lambda: caught(stack, "webhooks", on_exchange["id"]))

    validator_for("incident.comment_posted").validate(on_exchange)
    assert in_stream == json.loads(call["body"]) == on_exchange


def streamed_event(client: httpx.Client, id_: str) -> Any:
    """Return the data of the event with this id in the caller's stream, which replays the last day."""
    with client.stream("GET", f"{ACME}/events/") as response:
        lines = response.iter_lines()
        assert any(line == f"id: {id_}" for line in lines)
        return next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


def test_the_demos_chat_room_is_told_of_new_incidents(stack: Stack) -> None:
    [message] = eventually(lambda: caught(stack, "chats", "Card payments fail"))

    assert message["room"] == "on-call"
    assert f"{stack.url}/organizations/acme/alerts/2/" in message["text"]


def test_the_secret_of_the_demos_webhook_is_readable_only_by_its_owner(stack: Stack) -> None:
    assert (stack.folder / "webhook-secrets.json").stat().st_mode & 0o777 == 0o600
