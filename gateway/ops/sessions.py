"""Sessions of operators in a browser: a signed cookie that names a token, and the token against forged requests.

A session has the rights that its token has now. It counts for `/ops/` only.
"""

from __future__ import annotations

import secrets as random
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final

from sqlalchemy import select
from sqlalchemy.engine import Connection

from gateway.api.pipeline import SessionCredential
from gateway.auth import Credential
from gateway.container import Container
from gateway.http.parsing import Headers, parse_act_as
from gateway.openapi.shared import SESSION_COOKIE
from models.directory.tables import tokens
from models.refusals import Forbidden, Unauthenticated
from models.secrets import ExpiredSignature, InvalidSignature, TimedSigner
from models.types import JSON

COOKIE: Final = SESSION_COOKIE
COOKIE_PATH: Final = "/ops/"
MAX_AGE_SECONDS: Final = 12 * 60 * 60
CSRF_HEADER: Final = "X-CSRF-Token"

WRONG_CSRF_TOKEN: Final = f"Send the CSRF token of this session in {CSRF_HEADER}: each response to a read names it."

_CSRF_FIELD: Final = CSRF_HEADER.lower().encode()
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class OpsSession:
    """A session: its own id, and the id of the operators' token that opened it."""

    id: str
    token_id: int


class OpsSessions:
    """Writes and reads cookies, and finds the credential of a session."""

    def __init__(self, container: Container) -> None:
        self._container = container
        secrets = container.settings.secrets
        self._cookies = TimedSigner(secrets, "ops session", max_age_seconds=MAX_AGE_SECONDS) if secrets else None
        self._csrf = TimedSigner(secrets, "ops csrf", max_age_seconds=MAX_AGE_SECONDS) if secrets else None

    def open(self, token_id: int) -> str:
        """Return the cookie's value for a new session of an operators' token.

        :raises RuntimeError: if there is no secret to sign with.
        """
        if self._cookies is None:
            raise RuntimeError("TOCSIN_SECRET is not set")
        return self._cookies.sign([random.token_urlsafe(12), token_id])

    def read(self, headers: Headers) -> OpsSession | None:
        """Return the session in a request's cookie, or ``None`` if there is none or it is no longer valid."""
        found = _read(self._cookies, cookie_value(headers))
        return None if found is None else OpsSession(found[0], found[1])

    def csrf_token(self, session: OpsSession) -> str:
        """Return a token that proves that a request comes from a page of this session."""
        return "" if self._csrf is None else self._csrf.sign(session.id)

    def is_csrf_token(self, session: OpsSession, text: str | None) -> bool:
        """Whether a text is a token that :meth:`csrf_token` has returned for this session."""
        return bool(_read(self._csrf, text) == session.id)

    async def credential(self, headers: Headers, method: str) -> SessionCredential | None:
        """Return the credential of the session in a request's cookie, or ``None`` if there is no session.

        :raises Forbidden: if the request may change something and does not prove that it comes from our page.
        :raises Unauthenticated: if the session's token no longer exists.
        :raises Unavailable: if the database does not respond in time.
        """
        session = self.read(headers)
        if session is None:
            return None
        if method not in _SAFE_METHODS and not self.is_csrf_token(session, headers.get(_CSRF_FIELD)):
            raise Forbidden(WRONG_CSRF_TOKEN)
        credential = await self.token_credential(session.token_id)
        return SessionCredential(credential._replace(act_as=parse_act_as(headers)), self.csrf_token(session))

    async def token_credential(self, token_id: int) -> Credential:
        """Return the credential of a token, by its id. Whether it is valid is not checked here.

        :raises Unauthenticated: if there is no such token.
        :raises Unavailable: if the database does not respond in time.
        """

        def read_hash(connection: Connection) -> bytes | None:
            digest: bytes | None = connection.execute(select(tokens.c.hash).where(tokens.c.id == token_id)).scalar()
            return digest

        found = await self._container.operations.read(read_hash)
        if found is None:
            raise Unauthenticated("Invalid token")
        return Credential(bytes(found), None, None)


def cookie_value(headers: Headers) -> str | None:
    """Return the value of the session's cookie in a request."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get(b"cookie") or "")
    except CookieError:
        return None
    return cookies[COOKIE].value if COOKIE in cookies else None


def _read(signer: TimedSigner | None, text: str | None) -> JSON:
    try:
        return None if signer is None or text is None else signer.read(text)
    except (ExpiredSignature, InvalidSignature):
        return None
