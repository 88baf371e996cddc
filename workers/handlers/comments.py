"""Handlers that post, edit and delete comments."""

from __future__ import annotations

from collections.abc import Sequence

from models.enums import ActivityType, SubscriptionReason
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.incidents.mentions import ResolvedMentions, resolve_mentions
from models.policy import may_change_comment
from models.refusals import NotFound
from models.serializers.incidents import activity_json
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.events import CommentDeleted, CommentEdited, CommentPosted, Mentioned
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.facts import BatchMentionFacts
from workers.batch.handler import handles


@handles(PostComment, needs.incident, needs.mentions)
def post_comment(command: PostComment, context: CommandContext) -> CommandResult:
    """Add a comment, subscribe its author and the people it mentions, and emit CommentPosted and Mentioned."""
    incident = context.require_incident(command.incident)
    author = context.author
    mentioned = _resolve(command.mentions, incident, context)

    context.subscribe(incident, [author.id], SubscriptionReason.COMMENTED)
    comment = context.record_activity(
        incident,
        ActivityType.COMMENT,
        comment=command.comment,
        mentioned_users=mentioned.users,
        mentioned_teams=mentioned.teams,
    )
    context.emit(incident, CommentPosted(activity=comment.id, comment=command.comment))
    _emit_mentioned(mentioned, incident, comment, context)
    return CommandResult(201, activity_json(comment, identifier=incident.identifier, user=author))


@handles(EditComment, needs.incident, needs.comment, needs.mentions)
def edit_comment(command: EditComment, context: CommandContext) -> CommandResult:
    """Replace a comment's text, and subscribe and notify the people whom it mentions for the first time."""
    incident = context.require_incident(command.incident)
    comment = _own_comment(command.id, incident, context)
    context.require_version(comment.version)
    mentioned = _resolve(command.mentions or (), incident, context)
    newly_mentioned = mentioned.without(users=comment.mentioned_users, teams=comment.mentioned_teams)

    comment.edit(command.comment, users=mentioned.users, teams=mentioned.teams)
    incident.bump_version()
    context.changes.edited_comments[comment.id] = comment
    context.emit(incident, CommentEdited(activity=comment.id, comment=command.comment))
    _emit_mentioned(newly_mentioned, incident, comment, context)
    author = context.facts.people.get(comment.user_id or 0)
    return CommandResult(200, activity_json(comment, identifier=incident.identifier, user=author))


@handles(DeleteComment, needs.incident, needs.comment)
def delete_comment(command: DeleteComment, context: CommandContext) -> CommandResult:
    """Delete a comment. The subscriptions that it caused remain."""
    incident = context.require_incident(command.incident)
    comment = _own_comment(command.id, incident, context)
    context.require_version(comment.version)

    incident.bump_version()
    del context.facts.comments[comment.id]
    context.changes.deleted_comments.append(comment.id)
    context.emit(incident, CommentDeleted(activity=comment.id))
    return CommandResult(204)


def _own_comment(id_: int, incident: Incident, context: CommandContext) -> Activity:
    """Return the incident's comment with this id.

    :raises NotFound: if the incident has no such comment, or if the actor is neither its author nor a superuser.
    """
    comment = context.facts.find_comment(incident, id_)
    author = context.author
    if comment is None or not may_change_comment(author.id, comment.user_id, is_superuser=author.is_superuser):
        raise NotFound
    return comment


def _resolve(mentions: Sequence[str | None], incident: Incident, context: CommandContext) -> ResolvedMentions:
    return resolve_mentions(
        mentions,
        BatchMentionFacts(context.facts, context.organization.id),
        organization=context.organization.id,
        attached_teams=context.facts.attached_teams(incident),
    )


def _emit_mentioned(
    mentioned: ResolvedMentions, incident: Incident, comment: Activity, context: CommandContext
) -> None:
    context.subscribe(incident, sorted(mentioned.users), SubscriptionReason.MENTION)
    context.subscribe(incident, sorted(mentioned.team_users), SubscriptionReason.TEAM_MENTION)
    if mentioned:
        context.emit(
            incident,
            Mentioned(
                activity=comment.id,
                comment=comment.comment or "",
                users=tuple(sorted(mentioned.users)),
                teams=tuple(sorted(mentioned.teams)),
            ),
        )
