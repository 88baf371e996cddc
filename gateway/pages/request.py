"""A request for a page, and the function that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import QueryParams

from gateway.container import Container
from gateway.http.parsing import Headers
from gateway.http.request_log import RequestRecord
from gateway.http.responses import HttpResponse
from gateway.pages.sessions import Session, Sessions
from gateway.pages.site import Site
from gateway.reads.visitors import Visitor
from models.local_time import DEFAULT_ZONE
from models.notifications.tickets import Tickets
from models.refusals import MalformedRequest
from tasks.commands.fields import identifier

MAX_FORM_FIELDS: Final = 200


class FormRefused(Exception):
    """Raised when a form does not come from a page of this session. Nothing was changed."""


class NotLoggedIn(Exception):
    """Raised when the session does not open the page. ``reason`` tells the person what to do."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class PageRequest:
    """A request for a page. ``session`` is new, and belongs to nobody, if the request has no valid cookie."""

    container: Container
    site: Site
    sessions: Sessions
    tickets: Tickets
    method: str
    path: str
    parameters: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: bytes
    session: Session
    record: RequestRecord
    address: str = ""
    cookie: dict[str, str] = field(default_factory=dict)

    @cached_property
    def form(self) -> dict[str, list[str]]:
        """The values of the form that was sent, by field.

        :raises MalformedRequest: if the body is not a form.
        """
        media_type = (self.headers.get(b"content-type") or "").partition(";")[0].strip().lower()
        if media_type != "application/x-www-form-urlencoded":
            raise MalformedRequest("Send a form.")
        try:
            return parse_qs(
                self.body.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_FORM_FIELDS,
            )
        except ValueError:
            raise MalformedRequest("The form cannot be read.") from None

    def field(self, name: str) -> str:
        """Return the value of a field of the form, or an empty text if it is absent."""
        # Browsers send CR LF for each line end.
        return self.form.get(name, [""])[0].replace("\r\n", "\n")

    def require_own_form(self) -> None:
        """Require that the form was sent from a page of this session.

        :raises FormRefused: if it was not.
        """
        self.require_own_origin()
        if not self.sessions.is_form_token(self.session, self.field("form_token")):
            raise FormRefused

    def require_own_origin(self) -> None:
        """Require that the request was not sent from a page of another site.

        :raises FormRefused: if it was.
        """
        origin = self.headers.get(b"origin")
        if self.headers.get(b"sec-fetch-site") in ("cross-site", "same-site"):
            raise FormRefused
        if origin is not None and not self.site.is_own_origin(origin, self.headers.get(b"host")):
            raise FormRefused

    def deadline(self) -> float:
        """Return the event-loop time by which a command must be accepted."""
        return asyncio.get_running_loop().time() + self.container.timeouts.acceptance_seconds

    def number(self) -> int:
        """Return the incident number in the path, or 0, which no incident has, if the text there is none."""
        return identifier(self.parameters["identifier"]) or 0

    def login_path(self, reason: str = "") -> str:
        """Return the path of the login page that leads back here."""
        values = {"next": quote(self.path)} | ({"reason": reason} if reason else {})
        return f"/login/?{urlencode(values)}"

    async def visitor(self, organization: str = "") -> Visitor:
        """Return the person to whom the session belongs, with their rights in the organization.

        :raises NotLoggedIn: if the session belongs to nobody, or its account or token is no longer valid.
        """
        if self.session.user_id is None:
            raise NotLoggedIn
        visitors = self.container.visitors
        visitor = await visitors.visitor(self.session.user_id, self.session.token_id, organization)
        if visitor is None:
            raise NotLoggedIn
        self.record.caller = f"user:{self.session.user_id}"
        return visitor

    def facts(self, visitor: Visitor | None = None) -> dict[str, object]:
        """Return what every page shows of the session."""
        session = self.session
        return {
            "person": None if visitor is None else visitor.name,
            "zone": DEFAULT_ZONE if visitor is None else visitor.zone,
            "form_token": self.sessions.form_token(session),
            "shows_inbox": session.token_id is not None or session.opens_inbox,
        }


PageHandler = Callable[[PageRequest], Awaitable[HttpResponse]]
