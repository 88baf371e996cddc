"""The text of a chat message: what happened, in words that notify nobody by themselves, and short enough everywhere.

A service decides by the text whom it pings, and which text is a link. So every text that a person wrote is defused
before it becomes part of a message: the characters that begin a mention or a link are followed by a space of no width,
which no service takes for part of a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from models.enums import IncidentStatus

MAX_CHARACTERS: Final = 900
"""The length of a message, in code points. Apprise's lowest limit is 1,000, for Teams and Rocket.Chat, and in UTF-8
the message stays below the 4,096 bytes of ntfy."""

MAX_HEADING_CHARACTERS: Final = 250
MAX_NAME_CHARACTERS: Final = 60
MAX_LINK_CHARACTERS: Final = 400
"""A longer link is left out, because half a link leads nowhere."""

ZERO_WIDTH_SPACE: Final = "\u200b"
ELLIPSIS: Final = "…"
READ_ON: Final = "… read on: "

# `@here`, `@everyone`, `@room`, `@**all**` and `@name` begin with an at sign, also in the middle of a word;
# `<!channel>`, `<@U1>`, `<@&role>`, `<#channel>`, `<users/all>`, `<at>` and `<url|text>` with an angle bracket.
_STARTS: Final = re.compile("[@\uff20\ufe6b<\uff1c]")
# `[text](url)` hides the address of a link, and `![…](url)` fetches an image.
_LINK: Final = re.compile(r"\](?=[(\[])")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]|[\ud800-\udfff]")
_MAX_GRAPHEME: Final = 32


def defuse(text: str) -> str:
    """Return a text that a person wrote so that it pings nobody and hides no link. It looks the same.

    >>> defuse("@here").encode()
    b'@\\xe2\\x80\\x8bhere'
    """
    text = _CONTROLS.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _STARTS.sub(rf"\g<0>{ZERO_WIDTH_SPACE}", text)
    return _LINK.sub(f"]{ZERO_WIDTH_SPACE}", text)


def cut(text: str, most: int) -> str:
    """Return a text of at most ``most`` code points, with an ellipsis if something is missing.

    Characters that belong together, such as a letter and its accents, are kept or cut together.

    >>> cut("abcdef", 4)
    'abc…'
    """
    if len(text) <= most:
        return text
    return text[: _boundary(text, most - len(ELLIPSIS))].rstrip() + ELLIPSIS if most > 0 else ""


def compose(heading: str, details: str, link: str | None) -> str:
    """Return the message. The details are cut so that the link is always whole.

    All three have been defused where a person wrote them.
    """
    heading = cut(heading, MAX_HEADING_CHARACTERS)
    if link is not None and len(link) > MAX_LINK_CHARACTERS:
        link = None
    details = details.strip()
    whole = _SEPARATOR.join(part for part in (heading, details, link) if part)
    if len(whole) <= MAX_CHARACTERS:
        return whole
    end = ELLIPSIS if link is None else f"{READ_ON}{link}"
    room = MAX_CHARACTERS - len(heading) - len(_SEPARATOR) - len(end)
    return f"{heading}{_SEPARATOR}{details[: _boundary(details, room)].rstrip()}{end}"


def _boundary(text: str, position: int) -> int:
    """Return the last position, at or before this one, that does not separate what belongs together."""
    earliest = max(0, position - _MAX_GRAPHEME)
    for each in range(position, earliest, -1):
        if not _is_joined(text[each - 1], text[each]):
            return each
    return max(0, position)


def _is_joined(left: str, right: str) -> bool:
    is_extension = unicodedata.category(right) in ("Mn", "Mc", "Me") or "\U0001f3fb" <= right <= "\U0001f3ff"
    is_flag = "\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff"
    return is_extension or is_flag or "\u200d" in (left, right) or right == ZERO_WIDTH_SPACE


_SEPARATOR: Final = "\n\n"


# --- what happened ---------------------------------------------------------------------------------------------------


class IncidentInText(NamedTuple):
    """The incident that a message is about. ``status`` is the one to show."""

    identifier: int
    title: str
    status: IncidentStatus


class Message(NamedTuple):
    """A message before it is composed: its heading and its details, defused."""

    heading: str
    details: str = ""


def incident_heading(incident: IncidentInText) -> str:
    """Return the first line of a message about an incident. The number is whole even if the title is cut."""
    number = f" (#{incident.identifier})"
    status = f"[{incident.status.label}] "
    return status + cut(_line(incident.title), MAX_HEADING_CHARACTERS - len(status) - len(number)) + number


def action_message(incident: IncidentInText, project: str | None) -> Message:
    """Return the message of an alert rule's action."""
    where = f" in project {_name(project)}" if project else ""
    return Message(incident_heading(incident), f"The alert is {incident.status.label}{where}.")


