"""The database state to which the samples refer, with methods that apply commands to it."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert, select, update

from models.alert_rules.alert_rule import Action, Trigger, alert_rule_snoozes
from models.alert_rules.enums import ActionType, TargetType
from models.base import new_id
from models.enums import Lane
from models.incidents.incident import incidents
from models.messaging.command_ledger import NewCommand, accept_commands, commands
from models.messaging.outbox import events
from models.messaging.subject import Subject
from models.permissions import CHAT_DESTINATIONS, WEBHOOKS
from tasks.commands.catalog import CATALOG, CommandSubmission
from tasks.commands.comments import PostComment
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import NOW, a_chat_destination, a_webhook, a_webhook_delivery, an_alert_rule
from tests.handlers.acme import Acme
from tests.harness import Harness
from workers.notify.notifier import Notifier

COMMENT: Final = 1
"""The id of Ben's comment on incident 1."""

WEBHOOK, DELIVERY = 5, UUID("01a224b3-4109-77a6-b7e9-0495fba1aaaa")
"""The ids of an active webhook and of a delivery to it."""

CHAT_DESTINATION: Final = 6
"""The id of a chat destination."""

RULE, TRIGGER, ACTION = 7, 8, 9
"""The ids of an alert rule on project p1, of its critical trigger, and of the trigger's action."""


class World:
    """The organization acme with everything that the samples refer to by id.

    Besides the directory of :class:`Acme`, there are an alert rule that is snoozed for everyone, a comment by Ben on
    incident 1, a comment by Mem that mentions Ben and team t1, with an item (id 1) for it in Ben's inbox, a
    webhook, and a chat destination.
    """

    def __init__(self, harness: Harness, acme: Acme) -> None:
        self.harness = harness
        self.engine = harness.engine
        self.acme = acme
        self.organization = acme.organizations["acme"]
        action = Action(id=ACTION, type=ActionType.EMAIL, target_type=TargetType.TEAM, target="21", date_added=NOW)
        trigger = Trigger(id=TRIGGER, label="critical", threshold=100.0, date_added=NOW, actions=(action,))
        with self.engine.begin() as connection:
            self.incident = connection.execute(
                select(incidents.c.id).where(
                    incidents.c.organization_id == self.organization, incidents.c.identifier == 1
                )
            ).scalar_one()
            projects = [acme.projects["acme", "p1"]]
            an_alert_rule(connection, self.organization, id=RULE, projects=projects, triggers=[trigger])
            connection.execute(insert(alert_rule_snoozes).values(rule_id=RULE, date_added=NOW))
        _, comment = harness.execute(_comment("Latency rises since 9:40."), **acme.by("ben"))
        harness.execute(_comment("Can you have a look?", "user:13", "team:21"), **acme.by("mem"))
        assert int(comment["id"]) == COMMENT
        self.plan()
        with self.engine.begin() as connection:
            a_webhook(connection, self.organization, id=WEBHOOK)
            a_chat_destination(connection, self.organization, id=CHAT_DESTINATION)
            a_webhook_delivery(connection, WEBHOOK, id=DELIVERY)

    def plan(self) -> None:
        """Plan the notifications of all events."""
        notifier = Notifier(self.engine, broker_settings(UNREACHABLE_BROKER))
        while notifier.plan_batch():
            pass

    def apply(self, type_: str, payload: Any) -> dict[str, Any]:
        """Accept a command with the given payload and apply it; return the command's row in the ledger.

        Ben submits it, or the owner if Ben may not, or the service if the command is for services only.
        """
        entry = CATALOG[type_]
        person = "own" if entry.permission in (WEBHOOKS, CHAT_DESTINATIONS) else "ben"
        identity = self.acme.by(person) if entry.for_people else self.acme.by_service()
        command = entry.command_class.model_validate(payload)
        subject = entry.subject(command, CommandSubmission(identity["organization"], identity["user"], new_id()))
        return self._apply(type_, payload, subject, identity)

    def apply_unreadable(self) -> dict[str, Any]:
        """Accept a comment command without a text, which ends up dead; return the command's row in the ledger."""
        subject = Subject.incident(self.organization, 1)
        return self._apply(PostComment.name, {"incident": "1"}, subject, self.acme.by("ben"))

    def _apply(self, type_: str, payload: Any, subject: Subject, identity: dict[str, Any]) -> dict[str, Any]:
        row = NewCommand(
            id=new_id(),
            type=type_,
            subject=str(subject),
            incident=subject.number,
            lane=Lane.COMMANDS,
            organization_id=identity["organization"],
            token_id=identity["token"],
            user_id=identity["user"],
            caller=f"user:{identity['user']}",
            payload=json.dumps(payload),
        )
        with self.engine.begin() as connection:
            accept_commands(connection, [row])
        while self.harness.ledger_row(row.id)["state"] == "accepted":
            with self.engine.begin() as connection:
                connection.execute(update(commands).values(next_attempt_at=None))
            self.harness.apply()
        return self.harness.ledger_row(row.id)

    def event_bodies(self) -> list[dict[str, Any]]:
        """Return the body of every event in the outbox, oldest first."""
        with self.engine.connect() as connection:
            return list(connection.execute(select(events.c.body).order_by(events.c.date_created)).scalars())


def _comment(text: str, *mentions: str) -> PostComment:
    return PostComment.model_validate({"incident": "1", "comment": text, "mentions": list(mentions)})
