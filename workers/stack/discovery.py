"""Discovery of a running stack through ``stack.json``, a file in the data directory that holds URLs and process ids."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workers.stack.data_dir import DataDirectory, write_private
from workers.stack.managed_process import StackError
from workers.stack.private_files import read_private
from workers.stack.settings import StackSettings


@dataclass(frozen=True)
class RunningStack:
    """A running stack: the gateway's address, the settings for the stack's processes, and their ids by process name."""

    url: str
    host: str
    port: int
    environment: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)


def publish(data_dir: DataDirectory, running: RunningStack) -> None:
    """Write ``stack.json``, readable only by its owner."""
    write_private(data_dir.path / "stack.json", json.dumps(asdict(running), indent=2) + "\n")


def unpublish(data_dir: DataDirectory) -> None:
    """Remove ``stack.json``."""
    (data_dir.path / "stack.json").unlink(missing_ok=True)


def find_running_stack(data: Path) -> RunningStack | None:
    """Return the stack that runs in the directory `data`, or None. A ``stack.json`` left by a killed stack is ignored.

    :raises StackError: the directory is not readable, or other accounts can change what is in it.
    """
    data_dir = DataDirectory(data)
    try:
        if not data_dir.is_locked():
            return None
        return RunningStack(**json.loads(read_private(data_dir.path / "stack.json")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise StackError(f"{error.filename} cannot be read: run this as the user who started `tocsin up`") from None


def resolve_environment(data: Path, settings: StackSettings | None = None) -> dict[str, str]:
    """Return the servers' URLs by variable name. Those that are not configured come from the stack that runs in `data`.

    :raises StackError: no database is configured, and no stack runs in `data`.
    """
    configured = (settings or StackSettings.from_environment()).environment
    running = find_running_stack(data)
    if running is not None:
        return running.environment | configured
    if "DATABASE_URL" not in configured:
        raise StackError(f"no stack runs in {data}: start it with `tocsin up --data {data}`, or set DATABASE_URL")
    return configured
