"""Who exists, as one document: for operators."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.http.parsing import LARGE_BODY_LIMIT
from gateway.http.responses import HttpResponse, json_response
from models.enums import OpsRole


async def import_directory(visit: RequestContext) -> HttpResponse:
    """Bring the directory to what the document says, all or nothing; in force for every later request."""
    return json_response(200, await visit.services.directory.bring_in(visit.body))


async def export_directory(visit: RequestContext) -> HttpResponse:
    """The directory as a document that imports again."""
    return json_response(200, await visit.services.directory.bring_out())


ADDRESSES = (
    Endpoint(
        "/api/0/directory/",
        {
            "GET": Operation(export_directory, "Export the directory", {200: "Directory"}),
            "PUT": Operation(import_directory, "Import a directory", {200: "DirectorySummary"}, body="Directory"),
        },
        tag="directory",
        ops_role=OpsRole.ADMIN,
        body_limit=LARGE_BODY_LIMIT,
    ),
)
