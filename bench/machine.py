"""The environment of a measurement: the machine, and the versions of servers and libraries."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from workers.stack.servers import EmbeddedServers

LIBRARIES = ("celery", "kombu", "sqlalchemy", "psycopg", "starlette", "fastapi", "uvicorn", "uvloop", "redis")


def environment(servers: EmbeddedServers) -> dict[str, dict[str, str]]:
    """Return the facts about the machine and the versions, to be shown at the end of a report.

    The keys are ``machine`` and ``versions``.
    """
    return {"machine": _machine(), "versions": _versions(servers)}


def environment_lines(result: dict[str, Any]) -> list[str]:
    """Return the :func:`environment` in a benchmark result as the lines of a Markdown list."""
    return [
        "* " + ", ".join(f"{name} {value}" for name, value in result[kind].items()) for kind in ("machine", "versions")
    ]


def _machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _versions(servers: EmbeddedServers) -> dict[str, str]:
    with redis.Redis.from_url(servers.redis_url) as valkey:
        facts = valkey.info("server")
    return {
        "python": platform.python_version(),
        "postgres": _postgres_version(servers.database_url),
        "valkey": str(facts.get("valkey_version") or facts["redis_version"]),
        **{library: version(library) for library in LIBRARIES},
    }


def _postgres_version(url: str) -> str:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with engine.connect() as connection:
        return str(connection.execute(text("SHOW server_version")).scalar_one())


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
