"""The main use case: a stack is started from the command line, and a comment leads to a notification."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from tocsin_client import Event, PostComment

from tests.brokers import broker_params
from tests.journeys.stack import ACME, Stack, running_stack, stack_broker
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT, public_temp_dir
from tests.waiting import eventually

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module", params=broker_params(valkey_group="stack"))
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A demo stack, on each kind of broker."""
    if request.param == "valkey":
        yield request.getfixturevalue("demo")
        return
    with (
        stack_broker(request) as broker,
        public_temp_dir() as folder,
        running_stack(folder / "data", broker=broker) as running,
    ):
        yield running


def test_a_comment_posted_over_http_notifies_the_person_mentioned(stack: Stack) -> None:
    with stack.tocsin_client("dev-mem") as mem, stack.tocsin_client("dev-ana") as ana:
        posted = mem.post(PostComment(1, "Ana?", mentions=["user:12"]))

        assert posted.status == 201
        # Other tests may have used the stack before.
        about = posted.body["id"]
        inbox = eventually(lambda: [each for each in ana.read("notifications/") if each["activity"]["id"] == about])
        assert [(item["reason"], item["text"]) for item in inbox] == [("mention", "Ana?")]
        command = mem.record(posted.command_id)
        assert command.outcome is not None
        assert (command.status, command.outcome.body) == ("applied", posted.body)


def test_inbox_items_are_counted_only_the_first_time_they_are_marked_as_read(stack: Stack) -> None:
    with stack.client("dev-mem") as mem, stack.client("dev-ben") as ben:
        mem.post(f"{ACME}/incidents/2/comments/", json={"comment": "Ben?", "mentions": ["ben"]})
        inbox = eventually(lambda: ben.get(f"{ACME}/notifications/", params={"unread": "1"}).json())

        first = ben.post(f"{ACME}/notifications/read/", json={"upTo": inbox[0]["id"]})
        second = ben.post(f"{ACME}/notifications/read/", json={"upTo": inbox[0]["id"]})

        assert (first.json(), second.json()) == ({"read": len(inbox)}, {"read": 0})
        assert ben.get(f"{ACME}/notifications/count/").json() == {"unread": 0}


def test_two_hundred_unawaited_comments_from_one_client_are_applied_in_order(stack: Stack) -> None:
    with stack.tocsin_client("dev-mem") as caller, stack.client("dev-mem") as mem:
        texts = [f"number {number}" for number in range(200)]
        commands = [caller.submit(PostComment(3, text), key=text.replace(" ", "-")) for text in texts]

        assert caller.wait(commands[-1]).status == 201
        pages = [
            mem.get(f"{ACME}/incidents/3/activity/", params={"desc": "0", "per_page": 100, "cursor": cursor}).json()
            for cursor in _cursors(mem, f"{ACME}/incidents/3/activity/")
        ]
        written = [activity["comment"] for page in pages for activity in page if activity["type"] == 3]
        assert written == texts


def test_a_follower_receives_every_event_once_even_if_the_gateway_is_killed(stack: Stack) -> None:
    with stack.tocsin_client("dev-mem") as mem, stack.tocsin_client("dev-ana") as ana, closing(ana.follow()) as events:
        received: list[Event] = []
        follower = threading.Thread(target=lambda: deque(map(received.append, _until(events, "that is all"))))
        follower.start()
        eventually(lambda: mem.post(PostComment(2, "Is anybody following?")) and received)
        for number in range(10):
            if number == 5:
                gateway = stack.kill("gateway")
            mem.post(PostComment(2, f"{number}", mentions=["ana"]), key=f"followed-{number}")
        stack.wait_for_restart("gateway", other_than=gateway)
        inbox = eventually(lambda: [item for item in ana.read("notifications/") if item["text"] == "9"])
        mem.post(PostComment(2, "that is all"))
        follower.join(60)

    comments = [event for event in received if event.type == "incident.comment_posted"]
    assert [event.data["activity"]["comment"] for event in comments][-11:] == [*map(str, range(10)), "that is all"]
    assert len({event.id for event in received}) == len(received)
    assert inbox[0]["id"] in [event.data["notification"]["id"] for event in received if "notification" in event.data]


def _until(events: Iterator[Event], comment: str) -> Iterator[Event]:
    for event in events:
        yield event
        if event.data.get("activity", {}).get("comment") == comment:
            return


def _cursors(client: httpx.Client, path: str) -> list[str]:
    """Return the cursors of all pages of a list, oldest first."""
    cursors = [""]
    while True:
        response = client.get(path, params={"desc": "0", "per_page": 100, "cursor": cursors[-1]})
        following = response.links["next"]
        if following["results"] == "false":
            return cursors
        cursors.append(following["cursor"])


