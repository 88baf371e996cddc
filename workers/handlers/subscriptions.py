"""Who hears of an incident."""

from __future__ import annotations

from models.enums import SubscriptionReason
from models.policy import require_person
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tasks.events import Subscribed, Unsubscribed
from workers.batch.context import Answer, Work


def subscribe(ask: Subscribe, work: Work) -> Answer:
    """The person hears of the incident from now on; who did already keeps the reason they had."""
    incident = work.incident(ask.incident)
    require_person(work.actor)
    if not work.is_subscribed(incident):
        work.subscribe(incident, [work.author.id], SubscriptionReason.SUBSCRIBED)
        work.announce(incident, Subscribed(user=work.author.id))
    return Answer(201, {})


def unsubscribe(ask: Unsubscribe, work: Work) -> Answer:
    """The person hears no more of the incident; no matter whether they did."""
    incident = work.incident(ask.incident)
    require_person(work.actor)
    if work.is_subscribed(incident):
        work.unsubscribe(incident, work.author.id)
        work.announce(incident, Unsubscribed(user=work.author.id))
    return Answer(200, {})
