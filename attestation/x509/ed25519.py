"""Which bytes are an Ed25519 key that gives signatures a meaning (RFC 8032 5.1.3, and a check that it lacks).

OpenSSL accepts any 32 bytes. Under a point of small order, a forged signature verifies for many messages.
Under bytes that are not a point, no signature verifies, and a verifier with that key would admit no peer.
"""

from typing import Final

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
"""The points whose order divides 8, by their y: with either sign of x."""


def unusable_key(raw: bytes) -> str | None:
    """Return the fault of a public key of 32 bytes, as the rest of a sentence; None if it has no fault."""
    if len(raw) != 32:
        return "has not 32 bytes"
    encoded = int.from_bytes(raw, "little")
    y = encoded & (2**255 - 1)
    if y % _P in _SMALL_ORDER_Y:
        return "is a point of small order: anybody could sign with it"
    # x² = (y² - 1) / (dy² + 1) must have a root (Euler's criterion). x = 0 has small order, and is out.
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if y >= _P or pow(square, (_P - 1) // 2, _P) != 1:
        return "is not the encoding of a point of the curve"
    return None