def test_the_first_steps_of_the_readme_work_as_documented(stack: Stack) -> None:
    post, read_inbox, show_command, *_ = readme_commands()
    posted_as, inbox_as = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[:2]

    posted = run_in_shell(post, at=stack.url)
    inbox = eventually(
        lambda: [
            item
            for item in json.loads(run_in_shell(read_inbox, at=stack.url))
            if f'"{item["text"]}"' in post and item["incident"]["identifier"] == "1"
        ]
    )
    (id_,) = re.findall(r"command-id: (\S+)", posted)
    command = json.loads(run_in_shell(show_command.replace("COMMAND_ID", id_), at=stack.url))

    assert posted.startswith("HTTP/1.1 201 Created\n")
    assert field_names(posted_as) <= field_names(posted)
    assert field_names(inbox_as) <= field_names(json.dumps(inbox, separators=(",", ":")))
    assert (inbox[0]["reason"], inbox[0]["incident"]["identifier"]) == ("mention", "1")
    assert command["status"] == "applied"


def test_the_readmes_commands_about_who_hears_of_it_work_as_documented(stack: Stack) -> None:
    explain, read_preferences, list_webhooks = readme_commands()[3:]
    with stack.client("dev-mem") as mem:
        mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Ana?", "mentions": ["user:12"]})

    def channels() -> set[str]:
        decisions = json.loads(run_in_shell(explain, at=stack.url))["decisions"]
        return {each["channel"] for each in decisions if each["outcome"] == "delivered"}

    eventually(lambda: channels() == {"inbox", "email"})
    assert "quietHours" in json.loads(run_in_shell(read_preferences, at=stack.url))
    webhooks = json.loads(run_in_shell(list_webhooks, at=stack.url))
    assert [(each["status"], each["failingSince"]) for each in webhooks] == [("active", None)]


def test_the_first_organization_works_as_documented(demo: Stack, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "first-organization.md").read_text()
    *steps, read_inbox = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    tocsin = f'tocsin() {{ "{sys.executable}" -m workers.cli "$@" --data "{demo.folder}"; }}; set -e; cd {tmp_path}\n'

    *_, lee = run_in_shell(tocsin + "".join(steps) + 'echo; echo "$LEE"', at=demo.url).splitlines()
    inbox = eventually(lambda: json.loads(run_in_shell(f"LEE={lee}\n{read_inbox}", at=demo.url)))

    [item] = inbox
    assert (item["reason"], item["text"]) == ("mention", "Lee, can you look?")
    assert (item["incident"], item["author"]["name"]) == (
        {"identifier": "1", "title": "Checkout answers slowly"},
        "Kim",
    )


def readme_commands() -> list[str]:
    """Return the README's examples with curl, in their order."""
    return re.findall(r"^```sh\n(curl.*?)^```", README, re.MULTILINE | re.DOTALL)


def run_in_shell(command: str, *, at: str) -> str:
    """Run command lines from the documentation in a shell against this stack; return the output."""
    if shutil.which("curl") is None and "CI" not in os.environ:
        pytest.skip("curl is not installed here")
    words = command.replace("http://127.0.0.1:8400", at).replace("curl ", "curl -sS ")
    return subprocess.run(
        ["sh", "-c", words], env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def field_names(response: str) -> set[str]:
    """Return the names of a response's headers and JSON fields."""
    return set(re.findall(r'"(\w+)":', response)) | set(re.findall(r"^([\w-]+): ", response, re.MULTILINE))


def test_commands_show_prints_a_command(stack: Stack) -> None:
    with stack.client("dev-mem") as mem:
        id_ = mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Seen?"}).headers["Command-Id"]

    shown = json.loads(stack.run_tocsin("commands", "show", id_, "--json"))

    assert (shown["type"], shown["status"], shown["outcome"]["status"]) == ("comment.post", "applied", 201)


def test_no_process_is_given_a_secret_that_it_does_not_read(stack: Stack) -> None:
    pids = stack.state["pids"]

    with_secret = {name for name, pid in pids.items() if "TOCSIN_SECRET" in psutil.Process(pid).environ()}

    assert with_secret == {"gateway", *(name for name in pids if name.startswith("worker"))}


def test_tap_prints_events_as_they_are_published(stack: Stack) -> None:
    with stack.running_tap("--binding", "incident.comment_posted") as tap, stack.client("dev-mem") as mem:
        post = threading.Event()

        def post_until_seen() -> None:
            while not post.wait(0.2):
                mem.post(f"{ACME}/incidents/1/comments/", json={"comment": "Anyone?"})

        poster = threading.Thread(target=post_until_seen)
        poster.start()
        line = tap.read_until("incident.comment_posted")
        post.set()
        poster.join()

    assert line.split("  ")[1:3] == ["incident.comment_posted", "incidents/1"]
    assert line.endswith("Mem")


def test_the_doctor_finds_nothing_wrong(stack: Stack) -> None:
    found = json.loads(stack.run_tocsin("doctor", "--json"))

    assert {check["check"] for check in found["checks"] if check["good"]} >= {"database", "broker", "topology", "disk"}
