"""Comments on incidents: posted, edited, taken back."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import TEXTS, Endpoint, Operation, Parameter
from gateway.api.submit import ask, require_incident
from gateway.http.pagination import page_response, parse_page, slice_page
from gateway.http.responses import HttpResponse
from models.policy import INCIDENT, require_comment_author
from models.serializers import preview_recipient_json
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.fields import mention

PREVIEW_PAGE = 100


async def post_comment(visit: RequestContext) -> HttpResponse:
    """Ask for a comment; 201 with the activity once a worker has written it."""
    return await ask(visit, PostComment, incident=visit.incident_number())


async def edit_comment(visit: RequestContext) -> HttpResponse:
    """Ask for one's own comment to say something else; 200 with the activity."""
    return await ask(visit, EditComment, incident=visit.incident_number(), in_address=_comment(visit))


async def delete_comment(visit: RequestContext) -> HttpResponse:
    """Ask for one's own comment to be taken back; 204."""
    return await ask(visit, DeleteComment, incident=visit.incident_number(), in_address=_comment(visit), has_body=False)


def _comment(visit: RequestContext) -> dict[str, str]:
    return {"id": visit.parameters["comment"]}


async def preview_comment(visit: RequestContext) -> HttpResponse:
    """Who would be told by a comment with these mentions; nothing is posted."""
    number = visit.incident_number()
    await require_incident(visit, number)
    page = parse_page(visit.query, default=PREVIEW_PAGE)
    told = await visit.services.previews.recipients(
        visit.organization,
        number,
        [mention(each) for each in visit.query.getlist("mentions")],
        author=visit.actor.user_id,
    )
    return page_response(
        page,
        slice_page(told, page, key=lambda each: (each.person.id,)),
        key=lambda each: (each.person.id,),
        shape=lambda each: preview_recipient_json(each.person, each.reason),
        url=visit.url,
        query=visit.query,
    )


ADDRESSES = (
    # Before addresses of single comments: "preview" is none.
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/preview/",
        {
            "GET": Operation(
                preview_comment,
                "Preview who a comment would tell",
                {200: "Told"},
                parameters=(
                    Parameter("mentions", "Whom the comment would mention, repeatable; forms as on posting.", TEXTS),
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
