"""Signatures, which dkimpy verifies."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.builders import NOW
from tests.delivery.email.mails import a_mail, an_update, incident_updates, raw_field
from tests.delivery.email.readers import dkim_verifies
from workers.deliver.channels.email.dkim import DkimSigner, InvalidKey
from workers.deliver.channels.email.message import render

Key = RSAPrivateKey | Ed25519PrivateKey
COMMENTS = ["Short", "Süd  two blanks \n\n.\ntrailing blanks   \n\n\n" + "ü" * 3000]


def test_a_signature_covers_the_headers_for_unsubscribing() -> None:
    message = signer(a_key("ed25519")).sign(render(a_mail()), NOW)

    signature = raw_field(message, "DKIM-Signature").replace("\r\n ", "")
    names = signature.split("h=")[1].split(";")[0].split(":")
    assert {"from", "subject", "message-id", "references", "list-unsubscribe", "list-unsubscribe-post"} <= set(names)
    assert names.count("from") == 2


def test_a_signed_mail_is_the_mail_after_one_more_field() -> None:
    unsigned = render(a_mail())

    message = signer(a_key("rsa")).sign(unsigned, NOW)

    assert message.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.test; s=mail;\r\n")
    assert message.endswith(unsigned)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("comment", COMMENTS)
def test_another_program_verifies_a_signature(kind: str, comment: str) -> None:
    key = a_key(kind)
    updates = incident_updates(
        an_update(comment), title="Überlauf " * 12, unsubscribe_url="https://a.test/" + "u" * 400
    )

    message = signer(key).sign(render(a_mail(updates)), NOW)

    assert dkim_verifies(message, dns_record(key))


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"left a comment", b"left no comment"), (b"Subject: A", b"Subject: B"), (b"List-Unsub", b"List-unsub-x")],
)
def test_a_changed_mail_is_not_verified(before: bytes, after: bytes) -> None:
    key = a_key("rsa")
    message = signer(key).sign(render(a_mail()), NOW)

    changed = message.replace(before, after, 1)

    assert changed != message
    assert not dkim_verifies(changed, dns_record(key))


def test_a_file_without_a_key_that_can_sign_is_refused(tmp_path: Path) -> None:
    text, curve = tmp_path / "text.pem", tmp_path / "curve.pem"
    text.write_text("no key")
    curve.write_bytes(generate_ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    for path in (text, curve, tmp_path / "missing.pem"):
        with pytest.raises(InvalidKey):
            DkimSigner.from_file("example.test", "mail", path)


def a_key(kind: str) -> Key:
    return generate_private_key(65537, 2048) if kind == "rsa" else Ed25519PrivateKey.generate()


def signer(key: Key) -> DkimSigner:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return DkimSigner("example.test", "mail", pem)


def dns_record(key: Key) -> str:
    if isinstance(key, RSAPrivateKey):
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"
