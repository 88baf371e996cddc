"""Parse and resolve comments' mentions and alert rules' owners, and check who may be named.

The functions are pure. The gateway's preview and the worker share them. The rules and error messages are the same as in
Sentry's incident API, with one difference: Sentry compares counts, so a duplicate can hide an invalid mention. This
module compares sets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
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
    """A parsed mention: the id of a user or team, or a username or e-mail address in lower case."""

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
    return MentionTarget(MentionKind.NAME, name=mention.strip().lower())


@dataclass(frozen=True, slots=True)
class MentionedTeam:
    """A team that a mention refers to. ``people`` holds the ids of its active members whose accounts are active."""

    id: int
    organization_id: int
    people: Set[int]


class MentionFacts(Protocol):
    """The directory lookups that are needed to resolve an organization's mentions."""

    def user_named(self, name: str) -> int | None:
        """Return the id of the user with this username or e-mail address. ``name`` must be in lower case."""

    def user_exists(self, user: int) -> bool:
        """Return whether a user with this id exists."""

    def teams_ever(self, user: int) -> Set[int] | None:
        """Return the ids of all current and former teams of a member, or ``None`` if the user is not a member."""

    def team(self, team: int) -> MentionedTeam | None:
        """Return the team with this id, whichever organization it belongs to."""


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
    errors: dict[str, list[str]] = field(default_factory=dict)


def resolve_mentions(
    mentions: Sequence[str | None], facts: MentionFacts, *, organization: int, attached_teams: Set[int]
) -> ResolvedMentions:
    """Resolve a comment's mentions. ``attached_teams`` holds the ids of the teams attached to the incident's projects.

    :raises InvalidFields: when a mention is invalid or not allowed. The error has one message per invalid mention, by
    index, or one message for the whole list.
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
    """Resolve a rule's owner, which is written like a mention. ``None`` means that the rule has no owner.

    :raises InvalidFields: when the text does not name a user or a team of the organization.
    """
    resolution = _Resolution()
    if named is not None and (error := _resolve(named, facts, organization, resolution)):
        raise InvalidFields({"owner": [error]})
    return Owner(next(iter(resolution.users), None), next(iter(resolution.teams), None))


def _resolve(mention: str | None, facts: MentionFacts, organization: int, resolution: _Resolution) -> str | None:
    """Resolve one mention and add it to ``resolution``, or return an error message if the mention is invalid."""
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
