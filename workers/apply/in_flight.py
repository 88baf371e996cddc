"""The record of the batch that a worker is applying. If the worker dies, other workers find out from this record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from models.database.errors import is_transient
from models.messaging.attempts import clear_in_flight, lock_worker, record_in_flight


@dataclass(slots=True)
class InFlightBatch:
    """The record of a worker's batch, written by a database session that lives as long as the process.

    The session holds the worker's lock, so an error in a batch's transaction does not release it. The transaction holds
    the lock as well, in case the session is lost. ``engine`` commits each statement at once.
    """

    engine: Engine
    worker: str
    _session: Connection | None = field(default=None, init=False)

    def record(self, ids: Sequence[UUID]) -> None:
        """Record the commands that the worker is about to apply."""
        try:
            self._record(ids)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            # The session may have been lost while it was idle.
            self._record(ids)

    def _record(self, ids: Sequence[UUID]) -> None:
        with self._closing_after_errors() as session:
            record_in_flight(session, self.worker, ids)

    def clear(self) -> None:
        """Delete the record."""
        with self._closing_after_errors() as session:
            clear_in_flight(session, self.worker)

    def close(self) -> None:
        """Delete the record and end the session, and with it the lock."""
        if self._session is not None:
            with contextlib.suppress(Exception):
                clear_in_flight(self._session, self.worker)
            self._end_session()

    def _end_session(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            with contextlib.suppress(Exception):
                session.invalidate()
            session.close()

    @contextlib.contextmanager
    def _closing_after_errors(self) -> Iterator[Connection]:
        """Yield the session, which is opened and locked first if necessary."""
        try:
            if self._session is None:
                self._session = self.engine.connect()
                lock_worker(self._session, self.worker)
            yield self._session
        except BaseException:
            # The session may have been interrupted within a statement, so its state is unknown.
            self._end_session()
            raise
