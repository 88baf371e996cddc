"""Finding a running stack: ``DIR/stack.json`` names its settings and processes for every other command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workers.stack.data_dir import DataDirectory, write_private
from workers.stack.managed_process import StackError
from workers.stack.settings import StackSettings


@dataclass(frozen=True)
class RunningStack:
    """A running stack: where it answers, the settings that lead to its servers, its processes by part."""

    url: str
    host: str
    port: int
    environment: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)


def publish(folder: DataDirectory, running: RunningStack) -> None:
    """Let others find the stack; the file is readable by its owner alone."""
    write_private(folder.path / "stack.json", json.dumps(asdict(running), indent=2) + "\n")


def unpublish(folder: DataDirectory) -> None:
    """Let nobody find the stack any more."""
    (folder.path / "stack.json").unlink(missing_ok=True)


def find_running_stack(data: Path) -> RunningStack | None:
    """The stack that runs on `data`; a file that a killed stack left behind counts for nothing.

    :raises StackError: the folder cannot be read by us.
    """
    folder = DataDirectory(data)
    try:
        if not folder.is_locked():
            return None
        return RunningStack(**json.loads((folder.path / "stack.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise StackError(f"{error.filename} cannot be read: run this as the user who started `tocsin up`") from None


def resolve_environment(data: Path, settings: StackSettings | None = None) -> dict[str, str]:
    """The settings that lead to the servers: configured URLs, and for the rest the stack that runs on `data`.

    :raises StackError: no database is configured, and nothing runs there.
    """
    configured = (settings or StackSettings.from_environment()).environment
    running = find_running_stack(data)
    if running is not None:
        return running.environment | configured
    if "DATABASE_URL" not in configured:
        raise StackError(f"nothing runs on {data}: start it with `tocsin up --data {data}`, or set DATABASE_URL")
    return configured
