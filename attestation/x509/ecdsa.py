"""The one signature scheme of DCAP: ECDSA on P-256 with SHA-256, as raw ``r||s``, in X.509 as DER."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_ECDSA_SHA256: Final = ec.ECDSA(hashes.SHA256())


def is_signature_valid(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Return whether a raw ``r||s`` is ECDSA with SHA-256 over ``data``. Callers raise."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return is_der_signature_valid(key, encode_dss_signature(r, s), data)


def is_der_signature_valid(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Return whether a DER ``ECDSA-Sig-Value`` is ECDSA with SHA-256 over ``data``. Callers raise."""
    try:
        key.verify(signature, data, _ECDSA_SHA256)
    except InvalidSignature:
        return False
    return True
