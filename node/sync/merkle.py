"""A Merkle tree over the chunks of a snapshot, built like the tree of RFC 9162 (2.1).

    leaf    SHA-256(0x00 || chunk)
    node    SHA-256(0x01 || left || right), split at the largest power of two below the number of leaves

Root and number of leaves together fix every chunk and its place.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

DIGEST_BYTES: Final = 32
PROOF_DIGESTS_MAX: Final = 32  # enough for 2**32 chunks


def leaf_of(chunk: bytes) -> bytes:
    """Return the leaf of a chunk: 32 bytes."""
    return sha256(b"\x00" + chunk).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """A tree over leaves; at least one.

    Attributes:
        root: 32 bytes.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a tree has at least one leaf")
        # Pairing neighbours level by level, and carrying an odd last one up, gives the same tree as the
        # recursive split.
        self._levels = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            above = [_node(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            if len(below) % 2:
                above.append(below[-1])
            self._levels.append(above)
        self.root = self._levels[-1][0]

    def proof(self, number: int) -> tuple[bytes, ...]:
        """Return the digests beside the way from leaf ``number`` to the root, from below."""
        beside = []
        for level in self._levels[:-1]:
            other = number ^ 1
            if other < len(level):
                beside.append(level[other])
            number //= 2
        return tuple(beside)


def is_proven(leaf: bytes, number: int, proof: Sequence[bytes], *, root: bytes, count: int) -> bool:
    """Return whether ``proof`` shows that ``leaf`` is number ``number`` of the tree ``root`` of ``count``."""
    if not 0 <= number < count:
        return False
    digest, rest = leaf, list(proof)
    width = count
    while width > 1:
        if number ^ 1 < width:
            if not rest:
                return False
            beside = rest.pop(0)
            digest = _node(beside, digest) if number % 2 else _node(digest, beside)
        number //= 2
        width = (width + 1) // 2
    return not rest and digest == root
