"""Comments on incidents."""

from __future__ import annotations

from gateway.addresses import Address, Operation
from gateway.answers import Answer
from gateway.asking import ask
from gateway.visit import Visit
from models.policy import INCIDENT
from tasks.commands import PostComment


async def post_comment(visit: Visit) -> Answer:
    """Ask for a comment; 201 with the activity once a worker has written it."""
    return await ask(visit, PostComment, incident=visit.incident_number())


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
)
