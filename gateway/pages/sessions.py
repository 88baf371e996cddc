"""Sessions of people in a browser: what a signed cookie says, and the tokens that protect forms.

A session counts only for pages, never for the API. It names a person and what it opens; what the person may read and do
there is decided for each request.
"""

from __future__ import annotations

import secrets as random
from dataclasses import dataclass, replace
from typing import Final

from models.notifications.tickets import TicketClaims
from models.secrets import ExpiredSignature, InvalidSignature, TimedSigner
from models.types import JSON

COOKIE: Final = "tocsin_session"
MAX_AGE_SECONDS: Final = 24 * 60 * 60
MAX_INCIDENTS: Final = 20
"""How many incidents one session opens. With another ticket, the oldest one is dropped."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session. It belongs to nobody (``user_id`` is ``None``) until a ticket or a token opens it.

    A session with a ``token_id`` opens everything that its person may read. Without one, it opens only the incidents in
    ``incidents`` (pairs of organization id and number) and, if ``opens_inbox`` is true, the inbox.
    """

    id: str
    user_id: int | None = None
    token_id: int | None = None
    opens_inbox: bool = False
    incidents: tuple[tuple[int, int], ...] = ()

    def opens_incident(self, organization_id: int | None, number: int) -> bool:
        """Whether the session opens the page about this incident."""
        return self.token_id is not None or (organization_id, number) in self.incidents

    def with_ticket(self, claims: TicketClaims) -> Session:
        """Return the session, extended by what a ticket opens. A session of another person is replaced."""
        session = self if self.user_id == claims.user_id else replace(new_session(), user_id=claims.user_id)
        if not claims.identifier:
            return replace(session, opens_inbox=True)
        opened = (claims.organization_id, claims.identifier)
        others = tuple(each for each in session.incidents if each != opened)
        return replace(session, incidents=(*others, opened)[-MAX_INCIDENTS:])


def new_session() -> Session:
    """Return a session that belongs to nobody."""
    return Session(random.token_urlsafe(12))


class Sessions:
    """Writes and reads cookies, and the tokens that a session's forms carry."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._cookies = TimedSigner(secrets, "session", max_age_seconds=MAX_AGE_SECONDS)
        self._forms = TimedSigner(secrets, "form", max_age_seconds=MAX_AGE_SECONDS)

    def write(self, session: Session) -> str:
        """Return the value of the session's cookie."""
        incidents = [list(each) for each in session.incidents]
        return self._cookies.sign([session.id, session.user_id, session.token_id, session.opens_inbox, incidents])

    def read(self, value: str | None) -> Session | None:
        """Return the session in a cookie, or ``None`` if there is none or it is no longer valid."""
        found = _read(self._cookies, value)
        if found is None:
            return None
        id_, user_id, token_id, opens_inbox, incidents = found
        return Session(id_, user_id, token_id, opens_inbox, tuple((each[0], each[1]) for each in incidents))

    def form_token(self, session: Session) -> str:
        """Return a token for the session's forms."""
        return self._forms.sign(session.id)

    def is_form_token(self, session: Session, token: str | None) -> bool:
        """Whether the token was made for a form of this session."""
        return bool(_read(self._forms, token) == session.id)


def _read(signer: TimedSigner, text: str | None) -> JSON:
    try:
        return None if text is None else signer.read(text)
    except (ExpiredSignature, InvalidSignature):
        return None
