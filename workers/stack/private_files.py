"""Files of a data directory, opened without following a link that another account may have put there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_private(path: Path, flags: int) -> int:
    """Open a file of this account, creating it if ``flags`` say so, and return its descriptor.

    :raises OSError: it is a link, it is not a regular file, it has another name elsewhere, or another account owns it.
    """
    # O_NONBLOCK: opening a named pipe would wait for a writer.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and facts.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "it is not a file of this account alone", str(path))


def read_private(path: Path) -> str:
    """Return the text of a file of this account.

    :raises OSError: as :func:`open_private`.
    """
    with os.fdopen(open_private(path, os.O_RDONLY)) as file:
        return file.read()
