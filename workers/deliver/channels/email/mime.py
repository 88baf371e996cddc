"""Header fields and MIME parts as bytes, in US-ASCII lines of at most 998 characters.

The bytes are written here rather than by :mod:`email`, because a signature and a retry need them unchanged, and because
its folding replaces long URLs and message ids with encoded words that many readers do not decode in these headers.
See docs/decisions/0036-mails-are-written-as-bytes.md.
"""

from __future__ import annotations

import base64
import quopri
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from models.notifications.mailbox import Mailbox

CRLF: Final = b"\r\n"
MAX_LINE: Final = 998
"""How many characters a line may have, without its end (RFC 5322)."""

_FOLD_AT: Final = 76
_WORD_CHARACTERS: Final = 52
"""How many characters of encoded text an encoded word holds. With its frame and a header's name, a line has 76."""

_LINE_ENDS: Final = re.compile(r"\r\n|\r")
_PLAIN_IN_Q: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_NOT_IN_LINE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def one_line(text: str) -> str:
    """Return the text with each run of white space, line ends and control characters replaced by one blank."""
    if text.isprintable():
        return " ".join(text.split())
    return " ".join("".join(" " if unicodedata.category(each) in _NOT_IN_LINE else each for each in text).split())


# --- header fields ---------------------------------------------------------------------------------------------------


def verbatim_field(name: str, value: str) -> bytes:
    """Return a header field whose value is printable ASCII and is not folded, except after the name if it is long."""
    separator = " " if len(name) + 2 + len(value) <= MAX_LINE else "\r\n "
    return f"{name}:{separator}{value}".encode("ascii") + CRLF


def text_field(name: str, text: str) -> bytes:
    """Return a header field with a person's text, folded, and in encoded words if it cannot be written as it is."""
    text = one_line(text)
    words = text.split(" ") if _is_plain(text) else list(_encoded_words(text))
    return _folded(name, words)


def mailbox_field(name: str, mailbox: Mailbox) -> bytes:
    """Return a header field with one mailbox. It is UTF-8 only if the address itself is not ASCII."""
    display_name = one_line(mailbox.name)
    address = f"<{mailbox.address}>" if display_name else mailbox.address
    return _folded(name, [*_phrase(display_name), address])


def _phrase(display_name: str) -> list[str]:
    if not display_name:
        return []
    if not _is_plain(display_name):
        return list(_encoded_words(display_name))
    if _PLAIN_NAME.fullmatch(display_name):
        return display_name.split(" ")
    escaped = display_name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.split(" ")


def _is_plain(text: str) -> bool:
    """Whether a reader shows the text as it is: it is ASCII, can be folded, and does not look like an encoded word."""
    return text.isascii() and "=?" not in text and all(len(word) <= 60 for word in text.split(" "))


def _folded(name: str, words: Sequence[str]) -> bytes:
    lines = [f"{name}:"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _FOLD_AT and not lines[-1].endswith(":"):
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines).encode() + CRLF


def _encoded_words(text: str) -> Iterator[str]:
    """Yield the text as encoded words (RFC 2047). None of them splits a character."""
    in_q = sum(len(_q(each)) for each in text) <= len(_b(text))
    encoding, encode = ("q", _q) if in_q else ("b", _b)
    for chunk in _chunks(text, encode):
        yield f"=?utf-8?{encoding}?{encode(chunk)}?="


def _chunks(text: str, encode: Callable[[str], str]) -> Iterator[str]:
    chunk = ""
    for each in text:
        if len(encode(chunk + each)) > _WORD_CHARACTERS:
            yield chunk
            chunk = ""
        chunk += each
    yield chunk


def _q(text: str) -> str:
    encoded = (chr(byte) if byte in _PLAIN_IN_Q else "_" if byte == 0x20 else f"={byte:02X}" for byte in text.encode())
    return "".join(encoded)


def _b(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- parts -----------------------------------------------------------------------------------------------------------


def text_part(subtype: str, text: str) -> bytes:
    """Return the header and the body of a text part, in quoted-printable, without a final line end."""
    header = (
        verbatim_field("Content-Type", f"text/{subtype}; charset=utf-8"),
        verbatim_field("Content-Transfer-Encoding", "quoted-printable"),
    )
    return b"".join(header) + CRLF + quoted_printable(text)


def alternatives(boundary: str, parts: Sequence[bytes]) -> bytes:
    """Return the fields and the body of a message that consists of alternative parts, worst first."""
    content_type = verbatim_field("Content-Type", f'multipart/alternative; boundary="{boundary}"')
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + CRLF + part + CRLF for part in parts)
    return content_type + CRLF + body + delimiter + b"--" + CRLF


def quoted_printable(text: str) -> bytes:
    """Return the text in quoted-printable, with lines that no mail server changes."""
    content = _LINE_ENDS.sub("\n", text).encode(errors="replace")
    encoded = quopri.encodestring(content)
    if b"From " in encoded:
        encoded = b"\n".join(map(_unchanged_line, encoded.split(b"\n")))
    return encoded.replace(b"\n", CRLF)


def _unchanged_line(line: bytes) -> bytes:
    """Encode the beginning of a line that mailbox files would change, which invalidates a signature."""
    if not line.startswith(b"From "):
        return line
    return b"=46rom " + (line[5:] if len(line) <= _FOLD_AT - 2 else b"=\n" + line[5:])
