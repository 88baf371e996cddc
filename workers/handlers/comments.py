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
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import MentionFacts


def post_comment(command: PostComment, context: CommandContext) -> CommandResult:
    """Write the comment, subscribe its author and everyone mentioned, and announce both."""
    incident = context.require_incident(command.incident)
    author = context.author
    people = _people(command.mentions, incident, context)

    context.subscribe(incident, [author.id], SubscriptionReason.COMMENTED)
    comment = context.record_activity(
        incident,
        ActivityType.COMMENT,
        comment=command.comment,
        mentioned_users=people.users,
        mentioned_teams=people.teams,
    )
    context.emit(incident, CommentPosted(activity=comment.id, comment=command.comment))
    _tell(people, incident, comment, context)
    return CommandResult(201, activity_json(comment, identifier=incident.identifier, user=author))


def edit_comment(command: EditComment, context: CommandContext) -> CommandResult:
    """Replace the text in place; subscribe and announce only those who are mentioned for the first time."""
    incident = context.require_incident(command.incident)
    comment = _own_comment(command.id, incident, context)
    context.require_version(comment.version)
    people = _people(command.mentions or (), incident, context)
    newly = people.without(users=comment.mentioned_users, teams=comment.mentioned_teams)

    comment.edit(command.comment, users=people.users, teams=people.teams)
    incident.bump_version()
    context.changes.edited_comments[comment.id] = comment
    context.emit(incident, CommentEdited(activity=comment.id, comment=command.comment))
    _tell(newly, incident, comment, context)
    author = context.facts.people.get(comment.user_id or 0)
    return CommandResult(200, activity_json(comment, identifier=incident.identifier, user=author))


def delete_comment(command: DeleteComment, context: CommandContext) -> CommandResult:
    """Take the comment back; subscriptions that came with it stay."""
    incident = context.require_incident(command.incident)
    comment = _own_comment(command.id, incident, context)
    context.require_version(comment.version)

    incident.bump_version()
    del context.facts.comments[comment.id]
    context.changes.deleted_comments.append(comment.id)
    context.emit(incident, CommentDeleted(activity=comment.id))
    return CommandResult(204)


def _own_comment(id_: int, incident: Incident, context: CommandContext) -> Activity:
    """The comment, for its author or for an account with the superuser flag; for anyone else there is none."""
    comment = context.facts.find_comment(incident, id_)
    if comment is None or not (context.author.is_superuser or comment.user_id == context.author.id):
        raise NotFound
    return comment


def _people(mentions: Sequence[str | None], incident: Incident, context: CommandContext) -> People:
    return resolve_mentions(
        mentions,
        MentionFacts(context.facts, context.organization.id),
        organization=context.organization.id,
        attached_teams=context.facts.attached_teams(incident),
    )


def _tell(people: People, incident: Incident, comment: Activity, context: CommandContext) -> None:
    context.subscribe(incident, sorted(people.users), SubscriptionReason.MENTION)
    context.subscribe(incident, sorted(people.team_users), SubscriptionReason.TEAM_MENTION)
    if people:
        context.emit(
            incident,
            Mentioned(
                activity=comment.id,
                comment=comment.comment or "",
                users=tuple(sorted(people.users)),
                teams=tuple(sorted(people.teams)),
            ),
        )
