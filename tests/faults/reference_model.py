"""What should be true, said as plainly as possible: incidents in a list, commands applied one after the other.

No tables, no batches, no queues: a command changes the lists here the moment it is asked for, in the order in which
commands are asked for. Whatever the real system does to hints and workers must end the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPEN, CLOSED = 1, 2


@dataclass
class Person:
    """Someone of the organization, or nobody of it."""

    id: int
    is_member: bool = True
    may_write: bool = False
    on_team: bool = True


@dataclass
class Comment:
    """A comment; ``ever`` is everyone whom it has ever mentioned. ``asked_by`` is the command that posted it."""

    command: int
    author: int
    text: str
    version: int = 1
    ever_mentioned: set[int] = field(default_factory=set)


@dataclass
class Incident:
    """An incident with all that happened on it; ``news`` are the types of its events in order."""

    identifier: int
    key: str | None
    status: int = OPEN
    version: int = 1
    comments: list[Comment] = field(default_factory=list)
    status_changes: list[tuple[int, int, int]] = field(default_factory=list)
    subscribers: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    event_types: list[str] = field(default_factory=list)


class Model:
    """One organization. Every method is a command; it answers the HTTP status of the outcome."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self.mentioned: set[tuple[int, int]] = set()
        """Who was mentioned in which comment (by the command that posted it), authors excepted."""

    def find(self, address: str) -> Incident | None:
        """The incident of this number, or the open one with this key."""
        if address.startswith("dedup:"):
            return self._open_with_key(address.removeprefix("dedup:"))
        return next((each for each in self.incidents if str(each.identifier) == address), None)

    def open(self, who: Person, key: str | None) -> int:
        if not (who.is_member and who.may_write):
            return 403
        if key is not None and self._open_with_key(key):
            return 200
        self.incidents.append(Incident(len(self.incidents) + 1, key, event_types=["incident.opened"]))
        return 201

    def set_status(self, who: Person, address: str, status: int, version: int | None) -> int:
        incident = self.find(address)
        if refusal := _refusal(who, incident):
            return refusal
        assert incident
        if status != CLOSED and not who.may_write:
            return 403
        if version not in (None, incident.version):
            return 412
        if status == incident.status:
            return 200
        if status != CLOSED and incident.key is not None and self._open_with_key(incident.key) not in (None, incident):
            return 409
        incident.status_changes.append((who.id, incident.status, status))
        incident.status = status
        incident.version += 1
        incident.subscribers.setdefault(who.id, "closed" if status == CLOSED else "subscribed")
        incident.event_types.append("incident.status_changed")
        return 200

    def post(self, who: Person, address: str, text: str, mentions: list[Person], command: int) -> int:
        incident = self.find(address)
        if refusal := _refusal(who, incident):
            return refusal
        assert incident
        if not all(each.is_member and each.on_team for each in mentions):
            return 400
        incident.subscribers.setdefault(who.id, "commented")
        incident.comments.append(Comment(command, who.id, text))
        incident.version += 1
        incident.event_types.append("incident.comment_posted")
        self._mention(incident, incident.comments[-1], mentions)
        return 201

    def edit(
        self, who: Person, incident: Incident, command: int, text: str, mentions: list[Person], version: int | None
    ) -> int:
        comment = _comment(incident, command)
        if not who.is_member:
            return 403
        if comment is None or comment.author != who.id:
            return 404
        if version not in (None, comment.version):
            return 412
        if not all(each.is_member and each.on_team for each in mentions):
            return 400
        comment.text = text
        comment.version += 1
        incident.version += 1
        incident.event_types.append("incident.comment_edited")
        self._mention(incident, comment, mentions)
        return 200

    def delete(self, who: Person, incident: Incident, command: int) -> int:
        comment = _comment(incident, command)
        if not who.is_member:
            return 403
        if comment is None or comment.author != who.id:
            return 404
        incident.comments.remove(comment)
        incident.version += 1
        incident.event_types.append("incident.comment_deleted")
        return 204

    def mark_seen(self, who: Person, address: str) -> int:
        incident = self.find(address)
        if refusal := _refusal(who, incident):
            return refusal
        assert incident
        if who.on_team:
            incident.seen.add(who.id)
            incident.event_types.append("incident.seen")
        return 201

    def subscribe(self, who: Person, address: str) -> int:
        incident = self.find(address)
        if refusal := _refusal(who, incident):
            return refusal
        assert incident
        if who.id not in incident.subscribers:
            incident.subscribers[who.id] = "subscribed"
            incident.event_types.append("incident.subscribed")
        return 201

    def unsubscribe(self, who: Person, address: str) -> int:
        incident = self.find(address)
        if refusal := _refusal(who, incident):
            return refusal
        assert incident
        if incident.subscribers.pop(who.id, None):
            incident.event_types.append("incident.unsubscribed")
        return 200

    def _open_with_key(self, key: str) -> Incident | None:
        return next((each for each in self.incidents if each.key == key and each.status != CLOSED), None)

    def _mention(self, incident: Incident, comment: Comment, mentions: list[Person]) -> None:
        newly = {each.id for each in mentions} - comment.ever_mentioned
        comment.ever_mentioned |= newly
        for person in newly:
            incident.subscribers.setdefault(person, "mention")
            if person != comment.author:
                self.mentioned.add((comment.command, person))
        if newly:
            incident.event_types.append("incident.mentioned")


def _refusal(who: Person, incident: Incident | None) -> int:
    if not who.is_member:
        return 403
    return 0 if incident else 404


def _comment(incident: Incident, command: int) -> Comment | None:
    return next((each for each in incident.comments if each.command == command), None)
