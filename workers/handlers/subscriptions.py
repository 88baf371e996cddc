"""Who hears of an incident."""

from __future__ import annotations

from models.policy import require_author
from tasks.commands import Unsubscribe
from tasks.events import Unsubscribed
from workers.work import Answer, Work


def unsubscribe(ask: Unsubscribe, work: Work) -> Answer:
    """The person hears no more of the incident; no matter whether they did."""
    incident = work.incident(ask.incident)
    require_author(work.actor)
    person = work.author
    work.changes.unsubscriptions.append((incident.id, person.id))
    work.announce(incident, Unsubscribed(user=person.id))
    return Answer(200, {})
