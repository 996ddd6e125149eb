"""How evidence given over HTTPS is bound to the asker's nonce; used by the node and by whoever checks it."""

from typing import Final

from attestation.encoding.canonical import digest

NONCE_BYTES_MIN: Final = 16
NONCE_BYTES_MAX: Final = 64


def binding_of_nonce(nonce: bytes) -> bytes:
    """Return the 32-byte ``binding`` claim of a ticket made for ``nonce``.

    The domain differs from that of a bond's binding, so evidence asked for here, by anybody, can never be
    shown on a bond.
    """
    return digest("bondstone/api-evidence/v1", nonce)