def comment_message(incident: IncidentInText, actor: str | None, comment: str) -> Message:
    """Return the message about a comment."""
    return Message(incident_heading(incident), _sentence(actor, "commented:", comment))


def status_message(
    incident: IncidentInText, actor: str | None, old: IncidentStatus | None, comment: str | None
) -> Message:
    """Return the message about a status change to ``incident.status``."""
    before = f" from {old.label}" if old is not None else ""
    return Message(
        incident_heading(incident), _sentence(actor, f"changed the status{before} to {incident.status.label}.", comment)
    )


def event_message(
    event_type: str, incident: IncidentInText | None, data: Mapping[str, Any], text: str | None
) -> Message:
    """Return the message about an event. ``data`` is the event's own, and ``text`` the comment as it is now."""
    actor = _actor(data)
    if incident is not None and event_type == "incident.status_changed":
        previous = data.get("previousStatus")
        return status_message(incident, actor, None if previous is None else IncidentStatus(previous), text)
    if incident is not None and event_type == "incident.comment_posted":
        return comment_message(incident, actor, text or "")
    heading = incident_heading(incident) if incident is not None else _subject(event_type, data)
    if event_type in _ACTIONS:
        return Message(heading, _sentence(actor, _ACTIONS[event_type], text))
    return Message(heading, _passive(event_type, data))


def trial_message(organization: str) -> Message:
    """Return the message that a manager sends to try a destination."""
    return Message("Test message from tocsin", f"Messages of {_name(organization)} can be posted here.")


def merged_message(messages: Sequence[tuple[Message, str | None]]) -> Message:
    """Return one message for several, each with its link: a heading and a line for each, as many as fit."""
    lines = []
    for message, link in messages:
        shown = link if link is not None and len(link) <= MAX_LINK_CHARACTERS else ""
        line = f"{message.heading}: {cut(_flat(message.details), _MERGED_CHARACTERS)}"
        lines.append(f"{line}\n{shown}".rstrip())
    heading = f"{len(messages)} updates"
    room = MAX_CHARACTERS - len(heading) - 2 * len(_SEPARATOR) - len(_OMITTED.format(len(messages)))
    kept: list[str] = []
    for line in lines:
        room -= len(line) + len(_SEPARATOR)
        if room < 0:
            break
        kept.append(line)
    if len(kept) < len(lines):
        kept.append(_OMITTED.format(len(lines) - len(kept)))
    return Message(heading, _SEPARATOR.join(kept))


_MERGED_CHARACTERS: Final = 120
_OMITTED: Final = "… and {} more in the inbox."

_ACTIONS: Final[Mapping[str, str]] = {
    "incident.opened": "opened the incident.",
    "incident.comment_edited": "edited a comment:",
    "incident.comment_deleted": "deleted a comment.",
    "incident.mentioned": "mentioned people in a comment:",
    "incident.seen": "has seen the incident.",
    "incident.subscribed": "subscribed someone to the incident.",
    "incident.unsubscribed": "unsubscribed someone from the incident.",
    "alert_rule.created": "created the alert rule.",
    "alert_rule.updated": "changed the alert rule.",
    "alert_rule.deleted": "deleted the alert rule.",
}
"""What somebody did, by the type of the event."""


def _passive(event_type: str, data: Mapping[str, Any]) -> str:
    trigger = data.get("trigger")
    if isinstance(trigger, Mapping):
        verb = "fired" if event_type.endswith(".fired") else "was resolved"
        at = f" at {data['value']:g}" if isinstance(data.get("value"), (int, float)) else ""
        return (
            f"The trigger {_name(str(trigger.get('label')))} {verb}{at} in project {_name(str(data.get('project')))}."
        )
    if event_type == "command.dead":
        return f"A command ({_name(str(data.get('type')))}) failed for good after {data.get('attempts')} attempts."
    return f"Event {event_type}."


def _subject(event_type: str, data: Mapping[str, Any]) -> str:
    rule = data.get("alertRule")
    if isinstance(rule, Mapping):
        return f"Alert rule {_line(str(rule.get('name')))}"
    return f"tocsin: {event_type}"


def _actor(data: Mapping[str, Any]) -> str | None:
    actor = data.get("actor")
    return str(actor["name"]) if isinstance(actor, Mapping) and actor.get("name") else None


def _sentence(actor: str | None, action: str, text: str | None) -> str:
    sentence = f"{_name(actor) if actor else 'tocsin'} {action}"
    return f"{sentence}{_SEPARATOR}{defuse(text).strip()}" if text and text.strip() else sentence


def _name(name: str) -> str:
    return cut(_line(name), MAX_NAME_CHARACTERS)


def _line(text: str) -> str:
    return _flat(defuse(text))


def _flat(text: str) -> str:
    return " ".join(text.split())
