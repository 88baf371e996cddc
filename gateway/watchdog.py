"""The check by which the gateway's watchdog finds out whether the gateway still responds on its own port.

A gateway stops responding if its event loop is blocked or has lost the listening socket. A health check would only
report this. The watchdog (:mod:`tasks.watchdog`) ends the process, so that the supervisor restarts it.
"""

from __future__ import annotations

import http.client


def is_unresponsive(host: str, port: int, *, within_seconds: float) -> bool:
    """Return whether a request for ``/livez`` gets no response in time. The response's status does not matter."""
    # A gateway that listens on 0.0.0.0 or :: can be reached there, too: connecting to either one means localhost.
    connection = http.client.HTTPConnection(host, port, timeout=within_seconds)
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return True
    finally:
        connection.close()
    return False
