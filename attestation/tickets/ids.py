"""Identities in evidence: peers (incarnations) and networks."""

from attestation.encoding.canonical import digest


def peer_id_of_spki(spki_der: bytes) -> bytes:
    """Return the 32-byte id of the incarnation that holds the key of this DER SubjectPublicKeyInfo."""
    return digest("bondstone/peer-id/v1", spki_der)


def network_id_of_name(name: str) -> bytes:
    """Return the 32-byte id of the network with this name."""
    return digest("bondstone/network-id/v1", name)
