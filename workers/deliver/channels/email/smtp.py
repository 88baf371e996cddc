"""A pool of SMTP connections to one mail server, and what its answers mean for a mail.

A connection is used for one mail at a time. After a cancellation, a timeout or a lost connection it is closed, because
an answer to the mail may still come and would be taken for the answer to the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPTimeoutError,
)

from workers.deliver.channel import AttemptResult, Verdict
from workers.deliver.channels.email.mime import one_line
from workers.settings import SmtpServer

MAX_CONNECTIONS: Final = 10
MAX_MAILS: Final = 100
"""After so many mails, a connection is closed: many servers limit them."""

IDLE_SECONDS: Final = 10.0
MAX_AGE_SECONDS: Final = 300.0
ANSWER_SECONDS: Final = 20.0
"""How many seconds a server may take for one answer."""

DATA_FACTOR: Final = 3
"""How many times longer the last answer may take, because servers scan the mail before it."""

SHORT_SECONDS: Final = 1.0
"""How many seconds a server may take for an answer that changes nothing: to QUIT, and to RSET."""

MAX_REASON: Final = 500

_SERVICE_CLOSES: Final = 421
_TOO_LARGE: Final = 552
_LOGIN_CODES: Final = frozenset({530, 534, 535, 538})


class SmtpConnection:
    """A connection that has been opened and, if the server has a user, logged in."""

    def __init__(self, server: SmtpServer, local_hostname: str, tls: ssl.SSLContext, answer_seconds: float) -> None:
        self._client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            local_hostname=local_hostname,
            timeout=answer_seconds,
            use_tls=server.is_tls,
            start_tls=False if server.is_tls else _start_tls(server),
            tls_context=tls,
        )
        self._answer_seconds = answer_seconds
        self._mails = 0
        self._has_begun = False
        self._opened_at = self._idle_since = time.monotonic()

    async def open(self) -> None:
        """Connect, begin TLS and log in.

        :raises aiosmtplib.SMTPException: if the server refuses.
        :raises OSError: if it cannot be reached, or if its certificate is not valid.
        """
        await self._client.connect()
        if self._client.is_ehlo_or_helo_needed:
            try:
                await self._client.ehlo()
            except SMTPHeloError:
                await self._client.helo()

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may be used for another mail."""
        now = time.monotonic()
        return (
            self._client.is_connected
            and self._mails < MAX_MAILS
            and now - self._opened_at < MAX_AGE_SECONDS
            and now - self._idle_since < IDLE_SECONDS
        )

    @property
    def was_closed_by_server(self) -> bool:
        """Whether the server closed the connection after an earlier mail and before it accepted this one's sender."""
        return self._mails > 0 and not self._has_begun

    async def send(self, sender: str, recipient: str, message: bytes, *, utf8: bool) -> int:
        """Send a mail to one recipient, as it is, and return the code of the answer.

        :raises SMTPUTF8Required: if the recipient's address needs an extension that the server does not have.
        :raises aiosmtplib.SMTPException: if the server refuses.
        """
        self._has_begun = False
        options = [f"SIZE={len(message)}"] if self._client.supports_extension("size") else []
        if utf8:
            if not self._client.supports_extension("smtputf8"):
                raise SMTPUTF8Required
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        # Not sendmail(): its error for a refused recipient has no code.
        await self._client.mail(sender, options=options)
        self._has_begun = True
        await self._client.rcpt(recipient, encoding="utf-8" if utf8 else "ascii")
        response = await self._client.data(message, timeout=DATA_FACTOR * self._answer_seconds)
        self._count()
        return response.code

    async def reset(self) -> None:
        """Forget a refused mail, so that the connection can be used for another one. If that fails, close it."""
        try:
            await self._client.rset(timeout=SHORT_SECONDS)
        except (SMTPException, OSError):
            self.abort()
        self._count()

    def abort(self) -> None:
        """Close the connection at once."""
        self._client.close()

    async def quit(self) -> None:
        """Say goodbye and close the connection. A server that does not answer is not waited for."""
        with contextlib.suppress(SMTPException, OSError):
            await self._client.quit(timeout=SHORT_SECONDS)
        self._client.close()

    def _count(self) -> None:
        self._mails += 1
        self._idle_since = time.monotonic()


class SMTPUTF8Required(Exception):
    """Raised when an address needs the extension SMTPUTF8 and the server does not have it."""


