"""Mailboxes: a person's name and an e-mail address whose domain has its ASCII form."""

from __future__ import annotations

import ipaddress
import re
from email.utils import getaddresses
from typing import Final, NamedTuple

MAX_LOCAL_BYTES: Final = 64
MAX_DOMAIN_CHARACTERS: Final = 253

_LOCAL: Final = re.compile(r'[^\s\x00-\x1f\x7f()<>@,;:\\"\[\]]+')
_HOST: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_LITERAL: Final = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f.:]+\]")


class InvalidAddress(ValueError):
    """Raised when a text is not an e-mail address. The message says why, and quotes the text."""


class Mailbox(NamedTuple):
    """A display name, which may be empty, and an address. ``domain`` is ASCII; ``local`` may not be."""

    name: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """The address in the form in which it is sent."""
        return f"{self.local}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only servers with the extension SMTPUTF8 accept the address."""
        return not self.local.isascii()


def make_mailbox(name: str, address: str) -> Mailbox:
    """Return the mailbox with this name and address. The domain is converted to A-labels according to IDNA 2008.

    :raises InvalidAddress: if it is not one address, or if it has comments or quotes.
    """
    local, at, domain = address.strip().rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or not local.isprintable():
        raise InvalidAddress(f"{address!r} is not an e-mail address")
    if len(local.encode(errors="replace")) > MAX_LOCAL_BYTES:
        raise InvalidAddress(f"{address!r} has more than {MAX_LOCAL_BYTES} bytes before the @")
    try:
        return Mailbox(name, local, ascii_domain(domain))
    except ValueError as error:
        raise InvalidAddress(f"{address!r} is not an e-mail address: {error}") from None


def parse_mailbox(text: str) -> Mailbox:
    """Return the mailbox in a text such as ``tocsin@example.org`` or ``Tocsin <tocsin@example.org>``.

    :raises InvalidAddress: if the text has another form.
    """
    found = getaddresses([text])
    if len(found) != 1:
        raise InvalidAddress(f"{text!r} is not one e-mail address")
    name, address = found[0]
    return make_mailbox(name, address or text)


def ascii_domain(domain: str) -> str:
    """Return a domain in its ASCII form, with A-labels.

    >>> ascii_domain("faß.example")
    'xn--fa-hia.example'

    :raises ValueError: if it is not a valid domain.
    """
    if not domain.isascii():
        import idna

        # The standard library's codec implements IDNA 2003, which maps some names to other people's domains.
        domain = idna.encode(domain, uts46=True).decode()
    if len(domain) > MAX_DOMAIN_CHARACTERS or not (_HOST.fullmatch(domain) or _LITERAL.fullmatch(domain)):
        raise ValueError(f"{domain!r} is not a domain")
    if any(len(label) > 63 for label in domain.split(".")):
        raise ValueError(f"a label of {domain!r} has more than 63 characters")
    return domain


def mail_domain(host: str) -> str:
    """Return the domain of e-mail addresses at the host of a URL. An IP address becomes an address literal.

    :raises ValueError: if it is not a valid host.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ascii_domain(host)
    if address.is_loopback:
        return "localhost"
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"
