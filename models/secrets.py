"""Encryption of stored secrets, and keys for signatures, both derived from ``TOCSIN_SECRET``.

The setting holds one secret, or several separated by commas while they are rotated. The first one encrypts and signs;
all of them decrypt and verify. Each purpose has keys of its own, so a value made for one purpose is invalid for others.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, SignatureExpired, TimestampSigner, URLSafeTimedSerializer

from models.types import JSON

MIN_SECRET_CHARACTERS: Final = 16


class UnreadableSecret(Exception):
    """Raised when a stored secret was encrypted with none of the secrets in ``TOCSIN_SECRET``."""


def parse_secrets(setting: str) -> tuple[str, ...]:
    """Return the secrets in the setting, the current one first.

    :raises ValueError: if there is none, or if one of them is shorter than ``MIN_SECRET_CHARACTERS``.
    """
    secrets = tuple(part for each in setting.split(",") if (part := each.strip()))
    if not secrets:
        raise ValueError("it must not be empty")
    if any(len(each) < MIN_SECRET_CHARACTERS for each in secrets):
        raise ValueError(
            f"each secret must have at least {MIN_SECRET_CHARACTERS} characters; `openssl rand -base64 32` makes one"
        )
    return secrets


class SecretBox:
    """Encrypts texts for one purpose, and decrypts them again."""

    def __init__(self, secrets: tuple[str, ...], purpose: str) -> None:
        """Derive the keys. ``secrets`` is the result of :func:`parse_secrets`."""
        self._purpose = purpose
        self._fernets = MultiFernet(
            [Fernet(base64.urlsafe_b64encode(key)) for key in derive_keys(secrets, f"encrypt {purpose}")]
        )

    def encrypt(self, text: str) -> bytes:
        """Return the text, encrypted and authenticated with the current secret."""
        return self._fernets.encrypt(text.encode())

    def decrypt(self, encrypted: bytes) -> str:
        """Return the text.

        :raises UnreadableSecret: if none of the secrets decrypts it. The message does not contain the text.
        """
        try:
            return self._fernets.decrypt(bytes(encrypted)).decode()
        except InvalidToken:
            raise UnreadableSecret(
                f"a stored {self._purpose} was encrypted with a secret that TOCSIN_SECRET does not contain;"
                " add the old secret after the new one, separated by a comma"
            ) from None

    def reencrypt(self, encrypted: bytes) -> bytes:
        """Return the same text encrypted with the current secret.

        :raises UnreadableSecret: if none of the secrets decrypts it.
        """
        return self.encrypt(self.decrypt(encrypted))


CLOCK_SKEW_SECONDS: Final = 60
"""How far the clock of the process that reads a signed value may be behind that of the process that signed it."""


class InvalidSignature(Exception):
    """Raised when a value was not signed for this purpose with one of the secrets in ``TOCSIN_SECRET``."""


class ExpiredSignature(Exception):
    """Raised when a signed value is too old, or was signed in the future."""


class TimedSigner:
    """Signs JSON values for one purpose, as URL-safe text, and reads them until they expire.

    A signed value can be read by anyone, and the same signature can be spelled in more than one way. Whatever must
    happen only once therefore needs an id inside the value.
    """

    def __init__(
        self,
        secrets: tuple[str, ...],
        purpose: str,
        *,
        max_age_seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Derive the keys. ``secrets`` is the result of :func:`parse_secrets`."""
        if not secrets:
            # itsdangerous would sign with an empty key.
            raise ValueError("TOCSIN_SECRET is not set")
        keys = derive_keys(secrets, f"sign {purpose}")
        self._max_age_seconds = max_age_seconds
        self._writer = _serializer(keys, purpose, clock)
        self._reader = _serializer(keys, purpose, lambda: clock() + CLOCK_SKEW_SECONDS)

    def sign(self, value: JSON) -> str:
        """Return the value, signed with the current secret."""
        return str(self._writer.dumps(value))

    def read(self, text: str) -> JSON:
        """Return the value that was signed.

        :raises InvalidSignature: if it was signed with none of the secrets, or for another purpose.
        :raises ExpiredSignature: if it is older than ``max_age_seconds``.
        """
        try:
            # Without a maximum age, a value from the future would be accepted.
            return self._reader.loads(text, max_age=self._max_age_seconds + CLOCK_SKEW_SECONDS)
        except SignatureExpired:
            raise ExpiredSignature from None
        except BadData:
            raise InvalidSignature from None


def _serializer(keys: list[bytes], purpose: str, clock: Callable[[], float]) -> URLSafeTimedSerializer:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(clock())

    return URLSafeTimedSerializer(
        # itsdangerous signs with the last key.
        list(reversed(keys)),
        salt=purpose.encode(),
        signer=Signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def derive_keys(secrets: tuple[str, ...], purpose: str) -> list[bytes]:
    """Return a 256-bit key per secret, for the purpose (HKDF with SHA-256, RFC 5869)."""
    return [
        HKDF(algorithm=SHA256(), length=32, salt=None, info=f"tocsin {purpose}".encode()).derive(secret.encode())
        for secret in secrets
    ]
