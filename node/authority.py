"""The group's authority: keys outside the group whose signatures count for it.

They are in the group document, and so in the GroupId. A statement counts when ``threshold`` of the keys have
signed it. Keys are Ed25519 (RFC 8032) or ECDSA on P-256 with SHA-256 (``es256``, RFC 7518 3.4: 64 bytes, r
and s).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from attestation.x509.ecdsa import is_signature_valid
from attestation.x509.ed25519 import unusable_key
from node.errors import NodeError

KEYS_MAX: Final = 16
KID_CHARACTERS_MAX: Final = 64
SIGNATURE_BYTES: Final = 64
SPKI_BYTES_MAX: Final = 256
"""An uncompressed P-256 key takes 91 bytes."""

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class AuthorityError(NodeError):
    """A key cannot be used, or signatures do not suffice. ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityKey:
    """One key.

    Attributes:
        kid: its name, 1 to 64 characters.
        algorithm: ``ed25519`` or ``es256``.
        spki: DER SubjectPublicKeyInfo.
    """

    kid: str
    algorithm: str
    spki: bytes

    @classmethod
    def of(cls, kid: str, spki: bytes) -> "AuthorityKey":
        """Return the key that ``spki`` holds.

        Raises:
            AuthorityError: ``authority-key-unusable``: of another type, malformed, or a key with which anyone
                could sign.
        """
        algorithm, _ = _load(kid, spki)
        return cls(kid=kid, algorithm=algorithm, spki=spki)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """``threshold`` of ``keys`` must sign. The keys are sorted by id, and distinct.

    Raises:
        ValueError: from the constructor, if the keys are not so, or no signatures could suffice.
    """

    threshold: int
    keys: tuple[AuthorityKey, ...]

    def __post_init__(self) -> None:
        kids = [key.kid for key in self.keys]
        spkis = {key.spki for key in self.keys}
        if kids != sorted(set(kids)) or len(spkis) != len(self.keys):
            raise ValueError("an authority's keys are sorted by id and distinct")
        if not 1 <= self.threshold <= len(self.keys) <= KEYS_MAX:
            raise ValueError(f"an authority has 1 to {KEYS_MAX} keys and a threshold among them")

    def require_signed(self, digest: bytes, signatures: Iterable[tuple[str, bytes]]) -> None:
        """Require that ``threshold`` of the keys have signed ``digest``, and that no other key has.

        Args:
            digest: 32 bytes.
            signatures: key id and signature.

        Raises:
            AuthorityError: ``authority-signature-repeated``, ``authority-key-unknown``,
                ``authority-signature-invalid``, ``authority-threshold``.
        """
        by_kid = {key.kid: key for key in self.keys}
        signed: set[str] = set()
        for kid, signature in signatures:
            if kid in signed:
                raise AuthorityError("authority-signature-repeated", f"key {kid} has signed twice")
            key = by_kid.get(kid)
            if key is None:
                raise AuthorityError(
                    "authority-key-unknown", "a signature is by a key that is not the authority's"
                )
            if not _is_valid(key, signature, digest):
                raise AuthorityError(
                    "authority-signature-invalid", f"the signature of key {kid} does not verify"
                )
            signed.add(kid)
        if len(signed) < self.threshold:
            raise AuthorityError(
                "authority-threshold",
                f"{len(signed)} of the authority's keys have signed, {self.threshold} must",
            )

    def kid_of(self, key: PrivateKey) -> str:
        """Return the id under which this private key's public half is listed.

        Raises:
            AuthorityError: ``authority-key-unknown``.
        """
        spki = spki_of(key)
        for listed in self.keys:
            if listed.spki == spki:
                return listed.kid
        raise AuthorityError("authority-key-unknown", "this private key is not one of the group's authority")


def sign(key: PrivateKey, digest: bytes) -> bytes:
    """Return the 64-byte signature over 32 bytes."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(digest)
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def spki_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_private_key_pem() -> tuple[PrivateKey, bytes]:
    """Return a new Ed25519 key, and its PEM (PKCS #8, not encrypted)."""
    key = ed25519.Ed25519PrivateKey.generate()
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """Return the key in a PEM file.

    Raises:
        AuthorityError: ``authority-key-unusable``: of another type, or unreadable with this passphrase.
    """
    try:
        key = load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        text = "there is no PEM private key that can be read with this passphrase"
        raise AuthorityError("authority-key-unusable", text) from exc
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise AuthorityError("authority-key-unusable", "the private key is neither an Ed25519 nor a P-256 key")


def render_authority(kid: str, key: PrivateKey) -> str:
    """Return the ``[authority]`` table with only this key, for a group document."""
    return f'[authority]\nthreshold = 1\nkeys = [{{ id = "{kid}", key = "{spki_of(key).hex()}" }}]\n'


def authority_of(threshold: int, keys: Sequence[AuthorityKey]) -> Authority:
    """Return the authority of these keys, which may be in any order. Raises as ``Authority``."""
    return Authority(threshold=threshold, keys=tuple(sorted(keys, key=lambda key: key.kid)))


def _is_valid(key: AuthorityKey, signature: bytes, digest: bytes) -> bool:
    if len(signature) != SIGNATURE_BYTES:
        return False
    _, public = _load(key.kid, key.spki)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return is_signature_valid(public, signature, digest)
    try:
        public.verify(signature, digest)
    except InvalidSignature:
        return False
    return True


def _load(kid: str, spki: bytes) -> tuple[str, PublicKey]:
    if len(spki) > SPKI_BYTES_MAX:
        raise _unusable(kid, f"is larger than {SPKI_BYTES_MAX} bytes")
    try:
        key = load_der_public_key(spki)
    except Exception as exc:  # cryptography raises several kinds, one of them not from its own tree
        raise _unusable(kid, "is not a readable SubjectPublicKeyInfo") from exc
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "es256"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        if (wrong := unusable_key(key.public_bytes_raw())) is not None:
            raise _unusable(kid, wrong)
        algorithm = "ed25519"
    else:
        raise _unusable(kid, "is neither an Ed25519 nor a P-256 key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise _unusable(kid, "is not the one encoding of its key")
    return algorithm, key


def _unusable(kid: str, text: str) -> AuthorityError:
    return AuthorityError("authority-key-unusable", f"authority key {kid} {text}")
