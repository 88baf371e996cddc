"""The text of chat messages: defused, short enough, and with a whole link."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.enums import IncidentStatus
from workers.deliver.channels.chat.text import (
    MAX_CHARACTERS,
    READ_ON,
    IncidentInText,
    action_message,
    comment_message,
    compose,
    cut,
    defuse,
    event_message,
    incident_heading,
    merged_message,
    status_message,
)

LINK = "https://tocsin.example/organizations/acme/alerts/7/"
INCIDENT = IncidentInText(7, "Checkout is slow", IncidentStatus.CRITICAL)

# Texts with many of the characters that mean something somewhere.
PIECES = """
@ here everyone all channel room < ! > # & | ]( [ ] ( ) * ` é e\u0301 👍🏽 🇩🇪 http://x.y users/all at U1 ＠ ＜
"""
BLANKS = ["\n", "\r", " ", "\u200b", "\u200d", "\u2028", "\x00", "\ud800"]
user_texts = st.lists(st.sampled_from([*PIECES.split(), *BLANKS]) | st.text(max_size=8), max_size=60).map("".join)

PING = re.compile(
    r"[@＠﹫][\w*!&-]"  # every service
    r"|[<＜][!@#:/a-zA-Z]"  # Slack, Discord, Google Chat, Teams
    r"|\]\("  # links in Markdown that hide their address
)


@given(title=user_texts, name=user_texts, comment=user_texts)
def test_no_text_of_a_person_pings_anyone(title: str, name: str, comment: str) -> None:
    incident = IncidentInText(7, title, IncidentStatus.OPEN)
    data = {"actor": {"name": name}, "alertRule": {"name": title}, "trigger": {"label": name}, "project": title}
    messages = [
        comment_message(incident, name, comment),
        status_message(incident, name, IncidentStatus.OPEN, comment),
        action_message(incident, name),
        *(event_message(each, incident, data, comment) for each in ("incident.mentioned", "incident.comment_posted")),
        *(event_message(each, None, data, comment) for each in ("alert_rule.updated", "alert_trigger.fired")),
        event_message("command.dead", None, {"type": name, "attempts": 5}, None),
    ]

    for text in [compose(*each, LINK) for each in [*messages, merged_message([(each, None) for each in messages])]]:
        assert PING.search(text) is None
        assert len(text) <= MAX_CHARACTERS
        text.encode()


@given(comment=user_texts)
def test_a_defused_text_looks_the_same(comment: str) -> None:
    def visible(text: str) -> str:
        return "".join(
            each
            for each in text
            if each != "\u200b" and unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp", "Zs")
        )

    assert visible(defuse(comment)) == visible(comment)


@given(heading=user_texts, details=st.text(max_size=3000), length=st.integers(0, 390))
def test_a_message_keeps_its_whole_link_and_its_limit(heading: str, details: str, length: int) -> None:
    link = "https://" + "x" * length

    text = compose(defuse(heading), defuse(details), link)

    assert text.endswith(link)
    assert len(text) <= MAX_CHARACTERS


def test_a_short_message_is_whole() -> None:
    text = compose(*comment_message(INCIDENT, "Ann", "Restarting it.\n\nSee you."), LINK)

    assert text == f"[Critical] Checkout is slow (#7)\n\nAnn commented:\n\nRestarting it.\n\nSee you.\n\n{LINK}"


def test_a_long_message_is_cut_and_says_where_to_read_on() -> None:
    text = compose(*comment_message(INCIDENT, "Ann", "x" * 5000), LINK)

    assert len(text) == MAX_CHARACTERS
    assert text.endswith(f"x{READ_ON}{LINK}")


def test_without_a_link_a_long_message_ends_with_an_ellipsis() -> None:
    assert compose("Heading", "x" * 5000, None).endswith("x…")


def test_a_link_that_would_fill_the_message_is_left_out() -> None:
    assert compose("Heading", "Details", "https://" + "x" * 2000) == "Heading\n\nDetails"


@pytest.mark.parametrize("cluster", ["e\u0301", "👍🏽", "👩\u200d💻", "🇩🇪", "@\u200b"])
def test_what_belongs_together_is_not_separated(cluster: str) -> None:
    shortened = {cut("a" * before + cluster + "b" * 20, 10) for before in range(12)}

    for text in shortened:
        assert cluster in text or not set(cluster) & set(text)


def test_the_number_of_an_incident_survives_a_long_title() -> None:
    assert incident_heading(INCIDENT._replace(title="y" * 1000)).endswith("y… (#7)")


def test_every_event_has_a_sentence() -> None:
    data = {
        "actor": {"name": "Ann"},
        "previousStatus": 1,
        "trigger": {"label": "critical"},
        "project": "web",
        "value": 5.0,
    }

    assert event_message("incident.status_changed", INCIDENT, data, "Why") == (
        "[Critical] Checkout is slow (#7)",
        "Ann changed the status from Open to Critical.\n\nWhy",
    )
    assert event_message("incident.opened", INCIDENT, data, None).details == "Ann opened the incident."
    assert event_message("incident.comment_deleted", INCIDENT, data, None).details == "Ann deleted a comment."
    assert event_message("alert_trigger.fired", INCIDENT, data, None).details == (
        "The trigger critical fired at 5 in project web."
    )
    assert event_message("alert_rule.updated", None, data | {"alertRule": {"name": "Errors"}}, None) == (
        "Alert rule Errors",
        "Ann changed the alert rule.",
    )


def test_several_updates_are_listed_until_the_message_is_full() -> None:
    updates = [(comment_message(INCIDENT._replace(identifier=n), "Ann", "Hello " * 50), LINK) for n in range(30)]

    message = merged_message(updates)

    assert message.heading == "30 updates"
    assert "(#0)" in message.details
    assert re.search(r"… and \d+ more in the inbox\.$", message.details)
    assert len(compose(*message, None)) <= MAX_CHARACTERS
