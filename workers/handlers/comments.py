"""What people say on an incident."""

from __future__ import annotations

from models.mentions import resolve
from models.shapes import activity_json
from models.vocabulary import ActivityType, SubscriptionReason
from tasks.commands import PostComment
from tasks.events import CommentPosted, Mentioned
from workers.work import Answer, Work
from workers.world import MentionFacts


def post_comment(ask: PostComment, work: Work) -> Answer:
    """Write the comment, subscribe its author and everyone mentioned, and announce both."""
    incident = work.incident(ask.incident)
    author = work.author
    mentioned = resolve(
        ask.mentions,
        MentionFacts(work.world, work.organization.id),
        organization=work.organization.id,
        attached_teams=work.world.attached_teams(incident),
    )

    work.subscribe(incident, [author.id], SubscriptionReason.COMMENTED)
    activity = work.record(incident, ActivityType.COMMENT, comment=ask.comment)
    work.subscribe(incident, sorted(mentioned.users), SubscriptionReason.MENTION)
    work.subscribe(incident, sorted(mentioned.team_users), SubscriptionReason.TEAM_MENTION)
    work.announce(incident, CommentPosted(activity=activity.id, comment=ask.comment))
    if mentioned:
        work.announce(
            incident,
            Mentioned(
                activity=activity.id,
                comment=ask.comment,
                users=tuple(sorted(mentioned.users)),
                teams=tuple(sorted(mentioned.teams)),
            ),
        )
    return Answer(201, activity_json(activity, identifier=incident.identifier, user=author))
