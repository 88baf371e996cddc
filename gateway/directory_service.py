"""The directory over HTTP: the document in and out, in threads, since a large one takes seconds."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy.engine import Engine

from models.database.engine import is_transient, make_engine
from models.directory.importer import DirectoryError, ImportSummary, export_directory, import_directory, read_document
from models.enums import JSON
from models.refusals import InvalidFields, Unavailable

TIMEOUTS: Final = {"statement_timeout": "30s", "lock_timeout": "10s"}


class DirectoryService:
    """Imports and exports on connections of its own."""

    def __init__(self, database_url: str) -> None:
        self._engine: Engine = make_engine(
            database_url, application="tocsin gateway directory", timeouts=TIMEOUTS, pool_size=2
        )

    async def bring_in(self, document: bytes) -> ImportSummary:
        """Import a document and say what was created, changed and left.

        :raises InvalidFields: it does not fit; every place is named.
        :raises Unavailable: the database is away.
        """
        return await asyncio.to_thread(self._bring_in, document)

    async def bring_out(self) -> JSON:
        """The stored directory, without tokens.

        :raises Unavailable: the database is away.
        """
        return await asyncio.to_thread(self._bring_out)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _bring_in(self, document: bytes) -> ImportSummary:
        try:
            # An empty body is an empty object, here as elsewhere.
            read = read_document(document or b"{}")
            with self._engine.begin() as connection:
                return import_directory(connection, read)
        except DirectoryError as error:
            raise InvalidFields({"detail": str(error), "places": error.errors}) from None
        except Exception as fault:
            raise (_away() if is_transient(fault) else fault) from fault

    def _bring_out(self) -> JSON:
        try:
            with self._engine.begin() as connection:
                return export_directory(connection)
        except Exception as fault:
            raise (_away() if is_transient(fault) else fault) from fault


def _away() -> Unavailable:
    return Unavailable("Temporarily unavailable; try again.")
