"""Imports that cost less time and memory: without garbage collection, and without rich in structlog."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Suspend garbage collection while the block imports modules.

    Module-level objects live as long as the process, so they are also excluded from all later collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_structlog() -> None:
    """Import structlog without rich, if it is not imported yet.

    structlog uses rich for tracebacks on a terminal, and imports it if it is installed. tocsin's logs are JSON
    (:mod:`tasks.log_config`), and each of its processes needs 5 MB less without it. Others may import rich later.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    # With this entry, importing rich fails as if it were not installed.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
