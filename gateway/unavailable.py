"""Turning transient errors into the refusal 503."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from models.database.errors import is_transient
from models.refusals import Unavailable

TRY_AGAIN: Final = "Temporarily unavailable; try again."


@contextmanager
def unavailable_if_transient(detail: str | None = None) -> Iterator[None]:
    """Raise ``Unavailable`` in place of a transient error, with this detail if it is given. Other errors pass.

    :raises Unavailable: if the block raised an error that a retry may resolve.
    """
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        raise (Unavailable() if detail is None else Unavailable(detail)) from error
