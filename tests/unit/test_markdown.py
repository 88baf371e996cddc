"""Comments as HTML: nothing that a person typed disappears, and nothing acts or loads."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.incidents.markdown import (
    MAX_BRACKETS,
    MAX_CHARACTERS,
    text_content,
    to_html,
    to_text,
    visible_characters,
)

# More than random characters, because Markdown's own rules hide text.
PIECES = st.sampled_from(
    [
        *string.punctuation, *"ab1 \n\t", "\n\n", "**", "```", "~~~", "    ", "- ", "7. ", "3) ", "# ", "---\n", "> ",
        "|", "|-|-|\n", "<b>", "</b>", "<!-- ", " -->", "<script>", "&amp;", "&copy;", "[a](", "![a](", "[a]: ", "<https://",
        "https://a.test/ä%20b", "a@b.test", "\\", "ß", "日", "\u2028", "\x07", "'title'", "~~s~~", "javascript:",
    ]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text())
@example("| a | b |\n|---|---|\n| 1 | 2 | 3 |")
@example("[a]: https://a.test 'title'")
@example("```no code, but a sentence\ncode")
@example("[a](<https://a.test/x y> 'title')")
@example("![description](https://a.test/pixel.png)")
@example("<!here> List<String> &lt; 7. <!-- x --> <style>y</style>")
def test_nothing_that_a_person_typed_disappears(comment: str) -> None:
    assert visible_characters(text_content(to_html(comment))) == visible_characters(comment.replace("\x00", "\ufffd"))


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
@example("[a]()")
def test_no_comment_makes_html_that_loads_or_acts(comment: str) -> None:
    rendered = to_html(comment)

    assert set(re.findall(r"<([a-z0-9]+)", rendered)) <= {
        "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
        "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
    }  # fmt: skip
    assert all(re.match("https?://|mailto:", href) for href in re.findall(r'href="([^"]*)"', rendered))


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("**bold** _it_ ~~no~~ `code`", "<p><strong>bold</strong> <em>it</em> <s>no</s> <code>code</code></p>\n"),
        ("one\ntwo", "<p>one<br>\ntwo</p>\n"),
        ("Disk full\n---", "<p>Disk full</p>\n<hr>\n"),
        ("List<String> x", "<p>List&lt;String&gt; x</p>\n"),
        ("<!here>", "<p>&lt;!here&gt;</p>\n"),
        ("&copy; &lt;", "<p>&amp;copy; &amp;lt;</p>\n"),
        (r"\\server\share", "<p>\\\\server\\share</p>\n"),
        ("3. three\n7. seven", '<ol start="3">\n<li value="3">three</li>\n<li value="7">seven</li>\n</ol>\n'),
        ("```python\nx = 1\n```", '<div class="language">python</div><pre><code>x = 1\n</code></pre>\n'),
        ("<user:12>", "<p>&lt;user:12&gt;</p>\n"),
    ],
)
def test_markdown_becomes_html(comment: str, expected: str) -> None:
    assert to_html(comment) == expected


@pytest.mark.parametrize(
    "comment",
    [
        *("deploy.sh", "app.py", "main.rs", "README.md", "lib.so", "self.id", "java.net", "os.name", "10.0.0.1:8000"),
        *("//host/path", "[page](/relative)", "[x](javascript:alert(1))", "[x](data:text/html,x)", "slack://channel"),
        *("ftp://a.test/x", "[x](//a.test)", "www.a.test"),
    ],
)
def test_no_link_is_made_of_a_file_name_or_of_anything_but_an_absolute_address(comment: str) -> None:
    rendered = to_html(f"See {comment} now")

    assert "<a" not in rendered
    assert text_content(rendered).strip() == f"See {comment} now"


@pytest.mark.parametrize(
    ("comment", "href"),
    [
        ("https://a.test/x?y=1&z=2", "https://a.test/x?y=1&amp;z=2"),
        ("<https://a.test/x>", "https://a.test/x"),
        ("ana@example.com", "mailto:ana@example.com"),
        ("[page](http://a.test/ä)", "http://a.test/%C3%A4"),
        ("![pixel](https://a.test/p.png)", "https://a.test/p.png"),
    ],
)
def test_absolute_addresses_are_links(comment: str, href: str) -> None:
    assert f'<a href="{href}" rel="noopener noreferrer">' in to_html(comment)


def test_a_link_with_its_own_text_shows_where_it_leads() -> None:
    assert text_content(to_html("[our page](https://evil.test/x)")) == "our page (https://evil.test/x)\n"


def test_a_table_keeps_its_alignment() -> None:
    rendered = to_html("| a | b |\n|---|--:|\n| 1 | 2 |")

    assert '<td align="right">2</td>' in rendered
    assert "style" not in rendered


def test_a_comment_of_which_markdown_would_lose_text_is_shown_as_it_was_typed() -> None:
    comment = "| a | b |\n|---|---|\n| 1 | 2 | three |"

    assert to_html(comment) == f'<div class="typed">{comment}</div>'


@pytest.mark.parametrize("comment", ["*" * (MAX_CHARACTERS + 1), "[" * (MAX_BRACKETS + 1)])
def test_a_comment_that_takes_long_to_parse_is_shown_as_it_was_typed(comment: str) -> None:
    assert to_html(comment) == f'<div class="typed">{comment}</div>'


def test_a_comment_is_rendered_once_for_all_its_recipients() -> None:
    comment = "**once** for everybody"

    assert to_html(comment) is to_html(comment)


def test_the_text_form_is_the_comment_as_it_was_typed() -> None:
    assert to_text("\r\n**a**\r\n\r\n    b\rc\n") == "**a**\n\n    b\nc"
