"""Comments, which are Markdown, as HTML for mails and pages.

Nothing that a person typed disappears: wherever Markdown would hide text, a rule is disabled or the text is shown. If
some text would be lost nevertheless, the comment is shown as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.normalize_url import normalizeLink
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

MAX_CHARACTERS: Final = 10_000
"""Longer comments are shown as they were typed: parsing some texts takes time that is quadratic in their length."""

MAX_BRACKETS: Final = 1_000
"""Comments with more opening brackets are, too: for each of them, the parser looks at the whole rest of the text."""

REMEMBERED: Final = 200
"""How many comments are kept as HTML. A comment is rendered for everybody who is told of it, one after the other."""

_LINK: Final = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)

_TAGS: Final = {
    "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES: Final = {
    "a": {"href"},
    "code": {"class"},
    "div": {"class"},
    "li": {"value"},
    "ol": {"start"},
    "span": {"class"},
    "td": {"align"},
    "th": {"align"},
}
_SCHEMES: Final = {"http", "https", "mailto"}

_HIDING_RULES: Final = (
    "entity",     # &copy; would be another character
    "escape",     # \\server\share would lose a backslash
    "image",      # a mail loads nothing; the description and the address remain as a link
    "lheading",   # a line of dashes below a text would turn the text into a heading
    "reference",  # definitions of links would disappear
)  # fmt: skip


@lru_cache(maxsize=REMEMBERED)
def to_html(comment: str) -> Markup:
    """Return a comment as HTML with absolute links only, and without images, scripts and styles.

    It takes a tenth of a second for some texts. It must not be called by two threads at the same time.
    """
    comment = _normalized(comment)
    if len(comment) > MAX_CHARACTERS or comment.count("[") > MAX_BRACKETS:
        return as_typed(comment)
    rendered = Markup(_clean(_MARKDOWN.render(comment)))  # noqa: S704 - nh3 has cleaned it
    return rendered if visible_characters(comment) == visible_characters(text_content(rendered)) else as_typed(comment)


def to_text(comment: str) -> str:
    """Return a comment as it was typed, with ``\\n`` as line end."""
    return _normalized(comment).strip("\n")


def as_typed(comment: str) -> Markup:
    """Return the comment as preformatted HTML."""
    return Markup('<div class="typed">{}</div>').format(_normalized(comment))


def visible_characters(text: str) -> str:
    """Return the characters of a text without white space and without those that Markdown uses as markers."""
    return _MARKERS_AND_SPACE.sub("", text)


def text_content(rendered: str) -> str:
    """Return the text of HTML, including the numbers of list items."""
    parser = _TextContent()
    parser.feed(rendered)
    parser.close()
    return "".join(parser.texts)


# --- rendering -------------------------------------------------------------------------------------------------------

_MARKERS_AND_SPACE: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f*_~`#>|+=\[\]()!\\:\"'.<-]+")


def _normalized(comment: str) -> str:
    return comment.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "\ufffd")


def _clean(rendered: str) -> str:
    return nh3.clean(
        rendered,
        tags=_TAGS,
        clean_content_tags=set(),
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer",
    )


class _TextContent(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "li":
            self.texts.append(dict(attrs).get("value") or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class _Renderer(RendererHTML):
    """Renders the text that HTML would hide: the targets of links, and the words after the fence of a code block."""

    def link_open(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        target = str(tokens[index].attrs["href"])
        return f'<a href="{escapeHtml(normalizeLink(target))}">' if target else "["

    def link_close(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        opening = _opening(tokens, index)
        shown = "".join(token.content for token in tokens[opening:index])
        target, title = (str(tokens[opening].attrs.get(name, "")) for name in ("href", "title"))
        if not target:
            return f"]({escapeHtml(title)})"
        # A link that names its target needs no second mention.
        if tokens[index].info == "auto" or (not title and shown == target):
            return "</a>"
        described = f"{target} {title}" if title else target
        return f'</a> <span class="target">({escapeHtml(described)})</span>'

    def list_item_open(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        number = tokens[index].info
        return f'<li value="{number}">' if number else "<li>"

    def th_open(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        return _cell(tokens[index])

    def td_open(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        return _cell(tokens[index])

    def fence(self, tokens: Sequence[Token], index: int, *_: Any) -> str:
        info = tokens[index].info.strip()
        label = f'<div class="language">{escapeHtml(info)}</div>' if info else ""
        return f"{label}<pre><code>{escapeHtml(tokens[index].content)}</code></pre>\n"


def _cell(token: Token) -> str:
    # Not a style, which the pages' content security policy forbids, and which some mail programs remove.
    align = str(token.attrs.get("style", "")).removeprefix("text-align:")
    return f'<{token.tag} align="{escapeHtml(align)}">' if align else f"<{token.tag}>"


def _opening(tokens: Sequence[Token], closing: int) -> int:
    """Return the index of the token that opens the link. Links are not nested."""
    return next(index for index in range(closing - 1, -1, -1) if tokens[index].type == "link_open")


def _make_markdown() -> MarkdownIt:
    markdown = MarkdownIt("js-default", {"html": False, "linkify": True, "breaks": True}, renderer_cls=_Renderer)
    markdown.disable(list(_HIDING_RULES))
    linkify = markdown.linkify
    assert linkify is not None  # noqa: S101 - set by the option above
    # File names such as deploy.sh are no web addresses, and //host is relative.
    linkify.set({"fuzzy_link": False, "fuzzy_email": True, "fuzzy_ip": False})
    linkify.add("//", None)
    linkify.add("ftp:", None)
    markdown.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]
    # Links are shown as they were typed. The renderer encodes their targets.
    markdown.normalizeLink = lambda url: url  # type: ignore[method-assign]
    markdown.normalizeLinkText = lambda link: link  # type: ignore[method-assign]
    return markdown


_MARKDOWN: Final = _make_markdown()
