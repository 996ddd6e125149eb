"""How evidence sent over HTTPS is bound to the client's nonce. The node and the verifier both use this."""

from typing import Final

from attestation.encoding.canonical import digest

NONCE_BYTES_MIN: Final = 16
NONCE_BYTES_MAX: Final = 64


def binding_of_nonce(nonce: bytes) -> bytes:
    """Return the 32-byte ``binding`` claim of a ticket made for ``nonce``.

    A bond's binding has another domain, so no peer accepts on a bond evidence that was made for a client.
    """
    return digest("bondstone/api-evidence/v1", nonce)
