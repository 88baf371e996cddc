"""Endpoints for operators to import and export the directory as one document."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.http.parsing import LARGE_BODY_LIMIT_BYTES
from gateway.http.responses import HttpResponse, json_response
from models.enums import OpsRole


async def import_directory(context: RequestContext) -> HttpResponse:
    """Import a directory document, either completely or not at all. Every later request uses the new directory."""
    # Unknown keys in the document are errors in any case.
    context.ignore_unknown([])
    return json_response(200, await context.container.directory.import_document(context.body))


async def export_directory(context: RequestContext) -> HttpResponse:
    """Export the directory as a document that can be imported again."""
    return json_response(200, await context.container.directory.export_document())


ENDPOINTS = (
    Endpoint(
        "/api/0/directory/",
        {
            "GET": Operation(export_directory, "Export the directory", {200: "Directory"}),
            "PUT": Operation(import_directory, "Import a directory", {200: "DirectorySummary"}, body="Directory"),
        },
        tag="directory",
        ops_role=OpsRole.ADMIN,
        body_limit=LARGE_BODY_LIMIT_BYTES,
    ),
)
