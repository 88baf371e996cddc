"""Text that people wrote, as HTML: every character is shown, and web addresses become links."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

_ADDRESS: Final = re.compile(r"""https?://[^\s<>"'`]+""", re.IGNORECASE)
_TRAILING: Final = ".,;:!?)]}*_"


def linkify(text: str) -> Markup:
    """Return the text as HTML in which absolute http and https addresses are links.

    >>> print(linkify("<b> https://x.test/a."))
    &lt;b&gt; <a href="https://x.test/a" rel="nofollow noopener noreferrer">https://x.test/a</a>.
    """
    parts: list[Markup] = []
    end = 0
    for found in _ADDRESS.finditer(text):
        address = found[0].rstrip(_TRAILING)
        if address.partition("//")[2]:
            parts.append(escape(text[end : found.start()]))
            parts.append(Markup('<a href="{0}" rel="nofollow noopener noreferrer">{0}</a>').format(address))
            end = found.start() + len(address)
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def time_element(moment: datetime) -> Markup:
    """Return a ``time`` element that shows the moment in UTC, to the minute."""
    moment = moment.astimezone(UTC)
    shown = f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="seconds"), shown)
