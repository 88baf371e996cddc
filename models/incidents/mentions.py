"""Parse and resolve comments' mentions and alert rules' owners, and check who may be named.

The functions are pure. The gateway's preview and the worker share them. The rules and error messages are the same as in
Sentry's incident API, with one difference: Sentry compares counts, so a duplicate can hide an invalid mention. This
module compares sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from models.refusals import FIELD_NOT_NULL, InvalidFields
from models.types import JSON, MAX_ID

UNPARSABLE: Final = "Could not parse actor. Format should be `type:id` where type is `team` or `user`."
_FORM = re.compile(r"(?:(user|team):)?([0-9]+)")


class MentionKind(Enum):
    """The form of a mention: the id of a user, the id of a team, or a name."""

    USER = auto()
    TEAM = auto()
    NAME = auto()


class MentionTarget(NamedTuple):
    """A parsed mention: the id of a user or team, or a username or e-mail address in lower case and in form NFC."""

    kind: MentionKind
    id: int = 0
    name: str = ""


def parse_mention(mention: str) -> MentionTarget | None:
    """Parse ``user:7``, ``team:7``, ``7``, a username or an e-mail address. Return ``None`` for any other text."""
    if form := _FORM.fullmatch(mention):
        kind = MentionKind.TEAM if form[1] == "team" else MentionKind.USER
        return MentionTarget(kind, id=min(int(form[2][:30]), MAX_ID)) if int(form[2][:30]) else None
    if not mention.strip() or mention.startswith(("user:", "team:")):
        return None
    return MentionTarget(MentionKind.NAME, name=unicodedata.normalize("NFC", mention.strip()).lower())


@dataclass(frozen=True, slots=True)
class MentionedTeam:
    """A team that a mention refers to. ``people`` holds the ids of its active members whose accounts are active."""

    id: int
    organization_id: int
    people: Set[int]


class MentionFacts(Protocol):
    """The directory lookups that are needed to resolve an organization's mentions."""

    def users_named(self, name: str) -> Sequence[int]:
        """Return the ids of the users with this username or e-mail address, the best match first.

        ``name`` must be in lower case.
        """

    def teams_ever(self, user: int) -> Set[int] | None:
        """Return the ids of all current and former teams of a member, or ``None`` if the user is not a member."""

    def team(self, team: int) -> MentionedTeam | None:
        """Return the team with this id, whichever organization it belongs to."""


def ids_by_name(people: Iterable[tuple[int, str, str]]) -> dict[str, tuple[int, ...]]:
    """Return the ids of people by each of their names in lower case, the best match first.

    ``people`` holds id, username and e-mail address. Usernames come before e-mail addresses; otherwise later people
    come before earlier ones.
    """
    everyone = list(people)
    names: dict[str, tuple[int, ...]] = {}
    for id_, _, email in everyone:
        names[email.lower()] = (id_, *names.get(email.lower(), ()))
    for id_, username, _ in everyone:
        names[username.lower()] = (id_, *(each for each in names.get(username.lower(), ()) if each != id_))
    return names


@dataclass(frozen=True, slots=True)
class ResolvedMentions:
    """The users mentioned individually, and the mentioned teams with their people, all by id."""

    users: frozenset[int] = frozenset()
    people_by_team: Mapping[int, Set[int]] = field(default_factory=dict)

    @property
    def teams(self) -> frozenset[int]:
        """The ids of the mentioned teams."""
        return frozenset(self.people_by_team)

    @property
    def team_users(self) -> frozenset[int]:
        """The ids of the people who are mentioned only through a team."""
        return frozenset().union(*self.people_by_team.values()) - self.users

    def without(self, *, users: Set[int], teams: Set[int]) -> ResolvedMentions:
        """Return the mentions that remain when these users and teams are removed."""
        return ResolvedMentions(
            self.users - users,
            {team: people - users for team, people in self.people_by_team.items() if team not in teams},
        )

    def __bool__(self) -> bool:
        return bool(self.users or self.people_by_team)


@dataclass(slots=True)
class _Resolution:
    users: dict[int, None] = field(default_factory=dict)
    teams: dict[int, MentionedTeam] = field(default_factory=dict)
    indexes: dict[tuple[MentionKind, int], int] = field(default_factory=dict)
    """The position of the first mention of each user and team."""


