"""Builders for the facts about mails."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from models.enums import IncidentStatus
from models.notifications.mailbox import make_mailbox
from tests.builders import NOW
from workers.deliver.channels.email.message import IncidentUpdates, Mail, Update, activity_action

MAIL_ID = UUID("01890000-0000-7000-8000-000000000001")
SENDER = make_mailbox("", "tocsin@example.test")
ANA = make_mailbox("Ana", "ana@example.test")


def an_update(comment: str | None = "Look at **this**.", **facts: Any) -> Update:
    defaults = {"actor": "Ben", "action": activity_action("Disk full (#7)"), "reason": "You were mentioned."}
    return Update(comment=comment, **defaults | facts)


def incident_updates(*updates: Update, **facts: Any) -> IncidentUpdates:
    defaults: dict[str, Any] = {
        "incident_id": 70,
        "identifier": 7,
        "title": "Disk full",
        "status": IncidentStatus.CRITICAL,
        "link": "https://alerts.example.test/organizations/acme/alerts/7/?referrer=incident_activity_email&ticket=abc",
        "unsubscribe_url": "https://alerts.example.test/unsubscribe/xyz/",
    }
    return IncidentUpdates(updates=updates or (an_update(),), **defaults | facts)


def a_mail(*incidents: IncidentUpdates, **facts: Any) -> Mail:
    defaults: dict[str, Any] = {
        "id": MAIL_ID,
        "date": NOW,
        "sender": SENDER,
        "recipient": ANA,
        "organization_id": 3,
        "organization_name": "Acme",
    }
    return Mail(incidents=incidents or (incident_updates(),), **defaults | facts)


def raw_field(message: bytes, name: str) -> str:
    """Return a header field's value as it is on the wire, with its folds."""
    header = message.split(b"\r\n\r\n", 1)[0] + b"\r\n"
    lines, value = header.decode().split("\r\n"), None
    for line in lines:
        if value is not None and line[:1] in {" ", "\t"}:
            value += f"\r\n{line}"
        elif value is not None:
            break
        elif line.lower().startswith(f"{name.lower()}:"):
            value = line[len(name) + 1 :].removeprefix(" ")
    assert value is not None, f"the message has no {name}"
    return value
