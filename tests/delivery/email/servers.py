"""Mail servers on loopback, which run in the event loop of a test."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import ChainMap
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from workers.settings import SmtpServer

SILENCE: Final = ""
"""The reply of a server that keeps the connection open and says nothing."""

HANG_UP: Final = "hang up"
"""The reply of a server that closes the connection instead."""


@dataclass
class Caught:
    """A mail as the server received it."""

    sender: str
    recipients: list[str]
    message: bytes
    options: list[str]


@dataclass
class Catcher:
    """Keeps the mails that an aiosmtpd server receives, and the logins."""

    mails: list[Caught] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd
        content = envelope.original_content
        assert isinstance(content, bytes)
        self.mails.append(Caught(envelope.mail_from or "", envelope.rcpt_tos, content, envelope.mail_options))
        return "250 Caught"

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: LoginPassword
    ) -> AuthResult:
        pair = login.login.decode(), login.password.decode()
        self.logins.append(pair)
        return AuthResult(success=pair == ("tocsin", "s3cret"), handled=False)

    @contextlib.asynccontextmanager
    async def running(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[SmtpServer]:
        """Run the server; with ``tls``, connections begin with TLS."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(self, loop=loop, hostname="mail.example.test", enable_SMTPUTF8=True, **options),
            "127.0.0.1",
            0,
            ssl=tls,
        )
        try:
            port = server.sockets[0].getsockname()[1]
            yield SmtpServer("127.0.0.1", port, tls is not None, None, None)
        finally:
            server.close()


@dataclass
class ScriptedServer:
    """A server whose replies are given, by verb; ``GREETING`` and ``CONTENT`` are verbs, too.

    ``first`` has replies for the first connection only. A test may change ``replies`` while the server runs.
    """

    replies: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    open: int = 0
    commands: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SmtpServer]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            self.open += 1
            replies = ChainMap(self.first if self.connections == 1 else {}, self.replies, _ACCEPTING)
            try:
                with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                    await self._talk(replies, reader, writer)
            finally:
                self.open -= 1
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield SmtpServer("127.0.0.1", server.sockets[0].getsockname()[1], False, None, None)
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(
        self, replies: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await _reply(writer, replies["GREETING"])
        while line := await reader.readline():
            self.commands.append(line.decode().rstrip("\r\n"))
            verb = self.commands[-1].split(" ")[0].upper()
            await _reply(writer, replies.get(verb, "502 Unknown"))
            if verb == "QUIT" and replies["QUIT"]:
                return
            if verb == "DATA" and replies["DATA"].startswith("354"):
                self.contents.append(await reader.readuntil(b"\r\n.\r\n"))
                await _reply(writer, replies["CONTENT"])


async def _reply(writer: asyncio.StreamWriter, reply: str) -> None:
    if reply == HANG_UP:
        raise EOFError
    if reply != SILENCE:
        writer.write("".join(f"{line}\r\n" for line in reply.split("\n")).encode())
        await writer.drain()
        if reply.startswith("421"):
            raise EOFError


_ACCEPTING: Final[dict[str, str]] = {
    "GREETING": "220 mail.example.test",
    "EHLO": "250 mail.example.test",
    "MAIL": "250 Ok",
    "RCPT": "250 Ok",
    "DATA": "354 Go on",
    "CONTENT": "250 Queued",
    "RSET": "250 Ok",
    "QUIT": "221 Bye",
}


@dataclass(frozen=True)
class Certificates:
    """An authority, a server's certificate from it, and the contexts of both sides."""

    authority: trustme.CA = field(default_factory=trustme.CA)

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context
