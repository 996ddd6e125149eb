"""Passwords: hashed with scrypt (RFC 7914) before they reach the log.

There is one set of parameters, so that every judgement costs the same, whichever user is named. Another set
would be another ``version``.
"""

import hashlib
import hmac
from typing import Final

from msgspec import Struct

from attestation.encoding.canonical import digest

VERSION: Final = 1
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
PASSWORD_BYTES_MAX: Final = 256
# 32 MiB and about a tenth of a second each.
_N: Final = 2**15
_R: Final = 8
_P: Final = 1
_MEMORY_BYTES_MAX: Final = 64 * 1024 * 1024


class Password(Struct, frozen=True):
    """What is stored of a password."""

    version: int
    salt: bytes
    hash: bytes

    def credential_of(self, name: str) -> bytes:
        """Return the 32-byte credential of the user ``name``: another password, another credential."""
        return digest("bondstone/access-user/v1", name, self.version, self.salt, self.hash)


def hash_password(password: bytes, salt: bytes) -> Password:
    """Return what is stored of ``password``. Blocking and expensive: not for an event loop."""
    return Password(VERSION, salt, _scrypt(password, salt))


def matches(password: bytes, kept: Password) -> bool:
    """Return whether this is the password. Blocking and expensive: not for an event loop."""
    return hmac.compare_digest(_scrypt(password, kept.salt), kept.hash)


def _scrypt(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY_BYTES_MAX, dklen=HASH_BYTES)
