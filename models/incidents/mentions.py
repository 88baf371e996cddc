"""Parse and resolve mentions in comments and owners of alert rules, and check who may be named.

Pure functions, shared by the gateway's preview and the worker. Rules and texts are those of Sentry's incident API,
with one difference: Sentry compares counts, so that a duplicate can hide an invalid mention; here sets are compared.
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


class MentionKind(Enum):
    """What a mention refers to."""

    USER = auto()
    TEAM = auto()
    NAME = auto()


class MentionTarget(NamedTuple):
    """A parsed mention: the id of a user or team, or a username or e-mail address in lower case."""

    kind: MentionKind
    id: int = 0
    name: str = ""


def parse_mention(mention: str) -> MentionTarget | None:
    """Parse ``user:7``, ``team:7``, ``7``, a username or an e-mail address; ``None`` if it has no such form."""
    if form := _FORM.fullmatch(mention):
        kind = MentionKind.TEAM if form[1] == "team" else MentionKind.USER
        return MentionTarget(kind, id=min(int(form[2][:30]), MAX_ID)) if int(form[2][:30]) else None
    if not mention.strip() or mention.startswith(("user:", "team:")):
        return None
    return MentionTarget(MentionKind.NAME, name=mention.strip().lower())


@dataclass(frozen=True, slots=True)
class MentionedTeam:
    """A team that a mention refers to; ``people`` are the ids of its active members with an active account."""

    id: int
    organization_id: int
    people: Set[int]


class MentionFacts(Protocol):
    """The directory look-ups that mentions of one organization need."""

    def user_named(self, name: str) -> int | None:
        """Return the id of the user with this username or e-mail address, in lower case."""

    def user_exists(self, user: int) -> bool:
        """Return whether the account exists."""

    def teams_ever(self, user: int) -> Set[int] | None:
        """Return the ids of the teams that a member is or was on; ``None`` for people who are not members."""

    def team(self, team: int) -> MentionedTeam | None:
        """Return the team of this id, of any organization."""


@dataclass(frozen=True, slots=True)
class ResolvedMentions:
    """The people mentioned by name, and the mentioned teams with their people; all as ids."""

    users: frozenset[int] = frozenset()
    people_by_team: Mapping[int, Set[int]] = field(default_factory=dict)

    @property
    def teams(self) -> frozenset[int]:
        """The ids of the mentioned teams."""
        return frozenset(self.people_by_team)

    @property
    def team_users(self) -> frozenset[int]:
        """The people who are mentioned through a team only."""
        return frozenset().union(*self.people_by_team.values()) - self.users

    def without(self, *, users: Set[int], teams: Set[int]) -> ResolvedMentions:
        """Return the mentions without users and teams that were mentioned before."""
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
    errors: dict[str, list[str]] = field(default_factory=dict)


def resolve_mentions(
    mentions: Sequence[str | None], facts: MentionFacts, *, organization: int, attached_teams: Set[int]
) -> ResolvedMentions:
    """Resolve the mentions of a comment; ``attached_teams`` are the ids of the teams of the incident's projects.

    :raises InvalidFields: a mention is invalid or not allowed; with a text per index, or one for the whole list.
    """
    resolution = _Resolution()
    for index, mention in enumerate(mentions):
        if error := _resolve(mention, facts, organization, resolution):
            resolution.errors[str(index)] = [error]
    if resolution.errors:
        raise _invalid(resolution.errors)
    if any(attached_teams.isdisjoint(facts.teams_ever(user) or ()) for user in resolution.users):
        raise _invalid(["Cannot mention a non team member"])
    if not resolution.teams.keys() <= attached_teams:
        raise _invalid(["Mentioned team not found or not associated with project"])
    return ResolvedMentions(frozenset(resolution.users), {team.id: team.people for team in resolution.teams.values()})


class Owner(NamedTuple):
    """The owner of a rule: a user, a team, or neither."""

    user: int | None = None
    team: int | None = None


def resolve_owner(named: str | None, facts: MentionFacts, *, organization: int) -> Owner:
    """Resolve the owner of a rule, which has the form of a mention; ``None`` means no owner.

    :raises InvalidFields: the text is not a user or team of the organization.
    """
    resolution = _Resolution()
    if named is not None and (error := _resolve(named, facts, organization, resolution)):
        raise InvalidFields({"owner": [error]})
    return Owner(next(iter(resolution.users), None), next(iter(resolution.teams), None))


def _resolve(mention: str | None, facts: MentionFacts, organization: int, resolution: _Resolution) -> str | None:
    """Resolve one mention into ``resolution``; return what is wrong with it, ``None`` if nothing is."""
    if mention is None:
        return FIELD_NOT_NULL
    target = parse_mention(mention)
    if target is None:
        return UNPARSABLE
    if target.kind is MentionKind.TEAM:
        return _resolve_team(target.id, facts, organization, resolution)
    user = facts.user_named(target.name) if target.kind is MentionKind.NAME else target.id
    if user is None:
        return UNPARSABLE
    if not facts.user_exists(user):
        return "User does not exist"
    if facts.teams_ever(user) is None:
        return "User is not a member of this organization"
    resolution.users[user] = None
    return None


def _resolve_team(id_: int, facts: MentionFacts, organization: int, resolution: _Resolution) -> str | None:
    team = facts.team(id_)
    if team is None:
        return "Team does not exist"
    if team.organization_id != organization:
        return "Team is not a member of this organization"
    resolution.teams[id_] = team
    return None


def _invalid(errors: JSON) -> InvalidFields:
    return InvalidFields({"mentions": errors})
