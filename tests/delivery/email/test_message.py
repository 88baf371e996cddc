"""Mails as bytes: their headers on the wire, and what other programs read in them."""

from __future__ import annotations

import quopri
import re
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.enums import IncidentStatus
from models.notifications.mailbox import make_mailbox
from tests.delivery.email.mails import MAIL_ID, a_mail, an_update, incident_updates, raw_field
from tests.delivery.email.readers import read_with_perl
from tests.delivery.node_packages import NodePackages
from workers.deliver.channels.email.message import message_id, render, status_action, thread_id
from workers.deliver.channels.email.mime import quoted_printable

LINK = "https://alerts.example.test/organizations/acme/alerts/7/?referrer=incident_activity_email&ticket=abc"
LONG_URL = "https://alerts.example.test/unsubscribe/" + "0123456789abcdef" * 50 + "/"


def test_a_mail_about_a_comment_has_the_subject_and_the_wording_of_the_contract() -> None:
    message = render(a_mail())

    read = read_with_perl(message)
    assert read["headers"]["subject"] == "Activity on Alert Disk full (#7)"
    assert read["headers"]["from"] == "tocsin@example.test"
    assert read["headers"]["to"] == "Ana <ana@example.test>"
    assert read["parts"]["text/plain"].splitlines() == [
        "New Alert Activity",
        "",
        "Ben left a comment on alert Disk full (#7)",
        "",
        "Look at **this**.",
        "",
        f"View the alert: {LINK}",
        "",
        "You were mentioned.",
        "Unsubscribe from this alert: https://alerts.example.test/unsubscribe/xyz/",
    ]
    html = read["parts"]["text/html"]
    assert "<p>Look at <strong>this</strong>.</p>" in html
    assert (
        'href="https://alerts.example.test/organizations/acme/alerts/7/?referrer=incident_activity_email&amp;' in html
    )


def test_a_status_change_names_both_statuses() -> None:
    action = status_action("Disk full (#7)", IncidentStatus.CRITICAL, IncidentStatus.CLOSED)

    assert action == "changed status from Critical to Resolved on alert Disk full (#7)"


def test_the_same_facts_give_the_same_bytes() -> None:
    assert render(a_mail()) == render(a_mail())


def test_ids_and_dates_are_on_the_wire_as_they_are() -> None:
    berlin = datetime(2026, 11, 23, 11, 0, tzinfo=timezone(timedelta(hours=1)))

    message = render(a_mail(date=berlin))

    assert raw_field(message, "Message-ID") == f"<{MAIL_ID}@example.test>"
    assert raw_field(message, "References") == "<incident.3.7@example.test>"
    assert raw_field(message, "In-Reply-To") == "<incident.3.7@example.test>"
    assert raw_field(message, "Date") == "Mon, 23 Nov 2026 10:00:00 +0000"


