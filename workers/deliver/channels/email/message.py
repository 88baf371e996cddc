"""A mail about one or more updates of incidents, as the bytes that are stored, sent and sent again.

The same facts always give the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from typing import Final
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from models.enums import IncidentStatus
from models.incidents import markdown
from models.notifications.mailbox import Mailbox
from workers.deliver.channels.email.mime import (
    CRLF,
    alternatives,
    mailbox_field,
    one_line,
    text_field,
    text_part,
    verbatim_field,
)

MAX_ID: Final = 77
"""How many characters a message id may have, brackets included, so that no reader or server folds it."""

HEADING: Final = "New Alert Activity"

STATUS_COLORS: Final = {
    IncidentStatus.OPEN: "#2f5bd8",
    IncidentStatus.WARNING: "#a35407",
    IncidentStatus.CRITICAL: "#c62a2f",
    IncidentStatus.CLOSED: "#2b7a4b",
}


@dataclass(frozen=True)
class Update:
    """Something that happened to an incident, as the half of a sentence that follows the actor's name.

    ``actor`` is ``None`` if no person acted; ``action`` is then a whole sentence. ``comment`` is Markdown. ``reason``
    is the sentence that says why the recipient is told.
    """

    actor: str | None
    action: str
    comment: str | None = None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """Who did what, in one line."""
        return one_line(f"{self.actor} {self.action}" if self.actor else self.action)

    @cached_property
    def comment_text(self) -> str:
        """The comment as plain text; empty if there is none."""
        return markdown.to_text(self.comment or "")

    @cached_property
    def comment_html(self) -> Markup:
        """The comment as HTML; empty if there is none."""
        return markdown.to_html(self.comment) if self.comment else Markup()


@dataclass(frozen=True)
class IncidentUpdates:
    """The updates of one incident, oldest first. ``unsubscribe_url`` is ``None`` if that would change nothing."""

    incident_id: int
    identifier: int
    title: str
    status: IncidentStatus
    link: str
    unsubscribe_url: str | None
    updates: tuple[Update, ...]

    @property
    def name(self) -> str:
        """The incident's title and number, in one line."""
        return f"{one_line(self.title)} (#{self.identifier})"

    @property
    def color(self) -> str:
        """The color of the incident's status."""
        return STATUS_COLORS[self.status]

    @property
    def reasons(self) -> list[str]:
        """The reasons for the updates, each once."""
        return list(dict.fromkeys(update.reason for update in self.updates if update.reason))


@dataclass(frozen=True)
class Mail:
    """The facts about a mail. ``id`` is the delivery's id. ``date`` must be aware.

    ``subject`` overrides the subject that :attr:`subject_line` would choose.
    """

    id: UUID
    date: datetime
    sender: Mailbox
    recipient: Mailbox
    organization_id: int
    organization_name: str
    incidents: tuple[IncidentUpdates, ...]
    subject: str | None = None

    @property
    def subject_line(self) -> str:
        """The subject: of one incident, the same for all its mails, so that readers show them as a conversation."""
        if self.subject is not None:
            return self.subject
        if len(self.incidents) == 1:
            return f"Activity on Alert {self.incidents[0].name}"
        count = sum(len(incident.updates) for incident in self.incidents)
        return f"{count} updates on {len(self.incidents)} incidents in {self.organization_name}"


@dataclass(frozen=True)
class Notice:
    """The facts about a mail that concerns no incident. Each of ``paragraphs`` is plain text."""

    id: UUID
    date: datetime
    sender: Mailbox
    recipient: Mailbox
    subject: str
    paragraphs: tuple[str, ...]


def activity_action(name: str) -> str:
    """Return what the author of a comment did on the incident with this name."""
    return f"left a comment on alert {name}"


def status_action(name: str, old: IncidentStatus | None, new: IncidentStatus) -> str:
    """Return what the person who changed the status of the incident with this name did."""
    change = f"changed status from {old.label} to {new.label}" if old else f"changed status to {new.label}"
    return f"{change} on alert {name}"


def message_id(id_: UUID, domain: str) -> str:
    """Return the Message-ID of the mail with this delivery."""
    return _message_id(str(id_), domain)


def thread_id(organization_id: int, identifier: int, domain: str) -> str:
    """Return the id to which all mails about an incident refer. No mail has it."""
    return _message_id(f"incident.{organization_id}.{identifier}", domain)


def _message_id(local: str, domain: str) -> str:
    available = MAX_ID - len(f"<{local}@>")
    if len(domain) > available:
        labels = domain.split(".")
        while len(labels) > 1 and len(".".join(labels)) > available:
            del labels[0]
        domain = ".".join(labels)
    if len(domain) > available:
        domain = hashlib.sha256(domain.encode()).hexdigest()[: min(16, available)]
    return f"<{local}@{domain}>"


def render(mail: Mail) -> bytes:
    """Return the mail in the form in which it is sent, with CRLF as line end.

    Everything is ASCII, except a recipient's address that only servers with the extension SMTPUTF8 accept.
    """
    values = {"mail": mail, "heading": HEADING}
    text = _TEMPLATES.get_template("message.txt").render(values)
    page = _TEMPLATES.get_template("message.html").render(values)
    return b"".join(_fields(mail)) + _parts(mail.id, text, page)


def render_notice(notice: Notice) -> bytes:
    """Return the mail in the form in which it is sent, with CRLF as line end. Everything is ASCII, as above."""
    values = {"notice": notice}
    text = _TEMPLATES.get_template("notice.txt").render(values)
    page = _TEMPLATES.get_template("notice.html").render(values)
    fields = [*_address_fields(notice, notice.subject), *_AUTOMATIC_FIELDS]
    return b"".join(fields) + _parts(notice.id, text, page)


def _parts(id_: UUID, text: str, page: str) -> bytes:
    # A boundary that no part contains: a quoted-printable line has no "=_".
    return alternatives(f"=_{id_.hex}", [text_part("plain", text), text_part("html", page)])


def _fields(mail: Mail) -> list[bytes]:
    fields = _address_fields(mail, mail.subject_line)
    if len(mail.incidents) == 1:
        [incident] = mail.incidents
        root = thread_id(mail.organization_id, incident.identifier, mail.sender.domain)
        fields += [verbatim_field("In-Reply-To", root), verbatim_field("References", root)]
        if incident.unsubscribe_url:
            fields += [
                verbatim_field("List-Unsubscribe", f"<{incident.unsubscribe_url}>"),
                verbatim_field("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
            ]
    return [*fields, *_AUTOMATIC_FIELDS]


def _address_fields(mail: Mail | Notice, subject: str) -> list[bytes]:
    return [
        mailbox_field("From", mail.sender),
        mailbox_field("To", mail.recipient),
        text_field("Subject", subject),
        verbatim_field("Date", format_datetime(mail.date.astimezone(UTC))),
        verbatim_field("Message-ID", message_id(mail.id, mail.sender.domain)),
    ]


# Automatic replies to a mail would be noise.
_AUTOMATIC_FIELDS: Final = (
    verbatim_field("Auto-Submitted", "auto-generated"),
    verbatim_field("X-Auto-Response-Suppress", "All"),
    verbatim_field("MIME-Version", "1.0"),
)


def split_message(message: bytes) -> tuple[bytes, bytes]:
    """Return the header fields and the body of a message."""
    header, _, body = message.partition(CRLF + CRLF)
    return header + CRLF, body


_TEMPLATES: Final = Environment(
    loader=PackageLoader("workers.deliver.channels.email"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    # The files do not change while the process runs: no look at them for each mail.
    auto_reload=False,
)
