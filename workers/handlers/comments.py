"""What people say on an incident, say otherwise, and take back."""

from __future__ import annotations

from collections.abc import Sequence

from models.enums import ActivityType, SubscriptionReason
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.incidents.mentions import ResolvedMentions as People
from models.incidents.mentions import resolve_mentions
from models.refusals import NotFound
from models.serializers import activity_json
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.events import CommentDeleted, CommentEdited, CommentPosted, Mentioned
from workers.batch.context import Answer, Work
from workers.batch.facts import MentionFacts


def post_comment(ask: PostComment, work: Work) -> Answer:
    """Write the comment, subscribe its author and everyone mentioned, and announce both."""
    incident = work.incident(ask.incident)
    author = work.author
    people = _people(ask.mentions, incident, work)

    work.subscribe(incident, [author.id], SubscriptionReason.COMMENTED)
    comment = work.record(
        incident,
        ActivityType.COMMENT,
        comment=ask.comment,
        mentioned_users=people.users,
        mentioned_teams=people.teams,
    )
    work.announce(incident, CommentPosted(activity=comment.id, comment=ask.comment))
    _tell(people, incident, comment, work)
    return Answer(201, activity_json(comment, identifier=incident.identifier, user=author))


def edit_comment(ask: EditComment, work: Work) -> Answer:
    """Replace the text in place; subscribe and announce only those who are mentioned for the first time."""
    incident = work.incident(ask.incident)
    comment = _own_comment(ask.id, incident, work)
    work.require_version(comment.version)
    people = _people(ask.mentions or (), incident, work)
    newly = people.without(users=comment.mentioned_users, teams=comment.mentioned_teams)

    comment.edit(ask.comment, users=people.users, teams=people.teams)
    incident.bump_version()
    work.changes.edited[comment.id] = comment
    work.announce(incident, CommentEdited(activity=comment.id, comment=ask.comment))
    _tell(newly, incident, comment, work)
    author = work.world.people.get(comment.user_id or 0)
    return Answer(200, activity_json(comment, identifier=incident.identifier, user=author))


def delete_comment(ask: DeleteComment, work: Work) -> Answer:
    """Take the comment back; subscriptions that came with it stay."""
    incident = work.incident(ask.incident)
    comment = _own_comment(ask.id, incident, work)
    work.require_version(comment.version)

    incident.bump_version()
    del work.world.comments[comment.id]
    work.changes.deleted.append(comment.id)
    work.announce(incident, CommentDeleted(activity=comment.id))
    return Answer(204)


def _own_comment(id_: int, incident: Incident, work: Work) -> Activity:
    """The comment, for its author or for an account with the superuser flag; for anyone else there is none."""
    comment = work.world.comment(incident, id_)
    if comment is None or not (work.author.is_superuser or comment.user_id == work.author.id):
        raise NotFound
    return comment


def _people(mentions: Sequence[str | None], incident: Incident, work: Work) -> People:
    return resolve_mentions(
        mentions,
        MentionFacts(work.world, work.organization.id),
        organization=work.organization.id,
        attached_teams=work.world.attached_teams(incident),
    )


def _tell(people: People, incident: Incident, comment: Activity, work: Work) -> None:
    work.subscribe(incident, sorted(people.users), SubscriptionReason.MENTION)
    work.subscribe(incident, sorted(people.team_users), SubscriptionReason.TEAM_MENTION)
    if people:
        work.announce(
            incident,
            Mentioned(
                activity=comment.id,
                comment=comment.comment or "",
                users=tuple(sorted(people.users)),
                teams=tuple(sorted(people.teams)),
            ),
        )