@pytest.mark.parametrize("url", ["https://a.test/u/1/", LONG_URL, "https://a.test/" + "u" * 970])
def test_the_url_for_unsubscribing_is_whole_on_the_wire(url: str) -> None:
    message = render(a_mail(incident_updates(unsubscribe_url=url)))

    assert f"<{url}>\r\n".encode() in message
    assert raw_field(message, "List-Unsubscribe").strip() == f"<{url}>"
    assert raw_field(message, "List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
    assert max(map(len, message.split(b"\r\n"))) <= 998


def test_a_mail_without_anything_to_unsubscribe_from_has_no_such_header() -> None:
    message = render(a_mail(incident_updates(unsubscribe_url=None)))

    assert b"List-Unsubscribe" not in message
    assert b"Unsubscribe" not in message


@pytest.mark.parametrize(
    "domain",
    [
        "example.test",
        "a-very-long-name-of-a-host.in-a-department.of-a-company.example.test",
        "x" * 63,
        f"{'y' * 63}.test",
    ],
)
def test_an_id_is_at_most_77_characters_whatever_the_domain(domain: str) -> None:
    largest = 2**53 - 1

    ids = [message_id(MAIL_ID, domain), thread_id(largest, largest, domain)]

    assert all(len(each) <= 77 for each in ids)
    assert all(re.fullmatch(r"<[a-z0-9.-]+@[a-z0-9.-]+>", each) for each in ids)


HOSTILE = [
    "=?utf-8?q?hi?=",
    "=?utf-8?b?aGk=?= and =?x",
    "two\r\nBcc: eve@example.test",
    "nul\x00 vt\x0b ff\x0c nel\x85 ls\u2028 ps\u2029 end",
    "Überlauf auf Platte drei, vier und fünf im Rechenzentrum Süd, und das seit heute Nacht",
    "ディスクの空き容量が不足しています" * 5,
    "x" * 300,
    "👩‍💻" * 40,
    "",
    "  blanks   at both ends  ",
    'quotes " and \\ and <brackets>, commas; (parentheses)',
]


@pytest.mark.parametrize("title", HOSTILE)
def test_a_title_is_one_readable_subject_whatever_it_contains(title: str) -> None:
    message = render(a_mail(incident_updates(title=title)))

    expected = f"Activity on Alert {one_line(title)} (#7)"
    assert " ".join(read_with_perl(message)["headers"]["subject"].split()) == " ".join(expected.split())
    assert str(message_from_bytes(message, policy=policy.default)["Subject"]).split() == expected.split()
    assert b"\r\nBcc:" not in message


@settings(deadline=None)
@given(st.text(max_size=200))
@example("=?utf-8?q?hi?=")
def test_no_text_breaks_the_header(title: str) -> None:
    message = render(a_mail(incident_updates(title=title), recipient=make_mailbox(title, "ana@example.test")))

    header = message.split(b"\r\n\r\n", 1)[0]
    assert header.isascii()
    lines = header.split(b"\r\n")
    assert all(len(line) <= 998 and line.strip() for line in lines)
    assert field_names(message) == field_names(render(a_mail()))


@pytest.mark.parametrize("name", ["Ana", "Ana Díaz", 'Doe, "J" (EU) & <co>', "=?utf-8?q?hi?=", "Ä" * 90, "山田太郎"])
def test_a_display_name_is_read_as_it_was_written(name: str) -> None:
    message = render(a_mail(recipient=make_mailbox(name, "ana@example.test")))

    shown = read_with_perl(message)["headers"]["to"]
    assert shown.replace("\\", "").replace('"', "") == f"{name} <ana@example.test>".replace('"', "")


def test_a_mail_is_seven_bit_safe_and_has_short_lines() -> None:
    comment = "Süd\n.\nFrom here\n" + "From there " * 7 + "\n" + "ü" * 2000 + "\n\ttabs and trailing blanks  \n"

    message = render(a_mail(incident_updates(an_update(comment))))

    assert message.isascii()
    assert max(map(len, message.split(b"\r\n\r\n", 1)[1].split(b"\r\n"))) <= 76
    assert b"\n" not in message.replace(b"\r\n", b"")
    assert b"\r" not in message.replace(b"\r\n", b"")
    assert b"\r\nFrom " not in message
    assert comment.strip("\n") in read_with_perl(message)["parts"]["text/plain"].replace("\r\n", "\n")


@settings(deadline=None)
@given(st.text())
def test_quoted_printable_gives_every_text_back(text: str) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")

    assert quopri.decodestring(quoted_printable(text)).replace(b"\r\n", b"\n") == lines.encode()


def test_the_title_of_an_incident_is_not_html() -> None:
    message = render(a_mail(incident_updates(an_update(actor="<b>Ben</b>"), title="<script>alert(1)</script>")))

    html = read_with_perl(message)["parts"]["text/html"]
    assert "<script>" not in html
    assert "<b>Ben" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (#7)" in html


def test_an_html_part_loads_nothing_and_suits_light_and_dark() -> None:
    html = read_with_perl(render(a_mail()))["parts"]["text/html"]

    assert not re.search(r"<(img|link|script|iframe)|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert '<meta name="viewport"' in html


def test_node_finds_the_address_for_unsubscribing_and_the_thread(node: NodePackages) -> None:
    url = "https://alerts.example.test/unsubscribe/" + "0123456789abcdef" * 50 + "/"
    sender = make_mailbox("Tocsin", f"tocsin@{'long-name.' * 5}example.test")
    mail = a_mail(incident_updates(unsubscribe_url=url), sender=sender, recipient=make_mailbox("Ä, B", "a@x.test"))

    found = node.read_mail(render(mail))

    # With encoded words, as the standard library writes long values, mailparser finds no URL.
    assert found["list"]["unsubscribe"]["url"] == url
    assert found["messageId"] == message_id(MAIL_ID, sender.domain)
    assert found["inReplyTo"] == found["references"] == thread_id(3, 7, sender.domain)
    assert found["to"] == [{"address": "a@x.test", "name": "Ä, B"}]


def test_a_mail_about_several_incidents_groups_their_updates_and_belongs_to_no_thread() -> None:
    other = incident_updates(
        an_update("Second"), an_update("Third"), identifier=8, title="CPU", unsubscribe_url="https://a.test/u/8/"
    )

    message = render(a_mail(incident_updates(an_update("First")), other))

    read = read_with_perl(message)
    assert read["headers"]["subject"] == "3 updates on 2 incidents in Acme"
    assert read["headers"].keys().isdisjoint({"references", "in-reply-to", "list-unsubscribe"})
    text = read["parts"]["text/plain"]
    order = ["== Disk full (#7): Critical ==", "First", "unsubscribe/xyz/", "== CPU (#8)", "Second", "Third", "/u/8/"]
    assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)


def test_a_mail_about_several_updates_of_one_incident_stays_in_its_thread() -> None:
    message = render(a_mail(incident_updates(an_update("First"), an_update("Second"))))

    assert raw_field(message, "Subject") == "Activity on Alert Disk full (#7)"
    assert raw_field(message, "References") == "<incident.3.7@example.test>"


def test_an_international_domain_is_written_with_its_a_labels() -> None:
    message = render(a_mail(recipient=make_mailbox("", "j@faß.example")))

    assert raw_field(message, "To") == "j@xn--fa-hia.example"


def test_automatic_answers_are_not_asked_for() -> None:
    assert raw_field(render(a_mail()), "Auto-Submitted") == "auto-generated"


def one_line(title: str) -> str:
    return " ".join(re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", title).split())


def field_names(message: bytes) -> list[bytes]:
    lines = message.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    return [line.split(b":")[0] for line in lines if not line.startswith(b" ")]
