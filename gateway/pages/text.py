"""What people wrote, and times, as HTML."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from models.incidents.markdown import to_html
from models.local_time import describe


class CommentRenderer:
    """Renders comments, as mails show them.

    One thread does it for all requests, so that a timeline of texts that take long to parse holds up neither the event
    loop nor more than one processor.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="markdown")

    async def render(self, comments: Sequence[str]) -> list[Markup]:
        """Return each comment as HTML, without scripts and styles. An empty one remains empty."""
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._thread, to_html, each) if each else Markup() for each in comments]


@pass_context
def time_element(context: Context, moment: datetime) -> Markup:
    """Return a ``time`` element that shows the moment in the time zone of the page's reader, to the minute."""
    at = moment.astimezone(UTC).isoformat(timespec="seconds")
    return Markup('<time datetime="{}">{}</time>').format(at, describe(moment, context["zone"]))