def resolve_mentions(
    mentions: Sequence[str | None], facts: MentionFacts, *, organization: int, attached_teams: Set[int]
) -> ResolvedMentions:
    """Resolve a comment's mentions. ``attached_teams`` holds the ids of the teams attached to the incident's projects.

    :raises InvalidFields: when a mention is invalid or not allowed. The error has one message per invalid mention, by
    index, or one message for the whole list.
    """
    resolution = _Resolution()
    errors: dict[str, list[str]] = {}
    reasons: list[tuple[int, str]] = []
    for index, mention in enumerate(mentions):
        if error := _resolve(mention, facts, organization, resolution, index):
            errors[str(index)] = [error.message]
            reasons.append((index, error.reason))
    if errors:
        raise _invalid(errors, mentions, reasons)
    if strangers := [user for user in resolution.users if attached_teams.isdisjoint(facts.teams_ever(user) or ())]:
        places = [(resolution.indexes[MentionKind.USER, user], ON_NO_TEAM) for user in strangers]
        raise _invalid(["Cannot mention a non team member"], mentions, places)
    if others := resolution.teams.keys() - attached_teams:
        places = [(resolution.indexes[MentionKind.TEAM, team], NOT_ATTACHED) for team in others]
        raise _invalid(["Mentioned team not found or not associated with project"], mentions, places)
    return ResolvedMentions(frozenset(resolution.users), {team.id: team.people for team in resolution.teams.values()})


class Owner(NamedTuple):
    """The owner of a rule: a user, a team, or neither."""

    user: int | None = None
    team: int | None = None


def resolve_owner(named: str | None, facts: MentionFacts, *, organization: int) -> Owner:
    """Resolve a rule's owner, which is written like a mention. ``None`` means that the rule has no owner.

    :raises InvalidFields: when the text does not name a user or a team of the organization.
    """
    resolution = _Resolution()
    if named is not None and (error := _resolve(named, facts, organization, resolution)):
        raise InvalidFields({"owner": [error.message]}, [("#/owner", error.describe(named))])
    return Owner(next(iter(resolution.users), None), next(iter(resolution.teams), None))


class _MentionError(NamedTuple):
    """The message that Sentry's incident API has for an invalid mention, and the reason, which says more."""

    message: str
    reason: str

    def describe(self, mention: str | None) -> str:
        return _describe(mention, self.reason)


_NULL: Final = _MentionError(FIELD_NOT_NULL, "it names nobody")
_NO_FORM: Final = _MentionError(UNPARSABLE, "it is not user:ID, team:ID, an id, a username or an e-mail address")
_NO_NAME: Final = _MentionError(UNPARSABLE, "no member has this username or e-mail address")
_NO_USER: Final = _MentionError("User does not exist", "no member has this id")
_NO_TEAM: Final = _MentionError("Team does not exist", "no team has this id")
ON_NO_TEAM: Final = "this person is on no team of the incident's projects"
NOT_ATTACHED: Final = "this team is attached to none of the incident's projects"


def _resolve(
    mention: str | None, facts: MentionFacts, organization: int, resolution: _Resolution, index: int = 0
) -> _MentionError | None:
    """Resolve one mention and add it to ``resolution``, or return an error if the mention is invalid.

    People and teams outside the organization are unknown: whether they exist elsewhere is nobody's business here.
    """
    if mention is None:
        return _NULL
    target = parse_mention(mention)
    if target is None:
        return _NO_FORM
    if target.kind is MentionKind.TEAM:
        team = facts.team(target.id)
        if team is None or team.organization_id != organization:
            return _NO_TEAM
        resolution.teams[team.id] = team
        resolution.indexes.setdefault((MentionKind.TEAM, team.id), index)
        return None
    is_name = target.kind is MentionKind.NAME
    candidates = facts.users_named(target.name) if is_name else (target.id,)
    user = next((each for each in candidates if facts.teams_ever(each) is not None), None)
    if user is None:
        return _NO_NAME if is_name else _NO_USER
    resolution.users[user] = None
    resolution.indexes.setdefault((MentionKind.USER, user), index)
    return None


def _invalid(errors: JSON, mentions: Sequence[str | None], reasons: Iterable[tuple[int, str]]) -> InvalidFields:
    sentences = ((f"#/mentions/{index}", _describe(mentions[index], reason)) for index, reason in sorted(reasons))
    return InvalidFields({"mentions": errors}, sentences)


def _describe(mention: str | None, reason: str) -> str:
    # What was no text cannot be quoted any more: the command holds an empty text instead.
    shown = "null" if mention is None else f'"{mention[:100]}"' if mention else "The value"
    return f"{shown}: {reason}."
