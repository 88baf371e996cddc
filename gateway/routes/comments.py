"""Comments on incidents: posted, edited, taken back."""

from __future__ import annotations

from gateway.addresses import Address, Operation
from gateway.answers import Answer
from gateway.asking import ask
from gateway.visit import Visit
from models.policy import INCIDENT, require_note_author
from tasks.commands import DeleteComment, EditComment, PostComment


async def post_comment(visit: Visit) -> Answer:
    """Ask for a comment; 201 with the activity once a worker has written it."""
    return await ask(visit, PostComment, incident=visit.incident_number())


async def edit_comment(visit: Visit) -> Answer:
    """Ask for one's own comment to say something else; 200 with the activity."""
    return await ask(visit, EditComment, incident=visit.incident_number(), in_address=_comment(visit))


async def delete_comment(visit: Visit) -> Answer:
    """Ask for one's own comment to be taken back; 204."""
    return await ask(visit, DeleteComment, incident=visit.incident_number(), in_address=_comment(visit), has_body=False)


def _comment(visit: Visit) -> dict[str, str]:
    return {"id": visit.parameters["comment"]}


ADDRESSES = (
    Address(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/",
        {
            "POST": Operation(
                post_comment,
                "Post a comment",
                {201: "Activity"},
                message=PostComment,
                in_address=("incident",),
                is_command=True,
            )
        },
        tag="incidents",
        permission=INCIDENT,
    ),
    Address(
        "/api/0/organizations/{organization}/incidents/{identifier}/comments/{comment}/",
        {
            "PUT": Operation(
                edit_comment,
                "Edit a comment",
                {200: "Activity"},
                message=EditComment,
                in_address=("incident", "id"),
                is_command=True,
            ),
            "DELETE": Operation(delete_comment, "Delete a comment", {204: None}, is_command=True),
        },
        tag="incidents",
        permission=INCIDENT,
        welcomes=require_note_author,
    ),
)
