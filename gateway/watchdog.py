"""When a gateway is deaf: it does not answer at its own door, because its event loop hangs or has lost its socket.

A health check only tells; the watch (:mod:`tasks.watchdog`) ends the process, so that it is started anew.
"""

from __future__ import annotations

import http.client


def is_unresponsive(host: str, port: int, *, within_seconds: float) -> bool:
    """Whether a look at ``/livez`` got no answer in that time; which answer it was does not matter."""
    # Listening everywhere is listening here, and the addresses that mean "everywhere" mean "here" to one who calls.
    connection = http.client.HTTPConnection(host, port, timeout=within_seconds)
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return True
    finally:
        connection.close()
    return False
