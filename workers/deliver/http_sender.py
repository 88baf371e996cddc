"""Sending HTTP requests to addresses that tenants choose: guarded, bounded in time and size, and without redirects.

Each request resolves the host once, has every address judged (:mod:`models.notifications.network_guard`), and connects
to an address that was judged, so that the name server cannot give another one for the connection. Every request has a
connection of its own: a shared one might belong to another name with the same address.

The transport is used without a client, because a client would add proxies and passwords from the environment, and
cookies of other tenants. See docs/decisions/0029-webhooks.md.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import httpx2

from models.notifications.network_guard import ForbiddenTarget, NetworkGuard, Resolve, Target

CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 15.0
"""How long a request may take altogether, from the resolution to the last byte that is read of the answer."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""How much is read of an answer's body. It is not used, but many servers log an error if nobody reads it."""

MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600.0
MAX_ADDRESSES: Final = 4
"""How many addresses of a host are tried."""


class HttpAnswer(NamedTuple):
    """An answer to a request. ``retry_after_seconds`` is what the header ``Retry-After`` asks for, if it is there."""

    status: int
    retry_after_seconds: float | None


class SendingFailed(Exception):
    """Raised if there was no answer. The message is a sentence without secrets: it contains no path and no query.

    ``is_permanent`` tells that no further attempt will succeed.
    """

    def __init__(self, message: str, *, is_permanent: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class HttpSender:
    """Sends POST requests. It belongs to the event loop in which it is first used."""

    def __init__(self, guard: NetworkGuard, resolve: Resolve, *, total_seconds: float = TOTAL_SECONDS) -> None:
        self._guard = guard
        self._resolve = resolve
        self._total_seconds = total_seconds
        self._transport: httpx2.AsyncHTTPTransport | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Send a request, and return the answer as soon as its status is known and its body is read or too long.

        :raises SendingFailed: if there was no answer in time, or if the target may not be reached.
        """
        try:
            target, parsed = self._parse(url)
            deadline = asyncio.get_running_loop().time() + self._total_seconds
            async with asyncio.timeout_at(deadline):
                addresses = await self._judged_addresses(target)
                response = await self._post_to_any(addresses, target, parsed, headers, body)
            return await _finish(response, deadline)
        except SendingFailed:
            raise
        except ForbiddenTarget as error:
            raise SendingFailed(str(error)) from None
        except TimeoutError:
            raise SendingFailed(f"There was no answer within {self._total_seconds:g} s.") from None
        except Exception as error:
            # Whatever a saved URL makes the libraries raise, it is a failure of this attempt only.
            raise SendingFailed(_describe(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.aclose()

    def _parse(self, url: str) -> tuple[Target, httpx2.URL]:
        """Return the target as the HTTP library reads the URL, so that no other reader's host is judged."""
        try:
            port = self._guard.check_url(url).port
            parsed = httpx2.URL(url)
        except (ForbiddenTarget, httpx2.InvalidURL, UnicodeError) as error:
            sentence = str(error) if isinstance(error, ForbiddenTarget) else "The URL is invalid."
            raise SendingFailed(sentence, is_permanent=True) from None
        host = parsed.raw_host.decode("ascii")
        if not host or parsed.userinfo or parsed.port not in (None, port):
            raise SendingFailed("The URL is invalid.", is_permanent=True)
        return Target(parsed.scheme, host, port), parsed

    async def _judged_addresses(self, target: Target) -> Sequence[str]:
        try:
            addresses = await self._resolve(target.host, target.port)
        except OSError:
            raise SendingFailed(f"The host {target.host} could not be resolved.") from None
        self._guard.check_addresses(target.scheme, addresses)
        if not addresses:
            raise SendingFailed(f"The host {target.host} could not be resolved.")
        return addresses[:MAX_ADDRESSES]

    async def _post_to_any(
        self, addresses: Sequence[str], target: Target, parsed: httpx2.URL, headers: Mapping[str, str], body: bytes
    ) -> httpx2.Response:
        *others, last = addresses
        for address in others:
            try:
                return await self._post(address, target, parsed, headers, body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                # A refused certificate is a reason to stop, not to look for another server.
                if _tls_error(error) is not None:
                    raise
        return await self._post(last, target, parsed, headers, body)

    async def _post(
        self, address: str, target: Target, parsed: httpx2.URL, headers: Mapping[str, str], body: bytes
    ) -> httpx2.Response:
        if self._transport is None:
            self._transport = _make_transport()
        request = httpx2.Request(
            "POST",
            parsed.copy_with(host=address),
            headers={**headers, "Host": parsed.netloc.decode("ascii"), "Accept-Encoding": "identity"},
            content=body,
            extensions={
                "timeout": {
                    "connect": CONNECT_SECONDS,
                    "read": self._total_seconds,
                    "write": self._total_seconds,
                    "pool": self._total_seconds,
                },
                # The certificate must be valid for the name, not for the address.
                "sni_hostname": target.host,
            },
        )
        return await self._transport.handle_async_request(request)


def _make_transport() -> httpx2.AsyncHTTPTransport:
    return httpx2.AsyncHTTPTransport(
        # With the environment's SSL_CERT_FILE, by which a private CA is trusted, but without its proxies.
        verify=httpx2.create_ssl_context(trust_env=True),
        trust_env=False,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
    )


async def _finish(response: httpx2.Response, deadline: float) -> HttpAnswer:
    """Read the body of an answer, as far as that is possible in time, and close the connection."""
    try:
        async with asyncio.timeout_at(deadline):
            await _read(response)
    except (httpx2.HTTPError, TimeoutError):
        # The status counts: a server that does not end its answer properly has got the message all the same.
        pass
    finally:
        await response.aclose()
    return HttpAnswer(response.status_code, parse_retry_after(response.headers.get("retry-after")))


async def _read(response: httpx2.Response) -> None:
    """Read the body as it is sent, without decompressing it, and stop after the limit."""
    count = 0
    async with aclosing(response.aiter_raw()) as chunks:
        async for chunk in chunks:
            count += len(chunk)
            if count >= MAX_ANSWER_BYTES:
                return


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, at most a day.

    Return ``None`` if there is no header or if it is invalid.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), MAX_RETRY_AFTER_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - (now or datetime.now(UTC))
    return min(max(wait, timedelta()).total_seconds(), MAX_RETRY_AFTER_SECONDS)


# --- failures --------------------------------------------------------------------------------------------------

_SENTENCES: Final[Mapping[type[Exception], str]] = {
    httpx2.ConnectTimeout: f"No connection could be made within {CONNECT_SECONDS:g} s.",
    httpx2.ConnectError: "No connection could be made.",
    httpx2.ReadTimeout: "There was no answer in time.",
    httpx2.WriteTimeout: "The message could not be sent in time.",
    httpx2.RemoteProtocolError: "The answer was not valid HTTP.",
    httpx2.ReadError: "The connection broke before the answer.",
    httpx2.WriteError: "The connection broke while the message was sent.",
}


def _describe(error: Exception) -> str:
    """Return a sentence about an error. Its own text may contain the URL, and with it a secret."""
    if (tls := _tls_error(error)) is not None:
        reason = tls.verify_message if isinstance(tls, ssl.SSLCertVerificationError) else tls.reason
        return f"The TLS connection was refused: {reason or 'unknown reason'}."
    for kind, sentence in _SENTENCES.items():
        if isinstance(error, kind):
            return sentence
    return f"The request failed: {type(error).__name__}."


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLError):
            return found
        found = found.__cause__ or found.__context__
    return None
