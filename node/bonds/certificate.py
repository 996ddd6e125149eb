"""The certificate that a peer shows in TLS: self-signed, P-256, no authority behind it.

TLS has proved that the peer holds the key; all else follows from evidence about that key. Names, dates and
extensions are therefore not judged: the peer writes them itself, and the host's clock must not decide here.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.tickets.ids import peer_id_of_spki
from node.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKey:
    """A key that the peer proved to hold.

    Attributes:
        peer_id: 32 bytes.
        spki_der: canonical DER of the SubjectPublicKeyInfo (uncompressed point).
    """

    peer_id: bytes
    spki_der: bytes


def peer_key_untrusted(certificate_der: bytes) -> PeerKey:
    """Return the key of a peer's certificate.

    Raises:
        RemoteProtocolError: ``peer-certificate``.
    """
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        key = certificate.public_key()
        signature_hash = certificate.signature_hash_algorithm
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RemoteProtocolError("peer-certificate", "the peer's key is not P-256")
        if not isinstance(signature_hash, SHA256):
            raise RemoteProtocolError("peer-certificate", "signed otherwise than ecdsa-with-SHA256")
        # This also checks that issuer and subject are the same name.
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise RemoteProtocolError("peer-certificate", "not a self-signed certificate") from exc
    except Exception as exc:
        if isinstance(exc, RemoteProtocolError):
            raise
        # cryptography can also raise UnsupportedAlgorithm, and parser errors of its own.
        raise RemoteProtocolError("peer-certificate", "a certificate that cannot be read") from exc
    # Encoded again, so that one key has one id, whatever form its point had in the certificate.
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PeerKey(peer_id=peer_id_of_spki(spki), spki_der=spki)
