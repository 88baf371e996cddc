"""The main job, over the real command line from an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tocsin_client import Event, PostComment

from tests.brokers import broker_params
from tests.journeys.programs import CLEAN, open_folder
from tests.journeys.stack import ACME, Stack, a_broker_for_the_stack, running_stack
from tests.waiting import eventually

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module", params=broker_params(beside="stack"))
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything, once on each kind of broker."""
    if request.param == "valkey":
        yield request.getfixturevalue("demo")
        return
    with (
        a_broker_for_the_stack(request) as broker,
        open_folder() as folder,
        running_stack(folder / "data", broker=broker) as running,
    ):
        yield running


def test_a_comment_posted_over_http_reaches_the_person_mentioned(stack: Stack) -> None:
    with stack.caller("dev-mem") as mem, stack.caller("dev-ana") as ana:
        posted = mem.post(PostComment(1, "Ana?", mentions=["user:12"]))

        assert posted.status == 201
        inbox = eventually(lambda: ana.read("notifications/"))
        assert [(item["reason"], item["text"]) for item in inbox] == [("mention", "Ana?")]
        assert inbox[0]["activity"]["id"] == posted.body["id"]
        command = mem.record(posted.command_id)
        assert command.outcome is not None
        assert (command.status, command.outcome.body) == ("applied", posted.body)


def test_read_items_are_read_once(stack: Stack) -> None:
    with stack.client("dev-mem") as mem, stack.client("dev-ben") as ben:
        mem.post(f"{ACME}/incidents/2/comments/", json={"comment": "Ben?", "mentions": ["ben"]})
        inbox = eventually(lambda: ben.get(f"{ACME}/notifications/", params={"unread": "1"}).json())

        first = ben.post(f"{ACME}/notifications/read/", json={"upTo": inbox[0]["id"]})
        second = ben.post(f"{ACME}/notifications/read/", json={"upTo": inbox[0]["id"]})

        assert (first.json(), second.json()) == ({"read": len(inbox)}, {"read": 0})
        assert ben.get(f"{ACME}/notifications/count/").json() == {"unread": 0}


def test_two_hundred_unawaited_comments_of_one_client_are_applied_in_order(stack: Stack) -> None:
    with stack.caller("dev-mem") as caller, stack.client("dev-mem") as mem:
        texts = [f"number {number}" for number in range(200)]
        commands = [caller.submit(PostComment(3, text), key=text.replace(" ", "-")) for text in texts]

        assert caller.wait(commands[-1]).status == 201
        pages = [
            mem.get(f"{ACME}/incidents/3/activity/", params={"desc": "0", "per_page": 100, "cursor": cursor}).json()
            for cursor in _cursors(mem, f"{ACME}/incidents/3/activity/")
        ]
        written = [activity["comment"] for page in pages for activity in page if activity["type"] == 3]
        assert written == texts


def test_who_follows_hears_everything_once_although_the_gateway_is_killed(stack: Stack) -> None:
    with stack.caller("dev-mem") as mem, stack.caller("dev-ana") as ana, closing(ana.follow()) as events:
        told: list[Event] = []
        heard = threading.Thread(target=lambda: deque(map(told.append, _until(events, "that is all"))))
        heard.start()
        eventually(lambda: mem.post(PostComment(2, "Does anybody hear this?")) and told)
        for number in range(10):
            if number == 5:
                gateway = stack.kill("gateway")
            mem.post(PostComment(2, f"{number}", mentions=["ana"]), key=f"heard-{number}")
        stack.comes_back("gateway", other_than=gateway)
        inbox = eventually(lambda: [item for item in ana.read("notifications/") if item["text"] == "9"])
        mem.post(PostComment(2, "that is all"))
        heard.join(60)

    comments = [event for event in told if event.type == "incident.comment_posted"]
    assert [event.data["activity"]["comment"] for event in comments][-11:] == [*map(str, range(10)), "that is all"]
    assert len({event.id for event in told}) == len(told)
    assert inbox[0]["id"] in [event.data["notification"]["id"] for event in told if "notification" in event.data]


def _until(events: Iterator[Event], comment: str) -> Iterator[Event]:
    for event in events:
        yield event
        if event.data.get("activity", {}).get("comment") == comment:
            return


def _cursors(client: object, address: str) -> list[str]:
    """The cursors of every page of a list, oldest first."""
    cursors = [""]
    while True:
        answer = client.get(address, params={"desc": "0", "per_page": 100, "cursor": cursors[-1]})  # type: ignore[attr-defined]
        following = answer.links["next"]
        if following["results"] == "false":
            return cursors
        cursors.append(following["cursor"])


def test_the_first_steps_of_the_readme_answer_as_it_says(stack: Stack) -> None:
    post, look, ask = re.findall(r"^```sh\n(curl.*?)^```", README, re.MULTILINE | re.DOTALL)
    posted_as, inbox_as = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[:2]

    posted = paste(post, at=stack.url)
    inbox = eventually(lambda: [item for item in json.loads(paste(look, at=stack.url)) if f'"{item["text"]}"' in post])
    (id_,) = re.findall(r"command-id: (\S+)", posted)
    asked = json.loads(paste(ask.replace("COMMAND_ID", id_), at=stack.url))

    assert posted.startswith("HTTP/1.1 201 Created\n")
    assert names_in(posted_as) <= names_in(posted)
    assert names_in(inbox_as) <= names_in(json.dumps(inbox, separators=(",", ":")))
    assert (inbox[0]["reason"], inbox[0]["incident"]["identifier"]) == ("mention", "1")
    assert asked["status"] == "applied"


def paste(command: str, *, at: str) -> str:
    """What a line of the README prints in a shell, said to this stack instead of the one of `make run`."""
    if shutil.which("curl") is None and "CI" not in os.environ:
        pytest.skip("curl is not installed here")
    words = command.replace("http://127.0.0.1:8400", at).replace("curl ", "curl -sS ", 1)
    return subprocess.run(["sh", "-c", words], env=CLEAN, capture_output=True, text=True, timeout=60, check=True).stdout


def names_in(answer: str) -> set[str]:
    """The names of headers and of fields in an answer."""
    return set(re.findall(r'"(\w+)":', answer)) | set(re.findall(r"^([\w-]+): ", answer, re.MULTILINE))


def test_the_terminal_shows_what_was_asked(stack: Stack) -> None:
    with stack.client("dev-mem") as mem:
        id_ = mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Seen?"}).headers["Command-Id"]

    shown = json.loads(stack.tocsin("commands", "show", id_, "--json"))

    assert (shown["type"], shown["status"], shown["outcome"]["status"]) == ("comment.post", "applied", 201)


def test_the_tap_prints_events_as_they_pass(stack: Stack) -> None:
    with stack.tapping("--binding", "incident.comment_posted") as tap, stack.client("dev-mem") as mem:
        post = threading.Event()

        def post_until_seen() -> None:
            while not post.wait(0.2):
                mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Anyone?"})

        poster = threading.Thread(target=post_until_seen)
        poster.start()
        line = tap.until("incident.comment_posted")
        post.set()
        poster.join()

    assert line.split("  ")[1:3] == ["incident.comment_posted", "incidents/1"]
    assert line.endswith("Mem")


def test_the_doctor_finds_nothing_wrong(stack: Stack) -> None:
    found = json.loads(stack.tocsin("doctor", "--json"))

    assert {check["check"] for check in found["checks"] if check["good"]} >= {"database", "broker", "topology", "disk"}
