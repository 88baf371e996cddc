"""A scene whose people are told by every channel, with real channels that send to servers on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

from aiosmtpd.controller import Controller
from sqlalchemy import insert

from models.notifications.network_guard import NetworkGuard
from models.notifications.stored_preferences import notification_preferences
from tasks.startup import free_port
from tests.builders import a_chat_destination, a_member
from tests.delivery.chat.chat_server import ChatServer, chat_server
from tests.delivery.chat.test_channel import BOX, URL
from tests.delivery.conftest import Scene
from tests.delivery.email.servers import Catcher
from tests.delivery.email.test_channel import a_channel
from workers.deliver.channel import Channel
from workers.deliver.channels.chat.channel import ChatChannel
from workers.deliver.channels.email.channel import EmailChannel
from workers.deliver.deliverer import Deliverer
from workers.settings import SmtpServer

HOST = "127.0.0.1"


@dataclass
class MailServer:
    """A mail server in a thread of its own, which can be stopped and started again on its port."""

    port: int = field(default_factory=lambda: free_port(HOST, 0))
    catcher: Catcher = field(default_factory=Catcher)
    _controller: Controller | None = None

    def start(self) -> None:
        self._controller = Controller(self.catcher, hostname=HOST, port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def channel(self, **options: Any) -> EmailChannel:
        return a_channel(SmtpServer(HOST, self.port, False, None, None), **options)

    def message_ids(self) -> list[UUID]:
        """Return the delivery's id from the Message-ID of each mail."""
        found = [re.findall(rb"^Message-ID: <(.+?)@", mail.message, re.MULTILINE) for mail in self.catcher.mails]
        return [UUID(id_.decode()) for (id_,) in found]


@dataclass
class Everywhere:
    """A scene with a mail server and a chat server."""

    scene: Scene
    mail: MailServer
    chat: ChatServer

    def a_person(self, **facts: Any) -> int:
        """Insert a member who has a chat destination of their own; return the user's id."""
        with self.scene.engine.begin() as connection:
            user = a_member(connection, self.scene.organization, **{"teams": [self.scene.team]} | facts)
            url = BOX.encrypt(f"{URL}?channel=room-{user}")
            a_chat_destination(connection, self.scene.organization, url=url, user_id=user)
            reasons = ("mention", "team_mention", "subscribed")
            document = {"channels": {reason: {"chat": "instant"} for reason in reasons}}
            connection.execute(insert(notification_preferences).values(user_id=user, document=document))
        return user

    def plan(self) -> None:
        """Plan everything. What was planned is due at once."""
        self.scene.plan()
        with self.scene.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")

    @contextmanager
    def delivering(self, deliverers: int = 1) -> Iterator[None]:
        """Deliver with a number of deliverers, each with channels of its own."""
        url = self.scene.engine.url.render_as_string(hide_password=False)
        with ExitStack() as stack:
            for _ in range(deliverers):
                deliverer = Deliverer(url, [self.mail.channel(), self._chat_channel()])
                deliverer.start()
                stack.callback(deliverer.stop)
            yield

    def _chat_channel(self) -> Channel:
        return ChatChannel(
            BOX,
            NetworkGuard((ip_network("127.0.0.0/8"),)),
            ca_file=str(self.chat.ca_file),
            resolve=self.chat.resolve,
            seconds_between_messages=0,
        )

    def pending(self) -> int:
        return int(self.scene.rows("SELECT count(*) FROM deliveries WHERE state = 'pending'")[0][0])

    def mailed(self) -> list[str]:
        """Return the recipient of each mail."""
        return [recipient for mail in self.mail.catcher.mails for recipient in mail.recipients]

    def chatted(self) -> list[int]:
        """Return the person for each chat message."""
        return [int(str(each.json()["channel"]).removeprefix("room-")) for each in self.chat.messages()]


@contextmanager
def everywhere(scene: Scene, folder: Path) -> Iterator[Everywhere]:
    mail = MailServer()
    mail.start()
    try:
        with chat_server(folder) as chat:
            yield Everywhere(scene, mail, chat)
    finally:
        mail.stop()
