"""Tickets: what they say, how long they are valid, and what happens to changed or foreign ones."""

from __future__ import annotations

import base64
import string
from dataclasses import dataclass

import pytest

from models.notifications.tickets import (
    MAX_AGE_SECONDS,
    ExpiredTicket,
    InvalidTicket,
    TicketClaims,
    TicketKind,
    Tickets,
)

SECRET = "a secret for the tests"
OLD_SECRET = "the secret before that"
NOW = 1_800_000_000.0


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def tickets(*secrets: str, clock: Clock | None = None) -> Tickets:
    return Tickets(secrets or (SECRET,), clock=clock or Clock())


def issue(kind: TicketKind, by: Tickets) -> str:
    match kind:
        case TicketKind.PAGE:
            return by.page_ticket(11, 1, 2, 3)
        case TicketKind.UNSUBSCRIBE:
            return by.unsubscribe_ticket(11, 1, 2, 3)
        case TicketKind.INBOX:
            return by.inbox_ticket(11)


def read(kind: TicketKind, ticket: str, by: Tickets) -> TicketClaims:
    readers = {
        TicketKind.PAGE: by.read_page_ticket,
        TicketKind.UNSUBSCRIBE: by.read_unsubscribe_ticket,
        TicketKind.INBOX: by.read_inbox_ticket,
    }
    return readers[kind](ticket)


every_kind = pytest.mark.parametrize("kind", TicketKind)


@every_kind
def test_a_ticket_says_for_whom_and_about_what_it_is(kind: TicketKind) -> None:
    claims = read(kind, issue(kind, tickets()), tickets())

    assert (claims.kind, claims.user_id) == (kind, 11)
    incident = (claims.organization_id, claims.incident_id, claims.identifier)
    assert incident == ((0, 0, 0) if kind is TicketKind.INBOX else (1, 2, 3))


def test_every_ticket_has_an_id_of_its_own() -> None:
    issuer = tickets()

    ids = {read(TicketKind.PAGE, issue(TicketKind.PAGE, issuer), issuer).id for _ in range(3)}

    assert len(ids) == 3


@every_kind
def test_a_ticket_is_valid_up_to_its_age_limit_and_not_a_second_longer(kind: TicketKind) -> None:
    clock = Clock()
    reader = tickets(clock=clock)
    ticket = issue(kind, tickets())

    clock.now = NOW + MAX_AGE_SECONDS[kind]
    assert read(kind, ticket, reader).user_id == 11
    clock.now += 1
    with pytest.raises(ExpiredTicket):
        read(kind, ticket, reader)


@every_kind
def test_a_ticket_from_a_host_whose_clock_is_up_to_a_minute_ahead_is_valid(kind: TicketKind) -> None:
    clock = Clock(NOW - 60)
    ticket = issue(kind, tickets())

    assert read(kind, ticket, tickets(clock=clock)).user_id == 11
    clock.now -= 1
    with pytest.raises(ExpiredTicket):
        read(kind, ticket, tickets(clock=clock))


@every_kind
@pytest.mark.parametrize("other", TicketKind)
def test_a_ticket_of_one_kind_is_no_ticket_of_another(kind: TicketKind, other: TicketKind) -> None:
    ticket = issue(kind, tickets())

    if kind is other:
        assert read(other, ticket, tickets()).kind is other
    else:
        with pytest.raises(InvalidTicket):
            read(other, ticket, tickets())


def test_a_ticket_with_any_changed_character_of_its_content_is_invalid() -> None:
    ticket = issue(TicketKind.PAGE, tickets())
    signed = ticket.rindex(".")

    for position in range(signed):
        other = "A" if ticket[position] != "A" else "B"
        with pytest.raises(InvalidTicket):
            read(TicketKind.PAGE, ticket[:position] + other + ticket[position + 1 :], tickets())


def test_another_spelling_of_a_signature_is_the_same_ticket_by_its_id() -> None:
    ticket = issue(TicketKind.PAGE, tickets())
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    signature = ticket.rpartition(".")[2]
    decoded = base64.urlsafe_b64decode(signature + "=")
    spellings = [ticket[:-1] + each for each in alphabet]
    same = [each for each in spellings if base64.urlsafe_b64decode(each.rpartition(".")[2] + "=") == decoded]

    ids = {read(TicketKind.PAGE, each, tickets()).id for each in same}

    assert len(same) > 1
    assert len(ids) == 1


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é", "A" * 10_000, "\0", " "])
def test_anything_else_is_no_ticket(text: str) -> None:
    with pytest.raises(InvalidTicket):
        read(TicketKind.PAGE, text, tickets())


def test_a_ticket_survives_the_rotation_of_the_secret_until_the_old_one_is_removed() -> None:
    ticket = issue(TicketKind.PAGE, tickets(OLD_SECRET))

    assert read(TicketKind.PAGE, ticket, tickets(SECRET, OLD_SECRET)).user_id == 11
    with pytest.raises(InvalidTicket):
        read(TicketKind.PAGE, ticket, tickets(SECRET))


def test_the_first_secret_signs() -> None:
    ticket = issue(TicketKind.PAGE, tickets(SECRET, OLD_SECRET))

    assert read(TicketKind.PAGE, ticket, tickets(SECRET)).user_id == 11


def test_nothing_is_signed_without_a_secret() -> None:
    with pytest.raises(ValueError, match="TOCSIN_SECRET"):
        Tickets(())


@every_kind
def test_a_ticket_is_short_enough_for_a_header_line_of_a_mail(kind: TicketKind) -> None:
    largest = 2**63 - 1

    ticket = tickets().page_ticket(largest, largest, largest, largest)

    assert len(ticket) < 300
    assert ticket.isascii()
