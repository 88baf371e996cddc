"""Measure deliveries per second, beside what the libraries reach alone.

    python -m bench.deliveries [--messages N] [--rounds N]

The deliverer of this checkout sends e-mails to an SMTP server, and webhooks to an HTTP server, both in processes of
their own. In turn with it, aiosmtplib and httpx2 send messages of the same size with as many connections, and with
nothing around it: no claim, no check of access, no rendering, no signature, no record of attempts. It prints a table
and saves nothing, and exits with 1 if a ratio is below the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Final

import httpx2
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import Envelope, Session
from aiosmtplib import SMTP
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from bench.output import progress, temporary_directory
from models.database.migrate import migrate
from models.notifications.mailbox import make_mailbox
from models.notifications.network_guard import HostResolver, NetworkGuard, parse_networks
from models.notifications.tickets import Tickets
from models.notifications.webhook import SECRET_PURPOSE, new_secret
from models.secrets import SecretBox
from tasks.log_config import configure_logging
from tasks.settings import LogLevel
from tests.builders import a_comment, a_member, a_project, a_webhook, an_incident, an_organization
from workers.deliver.channel import Channel
from workers.deliver.channels.email.channel import EmailChannel
from workers.deliver.channels.email.smtp import MAX_CONNECTIONS
from workers.deliver.channels.webhook import WebhookChannel
from workers.deliver.deliverer import SLOTS, Deliverer
from workers.deliver.http_sender import HttpSender
from workers.settings import SmtpServer
from workers.stack.servers import embedded_servers

HOST: Final = "127.0.0.1"
MESSAGES: Final = 1_000
ROUNDS: Final = 3
TARGETS: Final = 20
"""How many organizations, or webhooks, share the messages. The deliverer limits how many each gets at a time."""

GOAL: Final = 0.5

_SECRETS: Final = ("a secret for this benchmark",)
_MAIL_BYTES: Final = 6_000
_WEBHOOK_BYTES: Final = 700

# --- the servers, in processes of their own --------------------------------------------------------------------------


class _Sink:
    async def handle_DATA(self, _server: Server, _session: Session, _envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd
        return "250 Ok"


async def _serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
    writer.close()


async def _serve(kind: str) -> None:
    loop = asyncio.get_running_loop()
    if kind == "smtp":
        server = await loop.create_server(lambda: Server(_Sink(), loop=loop, hostname="localhost"), HOST, 0)
    else:
        server = await asyncio.start_server(_serve_http, HOST, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def _sink(kind: str) -> Iterator[int]:
    """Run a server in a process, and yield its port."""
    command = [sys.executable, "-m", "bench.deliveries", "--serve", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


# --- the libraries alone ---------------------------------------------------------------------------------------------


async def _aiosmtplib(port: int, messages: int) -> None:
    mail = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"
    mail += (b"x" * 70 + b"\r\n") * ((_MAIL_BYTES - len(mail)) // 72)
    waiting = iter(range(messages))

    async def connection() -> None:
        async with SMTP(hostname=HOST, port=port, local_hostname="localhost", start_tls=False) as client:
            for number in waiting:
                await client.sendmail("tocsin@example.org", f"user-{number}@example.org", mail)

    await asyncio.gather(*(connection() for _ in range(MAX_CONNECTIONS)))


async def _httpx2(port: int, messages: int) -> None:
    body = b"x" * _WEBHOOK_BYTES
    waiting = iter(range(messages))
    # As the deliverer does it: a connection that is kept could lead to an address that is not permitted any more.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)

    async def worker(client: httpx2.AsyncClient) -> None:
        for _ in waiting:
            (await client.post(f"http://{HOST}:{port}/hook", content=body)).raise_for_status()

    async with httpx2.AsyncClient(limits=limits, trust_env=False) as client:
        await asyncio.gather(*(worker(client) for _ in range(SLOTS)))


def _rate_alone(send: Callable[[int, int], Awaitable[None]], port: int, messages: int) -> float:
    async def run() -> float:
        began = time.perf_counter()
        await send(port, messages)
        return messages / (time.perf_counter() - began)

    return asyncio.run(run())


# --- the deliverer ---------------------------------------------------------------------------------------------------


class Scene:
    """Organizations with a comment each, people who are told of it, and a webhook."""

    def __init__(self, engine: Engine, http_port: int) -> None:
        """Insert everything except deliveries."""
        self.engine = engine
        box = SecretBox(_SECRETS, SECRET_PURPOSE)
        with engine.begin() as connection:
            for number in range(TARGETS):
                organization = an_organization(connection)
                incident = an_incident(connection, organization, projects=[a_project(connection, organization)])
                author = a_member(connection, organization)
                for _ in range(5):
                    a_member(connection, organization)
                a_comment(connection, incident, by=author, text="The replica is **behind** again. " * 8)
                url = f"http://{HOST}:{http_port}/hook/{number}"
                a_webhook(connection, organization, "*", url=url, secret=box.encrypt(new_secret()))

    def add(self, channel: str, messages: int) -> None:
        """Replace all deliveries with new ones that are due."""
        with self.engine.begin() as connection:
            connection.execute(text("TRUNCATE deliveries, delivery_attempts"))
            connection.execute(text(_INSERT[channel]), {"messages": messages})
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE deliveries"))

    def rate(self, channel: Channel, messages: int) -> float:
        """Deliver everything, and return the deliveries per second, by the database's clock."""
        url = self.engine.url.render_as_string(hide_password=False)
        deliverer = Deliverer(url, [channel])
        deliverer.start()
        try:
            while self._count("state = 'pending'"):
                time.sleep(0.05)
        finally:
            deliverer.stop()
        if (delivered := self._count("state = 'delivered'")) != messages:
            raise RuntimeError(f"{delivered} of {messages} messages have been delivered")
        with self.engine.connect() as connection:
            seconds = connection.execute(text(_SECONDS)).scalar_one()
        return messages / float(seconds)

    def _count(self, condition: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM deliveries WHERE {condition}")).scalar_one())


# The deliveries of an organization alternate between its people. Each is about a rule's action, so that none is unique.
_INSERT: Final = {
    "email": """
        INSERT INTO deliveries (id, organization_id, incident_id, activity_id, action_id, project_id, user_id, channel,
            reason, status, target_key, due_at)
        SELECT gen_random_uuid(), i.organization_id, i.id, a.id, n, n, m.user_id, 'email', 'mention', 20,
            'email:' || i.organization_id, now()
        FROM generate_series(1, :messages) n
        JOIN (SELECT *, row_number() OVER (ORDER BY id) - 1 AS number FROM incidents) i
            ON i.number = mod(n, (SELECT count(*) FROM incidents))
        JOIN LATERAL (SELECT id FROM incident_activities WHERE incident_id = i.id LIMIT 1) a ON true
        JOIN LATERAL (
            SELECT user_id FROM members WHERE organization_id = i.organization_id
            ORDER BY md5(user_id::text || n) LIMIT 1
        ) m ON true
    """,
    "webhook": """
        INSERT INTO deliveries (id, organization_id, event_type, channel, destination_id, target_key, body, due_at)
        SELECT gen_random_uuid(), w.organization_id, 'incident.comment_posted', 'webhook', w.id,
            'webhook:' || w.organization_id || ':' || w.id, convert_to(repeat('x', 700), 'UTF8'), now()
        FROM generate_series(1, :messages) n
        JOIN (SELECT *, row_number() OVER (ORDER BY id) - 1 AS number FROM webhooks) w
            ON w.number = mod(n, (SELECT count(*) FROM webhooks))
    """,
}
_SECONDS: Final = """
SELECT extract(epoch FROM (SELECT max(finished_at) FROM deliveries) - (SELECT min(at) FROM delivery_attempts))
"""


def _email_channel(port: int) -> EmailChannel:
    return EmailChannel(
        SmtpServer(HOST, port, False, None, None),
        public_url="https://tocsin.example.org",
        sender=make_mailbox("", "tocsin@example.org"),
        tickets=Tickets(_SECRETS),
    )


def _webhook_channel(_: int) -> WebhookChannel:
    guard = NetworkGuard(parse_networks(f"{HOST}/32"))
    return WebhookChannel(SecretBox(_SECRETS, SECRET_PURPOSE), HttpSender(guard, HostResolver()))


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.deliveries", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", choices=["smtp", "http"], help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.serve:
        asyncio.run(_serve(options.serve))
    # The lines about attempts would hide the table.
    configure_logging(LogLevel.WARNING)
    rates: dict[str, list[tuple[float, float]]] = {"email": [], "webhook": []}
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary_directory(cleanup)))
        ports = {"email": cleanup.enter_context(_sink("smtp")), "webhook": cleanup.enter_context(_sink("http"))}
        engine = create_engine(servers.database_url)
        cleanup.callback(engine.dispose)
        migrate(engine)
        scene = Scene(engine, ports["webhook"])
        for number in range(options.rounds):
            for name, alone, make in (("email", _aiosmtplib, _email_channel), ("webhook", _httpx2, _webhook_channel)):
                progress(f"round {number + 1}: {name}")
                scene.add(name, options.messages)
                bare = _rate_alone(alone, ports[name], options.messages)
                rates[name].append((scene.rate(make(ports[name]), options.messages), bare))
    print(f"{'channel':<10}{'deliveries/s':>14}{'library alone/s':>18}{'ratio':>8}")
    ratios = []
    for name, pairs in rates.items():
        ratios.append(median(ours / bare for ours, bare in pairs))
        ours, bare = (median(pair[side] for pair in pairs) for side in (0, 1))
        print(f"{name:<10}{ours:>14.0f}{bare:>18.0f}{ratios[-1]:>8.2f}")
    return 0 if min(ratios) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
