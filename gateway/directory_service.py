"""Import and export of the directory for HTTP requests. They run in threads, because a large document takes seconds."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy.engine import Engine

from gateway.unavailable import TRY_AGAIN, unavailable_if_transient
from models.database.engine import make_engine
from models.directory.importer import DirectoryError, ImportSummary, export_directory, import_directory, read_document
from models.refusals import InvalidFields
from models.types import JSON

TIMEOUTS: Final = {"statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "10s"}


class DirectoryService:
    """Imports and exports the directory over its own database connections."""

    def __init__(self, database_url: str) -> None:
        self._engine: Engine = make_engine(
            database_url, application="tocsin gateway directory", timeouts=TIMEOUTS, pool_size=2
        )

    async def import_document(self, document: bytes) -> ImportSummary:
        """Import a document and return the numbers of entries that were created, changed and left unchanged.

        :raises InvalidFields: if the document is invalid. The exception lists every error.
        :raises Unavailable: if the database is unavailable.
        """
        return await asyncio.to_thread(self._import, document)

    async def export_document(self) -> JSON:
        """Return the stored directory as a document that omits tokens.

        :raises Unavailable: if the database is unavailable.
        """
        return await asyncio.to_thread(self._export)

    def close(self) -> None:
        """Close the database connections."""
        self._engine.dispose()

    def _import(self, document: bytes) -> ImportSummary:
        try:
            # An empty body counts as an empty object, as it does at every endpoint.
            directory = read_document(document or b"{}")
            with unavailable_if_transient(TRY_AGAIN), self._engine.begin() as connection:
                return import_directory(connection, directory)
        except DirectoryError as error:
            raise InvalidFields({"detail": str(error), "places": error.errors}) from None

    def _export(self) -> JSON:
        with unavailable_if_transient(TRY_AGAIN), self._engine.begin() as connection:
            return export_directory(connection)
