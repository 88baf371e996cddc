"""Endpoints that post, edit and delete comments on incidents, and that preview whom a comment would notify."""

from __future__ import annotations

from gateway.api.access import require_incident
from gateway.api.context import RequestContext
from gateway.api.endpoint import REPEATABLE_TEXT, Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import page_response, parse_page, slice_page
from gateway.http.responses import HttpResponse
from models.permissions import INCIDENT
from models.policy import require_comment_author
from models.serializers.incidents import preview_recipient_json
from tasks.commands.comments import DeleteComment, EditComment, PostComment, require_few_mentions
from tasks.commands.fields import mention

PREVIEW_PAGE = 100


async def post_comment(context: RequestContext) -> HttpResponse:
    """Post a comment and return 201 with the activity."""
    return await submit_command(context, PostComment, incident=context.incident_number())


async def edit_comment(context: RequestContext) -> HttpResponse:
    """Edit one of the caller's own comments and return 200 with the activity."""
    return await submit_command(context, EditComment, incident=context.incident_number(), path_fields=_comment(context))


async def delete_comment(context: RequestContext) -> HttpResponse:
    """Delete one of the caller's own comments and return 204."""
    return await submit_command(
        context, DeleteComment, incident=context.incident_number(), path_fields=_comment(context), has_body=False
    )


def _comment(context: RequestContext) -> dict[str, str]:
    return {"id": context.path_parameters["comment"]}


async def preview_comment(context: RequestContext) -> HttpResponse:
    """List whom a comment with the given mentions would notify, on which channels and when, without posting it."""
    number = context.incident_number()
    await require_incident(context, number)
    page = parse_page(context.query, default=PREVIEW_PAGE)
    require_few_mentions(context.query.getlist("mentions"))
    recipients = await context.container.previews.recipients(
        context.organization,
        number,
        [mention(each) for each in context.query.getlist("mentions")],
        author=context.actor.user_id,
    )
    return page_response(
        page,
        slice_page(recipients, page, key_of=lambda each: (each.person.id,)),
        key_of=lambda each: (each.person.id,),
        serialize=lambda each: preview_recipient_json(each.person, each.reason, each.channels),
        url=context.url,
        query=context.query,
    )


ENDPOINTS = (
    # This endpoint comes before that of a single comment, whose path pattern it matches.
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/preview/",
        {
            "GET": Operation(
                preview_comment,
                "Preview whom a comment would notify",
                {200: "Told"},
                parameters=(
                    Parameter("mentions", "A mention, in the same forms as in a comment; repeatable.", REPEATABLE_TEXT),
                ),
                is_list=True,
            )
        },
        tag="incidents",
        permission=INCIDENT,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/",
        {
            "POST": Operation(
                post_comment,
                "Post a comment",
                {201: "Activity"},
                command_class=PostComment,
                path_fields=("incident",),
                is_command=True,
            )
        },
        tag="incidents",
        permission=INCIDENT,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/{comment}/",
        {
            "PUT": Operation(
                edit_comment,
                "Edit a comment",
                {200: "Activity"},
                command_class=EditComment,
                path_fields=("incident", "id"),
                is_command=True,
            ),
            "DELETE": Operation(delete_comment, "Delete a comment", {204: None}, is_command=True),
        },
        tag="incidents",
        permission=INCIDENT,
        precondition=require_comment_author,
    ),
)
