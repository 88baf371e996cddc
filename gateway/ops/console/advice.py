"""What to do about each kind of thing that needs attention, as the overview says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ADVICE: Final[Mapping[str, str]] = {
    "broker": (
        "Restore the broker; it may start empty. Until then commands are accepted, and workers find them more slowly."
    ),
    "no_consumer": "Start a worker for this queue: tocsin worker --lanes NAME. If one runs, read its last log lines.",
    "stalled": "See on Workers what has been in hand for long, then read that worker's last log lines and restart it.",
    "oldest": "More arrives than the workers finish: start more workers, or hold the caller or type that floods it.",
    "relay": "Start a relay: tocsin relay. If one runs, read its last log lines.",
    "notifier": "Start a notifier: tocsin notifier. If one runs, look for notifier.event_deferred in its log.",
    "process": "Read the last log lines on its host, then start it again. Workers says which host that was.",
    "dead": "Read the errors, repair their cause, then requeue the commands, or discard what is obsolete.",
    "hold": "Release it once its reason no longer applies.",
}
"""A sentence for each kind of attention that :mod:`models.operations.overview` reports."""

PAGE_NAMES: Final[Mapping[str, str]] = {
    "/ops/queues/": "Queues",
    "/ops/workers/": "Workers",
    "/ops/dead/?group=1": "Dead letters",
    "/ops/holds/": "Holds",
}
"""What the link of an attention is called."""