class SmtpPool:
    """Sends mails through at most :data:`MAX_CONNECTIONS` connections. It belongs to one event loop."""

    def __init__(
        self, server: SmtpServer, *, tls: ssl.SSLContext | None = None, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._server = server
        # The default context trusts the authorities of the system, or those in SSL_CERT_FILE.
        self._tls = tls or ssl.create_default_context()
        self._answer_seconds = answer_seconds
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: deque[SmtpConnection] = deque()
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._local_hostname: str | None = None

    async def send(self, sender: str, recipient: str, message: bytes, *, utf8: bool = False) -> AttemptResult:
        """Send a mail to one recipient, as it is, and return what the answer means."""
        async with self._slots:
            connection = self._take_idle()
            if connection is not None:
                # The server may have closed it meanwhile; nothing has been sent then.
                with contextlib.suppress(_Stale):
                    return await self._send_over(connection, sender, recipient, message, utf8=utf8)
            try:
                connection = await self._connect()
            except (SMTPException, OSError) as error:
                return connection_failure(error)
            return await self._send_over(connection, sender, recipient, message, utf8=utf8)

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._say_goodbye(self._idle.pop())
        await asyncio.gather(*self._goodbyes, return_exceptions=True)

    async def _send_over(
        self, connection: SmtpConnection, sender: str, recipient: str, message: bytes, *, utf8: bool
    ) -> AttemptResult:
        async with self._keeping(connection):
            try:
                code = await connection.send(sender, recipient, message, utf8=utf8)
            except SMTPUTF8Required:
                return AttemptResult(
                    Verdict.PERMANENT,
                    error="the address has letters beyond ASCII before the @, which the mail server does not support",
                )
            except (SMTPException, OSError) as error:
                if connection.was_closed_by_server and _is_closed(error):
                    raise _Stale from None
                return await self._after_refusal(connection, error)
            return AttemptResult(Verdict.DELIVERED, status=code)

    async def _after_refusal(self, connection: SmtpConnection, error: Exception) -> AttemptResult:
        if isinstance(error, SMTPResponseException) and error.code != _SERVICE_CLOSES:
            await connection.reset()
        else:
            connection.abort()
        return refusal(error)

    @contextlib.asynccontextmanager
    async def _keeping(self, connection: SmtpConnection) -> AsyncIterator[None]:
        """Keep the connection for the next mail, unless the block ends with an exception."""
        try:
            yield
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
            asyncio.get_running_loop().call_later(IDLE_SECONDS + 0.1, self._close_idle)
        else:
            self._say_goodbye(connection)

    async def _connect(self) -> SmtpConnection:
        if self._local_hostname is None:
            self._local_hostname = await asyncio.to_thread(_local_hostname)
        connection = SmtpConnection(self._server, self._local_hostname, self._tls, self._answer_seconds)
        try:
            await connection.open()
        except BaseException:
            connection.abort()
            raise
        return connection

    def _take_idle(self) -> SmtpConnection | None:
        while self._idle:
            # The newest first, so that a pool that is too large for its work shrinks.
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            self._say_goodbye(connection)
        return None

    def _close_idle(self) -> None:
        kept = [each for each in self._idle if each.is_reusable]
        for each in self._idle:
            if not each.is_reusable:
                self._say_goodbye(each)
        self._idle = deque(kept)

    def _say_goodbye(self, connection: SmtpConnection) -> None:
        # In the background: the mail that was sent is delivered, whatever the server does with the goodbye.
        task = asyncio.get_running_loop().create_task(connection.quit())
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)


class _Stale(Exception):
    """Raised when the server had closed a connection before the mail was sent."""


def _is_closed(error: Exception) -> bool:
    if isinstance(error, SMTPResponseException):
        return error.code == _SERVICE_CLOSES
    return isinstance(error, ConnectionError) and not isinstance(error, SMTPTimeoutError)


# --- what an answer means --------------------------------------------------------------------------------------------


def connection_failure(error: Exception) -> AttemptResult:
    """Return what it means that no connection could be opened: the mail waits, whatever the code."""
    if isinstance(error, SMTPAuthenticationError):
        return _result(Verdict.PASSING, "the mail server refused the login", error, is_target_fault=True)
    return _result(Verdict.PASSING, "the mail server cannot be used", error, is_target_fault=True)


def refusal(error: Exception) -> AttemptResult:
    """Return what a refusal means for the mail, by its code and by the command that was refused.

    A refused sender concerns all mails, so the mail waits, unless it is too large. A refused recipient or a refused
    text concerns this mail alone, so that a code from 500 is permanent.
    """
    if not isinstance(error, SMTPResponseException):
        return _result(Verdict.PASSING, "the connection was lost, and the mail may have arrived", error, True)
    code = error.code
    if isinstance(error, SMTPSenderRefused) and code != _TOO_LARGE:
        return _result(Verdict.PASSING, "the mail server refused the sender", error, is_target_fault=True)
    verdict = Verdict.PERMANENT if 500 <= code <= 599 and code not in _LOGIN_CODES else Verdict.PASSING
    is_target_fault = code == _SERVICE_CLOSES or code in _LOGIN_CODES
    refused = "the recipient" if isinstance(error, SMTPRecipientRefused) else "the mail"
    return _result(verdict, f"the mail server refused {refused}", error, is_target_fault)


def _result(verdict: Verdict, what: str, error: Exception, is_target_fault: bool) -> AttemptResult:
    code = error.code if isinstance(error, SMTPResponseException) else None
    reason = str(error) or type(error).__name__
    if isinstance(error, SMTPResponseException):
        reason = f"{error.code} {error.message}"
    return AttemptResult(
        verdict,
        status=code,
        error=f"{what}: {one_line(reason)}"[:MAX_REASON],
        is_target_fault=is_target_fault,
    )


# --- opening ---------------------------------------------------------------------------------------------------------


def _start_tls(server: SmtpServer) -> bool | None:
    """Return whether STARTTLS is required (``True``) or used if the server offers it (``None``)."""
    return True if server.user and not server.is_loopback else None


def _local_hostname() -> str:
    name = socket.getfqdn()
    # Some servers refuse a name that is not fully qualified.
    return name if "." in name and name.isascii() else "[127.0.0.1]"
