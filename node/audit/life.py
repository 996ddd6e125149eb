"""The owner of the events: the first event of each life of a node is signed by its incarnation key.

::

    {"kind": "life-begun", "name": …, "peer_id": HEX, "spki": HEX, "signature": HEX, …}

``signature`` is ECDSA P-256 with SHA-256, DER, over ``digest("bondstone/audit-life/v1", seq, prev, at, name,
spki)``; ``peer_id`` is the id of ``spki``. So it is valid only for this life at this place. The audit logs of
peers, and any client that has verified the node's evidence, hold the peer ids of its lives. Events under
another peer id were not written by the node.

The signature does not protect the rest of a life: the host, which has the disk, can cut events off, and write
others behind those that are left. A kept hash (``audit verify --head``) reveals that.
"""

from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.encoding.canonical import digest
from attestation.tickets.ids import peer_id_of_spki
from attestation.x509.ecdsa import is_der_signature_valid
from enclave.identity import Identity

KIND: Final = "life-begun"
DOMAIN: Final = "bondstone/audit-life/v1"
_SPKI_HEX_MAX: Final = 512
_SIGNATURE_HEX_MAX: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLife:
    """A life whose first event is signed.

    Attributes:
        seq: of that event.
        peer_id: of the incarnation, hex.
    """

    seq: int
    peer_id: str
    name: str


class LifeError(Exception):
    """The event is not signed by the incarnation that it names."""


def signed_fields(identity: Identity, *, seq: int, prev: str, at: str) -> dict[str, Any]:
    """Return the fields of the first event of this identity's life, for this place in the chain."""
    spki = identity.spki_der.hex()
    message = digest(DOMAIN, seq, prev, at, identity.name, spki)
    signature = identity.private_key.sign(message, ec.ECDSA(hashes.SHA256()))
    return {
        "name": identity.name,
        "peer_id": identity.peer_id.hex(),
        "spki": spki,
        "signature": signature.hex(),
    }


def life_untrusted(event: dict[str, Any]) -> SignedLife | None:
    """Return the life that a checked event begins; None for an event of another kind.

    Raises:
        LifeError: the event claims to begin a life, but its signature does not prove it.
    """
    if event["kind"] != KIND:
        return None
    name, peer_id = event.get("name"), event.get("peer_id")
    spki, signature = event.get("spki"), event.get("signature")
    if not isinstance(name, str) or not isinstance(peer_id, str) or not isinstance(event["at"], str):
        raise LifeError("lacks its name, peer id or time")
    try:
        key_der, signed = _hex(spki, _SPKI_HEX_MAX), _hex(signature, _SIGNATURE_HEX_MAX)
        key = load_der_public_key(key_der)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise LifeError("holds no key and signature") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise LifeError("holds a key that is not on P-256")
    if peer_id_of_spki(key_der).hex() != peer_id:
        raise LifeError("names another incarnation than its key's")
    message = digest(DOMAIN, event["seq"], event["prev"], event["at"], name, spki)
    if not is_der_signature_valid(key, signed, message):
        raise LifeError("is not signed by the incarnation that it names")
    return SignedLife(seq=event["seq"], peer_id=peer_id, name=name)


def _hex(value: object, characters_max: int) -> bytes:
    if not isinstance(value, str) or len(value) > characters_max:
        raise ValueError("no hex text of this length")
    return bytes.fromhex(value)
