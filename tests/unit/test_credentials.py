"""The validity of a credential: every combination of its attributes is checked against one table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest

from models.enums import CallerKind
from models.policy import CredentialFacts, require_valid_credential
from models.refusals import Forbidden, Refusal, Unauthenticated

OK = None
INVALID = (Unauthenticated, "Invalid token")
EXPIRED = (Unauthenticated, "Token expired")
INACTIVE = (Unauthenticated, "User inactive or deleted")
FORBIDDEN = (Forbidden, "You do not have permission to perform this action.")

KEY, SERVICE, OPS, USER = CallerKind.KEY, CallerKind.SERVICE, CallerKind.OPS, CallerKind.USER
ANY = (True, False)
KINDS = (USER, KEY, SERVICE, OPS)
OTHERS = (KEY, OPS)
YES, NO = (True,), (False,)

Answer = tuple[type[Refusal], str] | None
Flags = tuple[bool, ...]

# kind, revoked, expired, user active, acts for a user, may act for users, user is a member: the outcome
TABLE: tuple[tuple[tuple[CallerKind, ...], Flags, Flags, Flags, Flags, Flags, Flags, Answer], ...] = (
    (KINDS,      YES, ANY, ANY, ANY, ANY, ANY, INVALID),
    (KINDS,      NO,  YES, ANY, ANY, ANY, ANY, EXPIRED),
    ((USER,),    NO,  NO,  NO,  ANY, ANY, ANY, INACTIVE),
    ((USER,),    NO,  NO,  YES, NO,  ANY, ANY, OK),
    ((USER,),    NO,  NO,  YES, YES, ANY, ANY, FORBIDDEN),
    (OTHERS,     NO,  NO,  ANY, NO,  ANY, ANY, OK),
    (OTHERS,     NO,  NO,  ANY, YES, ANY, ANY, FORBIDDEN),
    ((SERVICE,), NO,  NO,  ANY, NO,  ANY, ANY, OK),
    ((SERVICE,), NO,  NO,  YES, YES, YES, YES, OK),
    ((SERVICE,), NO,  NO,  YES, YES, YES, NO,  FORBIDDEN),
    ((SERVICE,), NO,  NO,  YES, YES, NO,  ANY, FORBIDDEN),
    ((SERVICE,), NO,  NO,  NO,  YES, ANY, ANY, FORBIDDEN),
)  # fmt: skip


def credentials(kinds: Iterable[CallerKind], *flags: Flags) -> list[CredentialFacts]:
    return [CredentialFacts(kind, *values) for kind in kinds for values in product(*flags)]


COMBINATIONS = [
    (credential, answer)
    for kinds, revoked, expired, active, acts, may_act, is_member, answer in TABLE
    for credential in credentials(kinds, revoked, expired, active, acts, may_act, is_member)
]


def answer_to(credential: CredentialFacts | None) -> Answer:
    try:
        require_valid_credential(credential)
    except Refusal as refusal:
        return type(refusal), refusal.body["detail"]
    return None


def test_the_table_contains_every_combination_once() -> None:
    everything = set(credentials(KINDS, ANY, ANY, ANY, ANY, ANY, ANY))

    assert len(COMBINATIONS) == len(everything)
    assert {facts for facts, _ in COMBINATIONS} == everything


@pytest.mark.parametrize(("credential", "answer"), COMBINATIONS)
def test_a_credential_is_valid_or_refused_as_the_table_says(credential: CredentialFacts, answer: Answer) -> None:
    assert answer_to(credential) == answer


def test_an_unknown_token_is_refused_like_a_revoked_one() -> None:
    assert answer_to(None) == INVALID
