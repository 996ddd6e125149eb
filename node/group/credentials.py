"""Signatures by a member's identity key, for statements that must outlive a connection (the genesis)."""

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.encoding import canonical
from attestation.errors import MalformedError
from attestation.tickets.ids import peer_id_of_spki
from enclave.identity import Identity
from node.peers import Incarnation

SIGNATURE_BYTES_MAX: Final = 512
_DOMAIN: Final = "bondstone/identity-signature/v1"
_ALGORITHM: Final = ec.ECDSA(SHA256())


class IdentityCredentials:
    """Signs as one incarnation and verifies any other's.

    A signature is CBOR ``[SPKI DER, ECDSA DER]`` over ``digest("bondstone/identity-signature/v1", data)``: it
    carries its key, and the key's digest is the signer's id, so no directory of keys is needed.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def sign(self, data: bytes) -> bytes:
        signature = self._identity.private_key.sign(canonical.digest(_DOMAIN, data), _ALGORITHM)
        return canonical.encode([self._identity.spki_der, signature])

    def verify(self, inc: Incarnation, data: bytes, signature: bytes) -> bool:
        """Return whether ``inc`` signed ``data``; a malformed signature gives False."""
        try:
            value = canonical.decode_untrusted(signature, bytes_max=SIGNATURE_BYTES_MAX, items_max=3)
            match value:
                case [bytes(spki), bytes(ecdsa)]:
                    pass
                case _:
                    return False
            if peer_id_of_spki(spki) != inc.id:
                return False
            key = load_der_public_key(spki)
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(ecdsa, canonical.digest(_DOMAIN, data), _ALGORITHM)
        except (MalformedError, InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True
