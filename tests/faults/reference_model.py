"""A reference model of incidents, which applies commands one at a time, in memory, in the order of submission.

The model has no tables, batches or queues. Whatever happens to hints and workers, the real system must reach the same
state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPEN, CLOSED = 1, 2


@dataclass
class Person:
    """A user, usually a member of the organization."""

    id: int
    is_member: bool = True
    may_write: bool = False
    on_team: bool = True


@dataclass
class Comment:
    """A comment, with the index of the command that posted it and everyone whom it has ever mentioned."""

    command: int
    author: int
    text: str
    version: int = 1
    ever_mentioned: set[int] = field(default_factory=set)


@dataclass
class Incident:
    """An incident with its comments, status changes, subscribers, and the types of its events in order.

    ``command`` is the index of the command that opened it. Its ``identifier`` is not predicted, because commands that
    open incidents are not ordered with each other; it is ``None`` until the real system has assigned it.
    """

    command: int
    key: str | None
    identifier: int | None = None
    status: int = OPEN
    version: int = 1
    comments: list[Comment] = field(default_factory=list)
    status_changes: list[tuple[int, int, int]] = field(default_factory=list)
    subscribers: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    event_types: list[str] = field(default_factory=list)


class Model:
    """One organization. Each public method except :meth:`find` is a command and returns its outcome's HTTP status."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self.mentioned: set[tuple[int, int]] = set()
        """Pairs of the index of a command that posted a comment, and a person mentioned in it other than its author."""

    def find(self, reference: str) -> Incident | None:
        """Return the incident with this number, or the open one with this dedup key."""
        if reference.startswith("dedup:"):
            return self._open_with_key(reference.removeprefix("dedup:"))
        return next((each for each in self.incidents if str(each.identifier) == reference), None)

    def open(self, person: Person, key: str | None, command: int) -> int:
        if not (person.is_member and person.may_write):
            return 403
        if key is not None and self._open_with_key(key):
            return 200
        self.incidents.append(Incident(command, key, event_types=["incident.opened"]))
        return 201

    def set_status(self, person: Person, reference: str, status: int, version: int | None) -> int:
        incident = self.find(reference)
        if refusal := _refusal(person, incident):
            return refusal
        assert incident
        if status != CLOSED and not person.may_write:
            return 403
        if version not in (None, incident.version):
            return 412
        if status == incident.status:
            return 200
        if status != CLOSED and incident.key is not None and self._open_with_key(incident.key) not in (None, incident):
            return 409
        incident.status_changes.append((person.id, incident.status, status))
        incident.status = status
        incident.version += 1
        incident.subscribers.setdefault(person.id, "closed" if status == CLOSED else "subscribed")
        incident.event_types.append("incident.status_changed")
        return 200

    def post(self, person: Person, reference: str, text: str, mentions: list[Person], command: int) -> int:
        incident = self.find(reference)
        if refusal := _refusal(person, incident):
            return refusal
        assert incident
        if not all(each.is_member and each.on_team for each in mentions):
            return 400
        incident.subscribers.setdefault(person.id, "commented")
        incident.comments.append(Comment(command, person.id, text))
        incident.version += 1
        incident.event_types.append("incident.comment_posted")
        self._mention(incident, incident.comments[-1], mentions)
        return 201

    def edit(
        self, person: Person, incident: Incident, command: int, text: str, mentions: list[Person], version: int | None
    ) -> int:
        comment = _comment(incident, command)
        if not person.is_member:
            return 403
        if comment is None or comment.author != person.id:
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

    def delete(self, person: Person, incident: Incident, command: int) -> int:
        comment = _comment(incident, command)
        if not person.is_member:
            return 403
        if comment is None or comment.author != person.id:
            return 404
        incident.comments.remove(comment)
        incident.version += 1
        incident.event_types.append("incident.comment_deleted")
        return 204

    def mark_seen(self, person: Person, reference: str) -> int:
        incident = self.find(reference)
        if refusal := _refusal(person, incident):
            return refusal
        assert incident
        if person.on_team:
            incident.seen.add(person.id)
            incident.event_types.append("incident.seen")
        return 201

    def subscribe(self, person: Person, reference: str) -> int:
        incident = self.find(reference)
        if refusal := _refusal(person, incident):
            return refusal
        assert incident
        if person.id not in incident.subscribers:
            incident.subscribers[person.id] = "subscribed"
            incident.event_types.append("incident.subscribed")
        return 201

    def unsubscribe(self, person: Person, reference: str) -> int:
        incident = self.find(reference)
        if refusal := _refusal(person, incident):
            return refusal
        assert incident
        if incident.subscribers.pop(person.id, None):
            incident.event_types.append("incident.unsubscribed")
        return 200

    def _open_with_key(self, key: str) -> Incident | None:
        return next((each for each in self.incidents if each.key == key and each.status != CLOSED), None)

    def _mention(self, incident: Incident, comment: Comment, mentions: list[Person]) -> None:
        newly = {each.id for each in mentions} - comment.ever_mentioned
        comment.ever_mentioned |= newly
        for user in newly:
            incident.subscribers.setdefault(user, "mention")
            if user != comment.author:
                self.mentioned.add((comment.command, user))
        if newly:
            incident.event_types.append("incident.mentioned")


def _refusal(person: Person, incident: Incident | None) -> int:
    if not person.is_member:
        return 403
    return 0 if incident else 404


def _comment(incident: Incident, command: int) -> Comment | None:
    return next((each for each in incident.comments if each.command == command), None)
