"""Bearer tokens: how they are made, and which part of them is stored.

A plain SHA-256 is right here, and a password hash would be wrong: ``new_token`` makes tokens of 256 random
bits, which nobody can guess, and every request is checked.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import MalformedError
from attestation.x509.certificates import split_pem_untrusted
from node.system.grants import AccessRole as AccessRole  # noqa: PLC0414 - also a word of documents

PRINCIPALS_MAX: Final = 256
TOKEN_PREFIX: Final = "bst_"  # noqa: S105 - a public prefix, so that secret scanners can find leaked tokens
TOKEN_RANDOM_BYTES: Final = 32
TOKEN_CHARACTERS_MAX: Final = 512


def spki_digest(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the DER SubjectPublicKeyInfo."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def certificate_of_pem(text: str) -> x509.Certificate:
    """Return the only certificate that a PEM text holds: of several, readers would choose different ones.

    Raises:
        ValueError: the text holds no certificate or more than one, or it cannot be parsed.
    """
    try:
        (der,) = split_pem_untrusted(text.encode(), role="client", count_max=1)
    except MalformedError as exc:
        raise ValueError(exc.message) from exc
    return x509.load_der_x509_certificate(der)


def new_token() -> str:
    """Return a new token with 256 random bits. Show it once; store ``hash_token`` of it."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_RANDOM_BYTES)


def hash_token(token: str) -> str:
    """Return what a list stores for a token: 64 lower-case hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def render_token_entry(
    name: str,
    token: str,
    roles: Iterable[AccessRole],
    *,
    prefixes: Iterable[str] = (),
    expires_at: str | None = None,
) -> str:
    """Return the ``[[access.token]]`` table for a group document. ``expires_at``: a TOML date and time."""
    lines = [
        "[[access.token]]",
        f'name = "{name}"',
        f'sha256 = "{hash_token(token)}"',
        f"roles = {_listed(role.value for role in roles)}",
    ]
    if limits := list(prefixes):
        lines.append(f"prefixes = {_listed(limits)}")
    if expires_at is not None:
        lines.append(f"expires_at = {expires_at}")
    return "\n".join(lines) + "\n"


def _listed(texts: Iterable[str]) -> str:
    # A JSON string is a TOML basic string too.
    return json.dumps(list(texts), ensure_ascii=True)
