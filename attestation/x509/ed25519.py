"""Which bytes are an Ed25519 key under which a signature means something (RFC 8032 5.1.3, and what it lacks).

OpenSSL takes any 32 bytes. Under a point of small order a signature that nobody made verifies for many
messages; under bytes that are no point none does, and whoever loaded them would admit nobody.
"""

from typing import Final

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
"""The points whose order divides 8, by their y: with either sign of x."""


def unusable_key(raw: bytes) -> str | None:
    """Return what is wrong with a public key of 32 bytes, as the rest of a sentence; None if nothing is."""
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
