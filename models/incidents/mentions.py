"""Whom a comment mentions, or who owns a rule: the forms that takes, and who may be named where.

Pure: the gateway previews an audience with it, the worker decides with it. The rules and texts are those of the
incident API that tocsin gives back; where its counting let an invalid mention hide behind a duplicate, sets decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from models.enums import JSON, MAX_ID
from models.refusals import FIELD_NOT_NULL, InvalidFields

UNPARSABLE: Final = "Could not parse actor. Format should be `type:id` where type is `team` or `user`."
_FORM = re.compile(r"(?:(user|team):)?([0-9]+)")


class Kind(Enum):
    """What a mention names."""

    USER = auto()
    TEAM = auto()
    NAME = auto()


class Target(NamedTuple):
    """A parsed mention: an id of a user or a team, or a username or e-mail address in lower case."""

    kind: Kind
    id: int = 0
    name: str = ""


def parse(mention: str) -> Target | None:
    """``user:7``, ``team:7``, ``7``, a username or an e-mail address; ``None`` for what is none of these."""
    if form := _FORM.fullmatch(mention):
        kind = Kind.TEAM if form[1] == "team" else Kind.USER
        return Target(kind, id=min(int(form[2][:30]), MAX_ID)) if int(form[2][:30]) else None
    if not mention.strip() or mention.startswith(("user:", "team:")):
        return None
    return Target(Kind.NAME, name=mention.strip().lower())


@dataclass(frozen=True, slots=True)
class MentionedTeam:
    """A team as mentions see it; ``people`` are its active members with an active account."""

    id: int
    organization_id: int
    people: Set[int]


class Facts(Protocol):
    """What has to be known to judge mentions in one organization."""

    def user_named(self, name: str) -> int | None:
        """The user of this username or e-mail address, given in lower case."""

    def user_exists(self, user: int) -> bool:
        """Whether there is such an account."""

    def teams_ever(self, user: int) -> Set[int] | None:
        """The teams on which the member has, or once had, a place; ``None`` for someone who is no member."""

    def team(self, team: int) -> MentionedTeam | None:
        """The team of this id, in whatever organization."""


@dataclass(frozen=True, slots=True)
class ResolvedMentions:
    """Who is mentioned: people by name, and teams with the people on them."""

    users: frozenset[int] = frozenset()
    people_by_team: Mapping[int, Set[int]] = field(default_factory=dict)

    @property
    def teams(self) -> frozenset[int]:
        """The teams."""
        return frozenset(self.people_by_team)

    @property
    def team_users(self) -> frozenset[int]:
        """Whoever is mentioned through a team and not by name."""
        return frozenset().union(*self.people_by_team.values()) - self.users

    def without(self, *, users: Set[int], teams: Set[int]) -> ResolvedMentions:
        """Those who are mentioned for the first time, after these."""
        return ResolvedMentions(
            self.users - users,
            {team: people - users for team, people in self.people_by_team.items() if team not in teams},
        )

    def __bool__(self) -> bool:
        return bool(self.users or self.people_by_team)


@dataclass(slots=True)
class _Reading:
    users: dict[int, None] = field(default_factory=dict)
    teams: dict[int, MentionedTeam] = field(default_factory=dict)
    wrongs: dict[str, list[str]] = field(default_factory=dict)


def resolve_mentions(
    mentions: Sequence[str | None], facts: Facts, *, organization: int, attached_teams: Set[int]
) -> ResolvedMentions:
    """Who is meant, if everyone may be mentioned; ``attached_teams`` are those of the incident's projects.

    :raises InvalidFields: with a text per index, or one text for the whole list.
    """
    reading = _Reading()
    for index, mention in enumerate(mentions):
        if wrong := _read(mention, facts, organization, reading):
            reading.wrongs[str(index)] = [wrong]
    if reading.wrongs:
        raise _invalid(reading.wrongs)
    if any(attached_teams.isdisjoint(facts.teams_ever(user) or ()) for user in reading.users):
        raise _invalid(["Cannot mention a non team member"])
    if not reading.teams.keys() <= attached_teams:
        raise _invalid(["Mentioned team not found or not associated with project"])
    return ResolvedMentions(frozenset(reading.users), {team.id: team.people for team in reading.teams.values()})


class Owner(NamedTuple):
    """A user or a team that something belongs to; at most one is set."""

    user: int | None = None
    team: int | None = None


def resolve_owner(named: str | None, facts: Facts, *, organization: int) -> Owner:
    """Who is named as the owner, in the forms of a mention.

    :raises InvalidFields: nobody is, or nobody who may own something here.
    """
    reading = _Reading()
    if named is not None and (wrong := _read(named, facts, organization, reading)):
        raise InvalidFields({"owner": [wrong]})
    return Owner(next(iter(reading.users), None), next(iter(reading.teams), None))


def _read(mention: str | None, facts: Facts, organization: int, reading: _Reading) -> str | None:
    """Read one mention into ``reading``; return what is wrong with it."""
    if mention is None:
        return FIELD_NOT_NULL
    target = parse(mention)
    if target is None:
        return UNPARSABLE
    if target.kind is Kind.TEAM:
        return _read_team(target.id, facts, organization, reading)
    user = facts.user_named(target.name) if target.kind is Kind.NAME else target.id
    if user is None:
        return UNPARSABLE
    if not facts.user_exists(user):
        return "User does not exist"
    if facts.teams_ever(user) is None:
        return "User is not a member of this organization"
    reading.users[user] = None
    return None


def _read_team(id_: int, facts: Facts, organization: int, reading: _Reading) -> str | None:
    team = facts.team(id_)
    if team is None:
        return "Team does not exist"
    if team.organization_id != organization:
        return "Team is not a member of this organization"
    reading.teams[id_] = team
    return None


def _invalid(wrongs: JSON) -> InvalidFields:
    return InvalidFields({"mentions": wrongs})
