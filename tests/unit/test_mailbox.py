"""Mailboxes: names and addresses, and domains in their ASCII form."""

from __future__ import annotations

import pytest

from models.notifications.mailbox import InvalidAddress, mail_domain, make_mailbox, parse_mailbox


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ana@example.org", "ana@example.org"),
        (" ana@example.org\n", "ana@example.org"),
        ("o'brien+tag@example.org", "o'brien+tag@example.org"),
        ("ana@bücher.example", "ana@xn--bcher-kva.example"),
        ("ana@faß.example", "ana@xn--fa-hia.example"),
        ("ana@BÜCHER。example", "ana@xn--bcher-kva.example"),
        ("ana@[127.0.0.1]", "ana@[127.0.0.1]"),
        ("ana@localhost", "ana@localhost"),
    ],
)
def test_a_domain_gets_its_ascii_form(address: str, expected: str) -> None:
    assert make_mailbox("Ana", address).address == expected


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "@",
            "ana",
            "ana@",
            "@example.org",
            "a b@example.org",
            "ana@a b.org",
            "a@b@example.org",
            "<ana@example.org>",
        ),
        *(
            "ana@example.org>",
            "ana@.example",
            "ana@a..b",
            "ana@-a.example",
            "ana@\u200d.example",
            "a\u200b@example.org",
        ),
        *(
            "ana\r\nRCPT TO:<eve@example.org>@example.org",
            "ana@example.org\x00",
            "ana@[x]",
            "ana@" + "a." * 130 + "org",
        ),
    ],
)
def test_what_is_not_one_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidAddress):
        make_mailbox("Ana", address)


def test_only_an_address_with_other_letters_before_the_at_sign_needs_smtputf8() -> None:
    assert make_mailbox("", "jörg@example.org").needs_smtputf8
    assert not make_mailbox("Jörg", "j@bücher.example").needs_smtputf8


@pytest.mark.parametrize(
    ("text", "name"), [("a@example.org", ""), ("Ana <a@example.org>", "Ana"), ('"Doe, J" <a@example.org>', "Doe, J")]
)
def test_a_mailbox_is_read_with_or_without_a_name(text: str, name: str) -> None:
    mailbox = parse_mailbox(text)

    assert (mailbox.name, mailbox.address) == (name, "a@example.org")


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("alerts.example.org", "alerts.example.org"),
        ("127.0.0.1", "localhost"),
        ("::1", "localhost"),
        ("10.1.2.3", "[10.1.2.3]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
    ],
)
def test_a_host_has_a_domain_for_mail(host: str, domain: str) -> None:
    assert mail_domain(host) == domain
