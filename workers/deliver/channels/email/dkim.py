"""Signatures of mails according to DKIM (RFC 6376, RFC 8463), for domains whose mail server does not sign itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from workers.deliver.channels.email.message import split_message
from workers.deliver.channels.email.mime import CRLF

MIN_RSA_BITS: Final = 1024

# RFC 8058 asks for both list-unsubscribe fields. "from" is listed twice, so that a second one breaks the signature.
_SIGNED: Final = (
    "from", "from", "to", "subject", "date", "message-id", "in-reply-to", "references", "list-unsubscribe",
    "list-unsubscribe-post", "mime-version", "content-type",
)  # fmt: skip
_SPACE: Final = re.compile(rb"[ \t]+")
_TRAILING_SPACE: Final = re.compile(rb"[ \t]+(?=\r\n|$)")
_FIELD_END: Final = re.compile(rb"\r\n(?![ \t])")


class InvalidKey(ValueError):
    """Raised when a file does not hold a private key that can sign."""


class DkimSigner:
    """Signs mails for a domain with one private key, RSA or Ed25519."""

    def __init__(self, domain: str, selector: str, key: bytes) -> None:
        """Read the key, in PEM without a password.

        :raises InvalidKey: if there is none.
        """
        try:
            private_key = load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise InvalidKey(f"it is not a private key in PEM without a password: {error}") from None
        if not isinstance(private_key, RSAPrivateKey | Ed25519PrivateKey):
            raise InvalidKey("it is neither an RSA nor an Ed25519 key")
        if isinstance(private_key, RSAPrivateKey) and private_key.key_size < MIN_RSA_BITS:
            raise InvalidKey(f"it has fewer than {MIN_RSA_BITS} bits")
        self._domain = domain
        self._selector = selector
        self._key = private_key

    @classmethod
    def from_file(cls, domain: str, selector: str, path: Path) -> DkimSigner:
        """Return a signer with the key in a file.

        :raises InvalidKey: if the file cannot be read or holds no such key.
        """
        try:
            return cls(domain, selector, path.read_bytes())
        except OSError as error:
            raise InvalidKey(f"it cannot be read: {error.strerror or error}") from None

    def sign(self, message: bytes, at: datetime) -> bytes:
        """Return the message with a signature as its first field."""
        header, body = split_message(message)
        fields = list(_fields(header))
        present = [name for name in _SIGNED if any(_name(field) == name for field in fields)]
        algorithm = "rsa-sha256" if isinstance(self._key, RSAPrivateKey) else "ed25519-sha256"
        body_hash = base64.b64encode(hashlib.sha256(_relaxed_body(body)).digest()).decode()
        unsigned = (
            f"DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed; d={self._domain}; s={self._selector};\r\n"
            f" t={int(at.timestamp())}; h={_folded_names(present)};\r\n"
            f" bh={body_hash};\r\n"
            f" b="
        ).encode()
        remaining = {name: [field for field in fields if _name(field) == name] for name in present}
        signed = b"".join(
            _relaxed_field(remaining[name].pop()) + CRLF for name in present if remaining[name]
        ) + _relaxed_field(unsigned)
        return unsigned + _folded_signature(self._signature(signed)) + CRLF + message

    def _signature(self, signed: bytes) -> bytes:
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(signed, PKCS1v15(), SHA256())
        return self._key.sign(hashlib.sha256(signed).digest())


def _fields(header: bytes) -> Iterator[bytes]:
    yield from (field for field in _FIELD_END.split(header) if field)


def _name(field: bytes) -> str:
    return field.split(b":", 1)[0].strip().lower().decode("ascii")


def _relaxed_field(field: bytes) -> bytes:
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + _SPACE.sub(b" ", value.replace(CRLF, b"")).strip(b" \t")


def _relaxed_body(body: bytes) -> bytes:
    body = _SPACE.sub(b" ", _TRAILING_SPACE.sub(b"", body))
    stripped = body.rstrip(CRLF)
    return stripped + CRLF if stripped else b""


def _folded_names(names: list[str]) -> str:
    middle = len(names) // 2
    return ":".join(names[:middle]) + ":\r\n " + ":".join(names[middle:])


def _folded_signature(signature: bytes) -> bytes:
    encoded = base64.b64encode(signature)
    return b"\r\n ".join(encoded[start : start + 72] for start in range(0, len(encoded), 72))
