"""The check for a free port, and the error that is raised when a process cannot start."""

from __future__ import annotations

import contextlib
import errno
import socket


class StartupError(Exception):
    """Raised when a process cannot start. The error's text is one sentence that states the reason and the fix."""


def free_port(host: str, port: int) -> int:
    """Return the port if it is free, or any free port on the host if ``port`` is 0.

    :raises StartupError: the host is not an address of this machine, or the port is in use or not permitted.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
            bound: int = attempt.getsockname()[1]
            return bound
    except socket.gaierror:
        raise StartupError(f"{host} is not an address of this machine: choose another with --host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
            ) from None
        raise StartupError(
            f"port {port} on {host} cannot be used: {error.strerror}; choose others with --host, --port"
        ) from None
