"""What a group agreed on about one snapshot, and the payloads of SNAPSHOT entries.

Payloads are deterministic CBOR arrays:

    []                                                              a marker: take a snapshot here
    [[term, index, chain], Merkle root, chunks, bytes, bytes of a chunk]
                                                                    the evidence about an earlier marker
"""

from typing import Any, Final, NamedTuple

from msgspec import Struct

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.errors import MalformedError
from node.errors import RemoteProtocolError
from node.sync.merkle import DIGEST_BYTES

CHUNK_BYTES_MAX: Final = 1024 * 1024
SNAPSHOT_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
CHUNKS_MAX: Final = 262_144  # a member that fetches keeps something for each, before any has come
MARKER: Final = encode([])
_INTEGER_MAX: Final = 2**63 - 1
_PAYLOAD_BYTES_MAX: Final = 256
_ITEMS_MAX: Final = 16


class Anchor(NamedTuple):
    """A place in the log: the marker at ``index``, written in ``term``, and the chain digest up to it."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no caller uses on an anchor
    chain: bytes


class StateEvidence(Struct, frozen=True):
    """The state of the group at ``anchor``, as a quorum of the voters computed it.

    Attributes:
        anchor: position of the marker entry; the state includes this entry.
        root: of the Merkle tree over the chunks, 32 bytes.
        count: the number of chunks, at least 1.
        size: of all chunks together, in bytes.
        chunk_bytes: of every chunk but the last.
    """

    anchor: Anchor
    root: bytes
    count: int
    size: int
    chunk_bytes: int


def encode_evidence(evidence: StateEvidence) -> bytes:
    """Return the payload of the SNAPSHOT entry with this evidence."""
    return encode(put_evidence(evidence))


def put_evidence(evidence: StateEvidence) -> list[Any]:
    return [list(evidence.anchor), evidence.root, evidence.count, evidence.size, evidence.chunk_bytes]


def decode_snapshot_untrusted(payload: bytes) -> StateEvidence | None:
    """Return the evidence in the payload of a SNAPSHOT entry; None if the entry is a marker.

    Raises:
        RemoteProtocolError: the payload is neither.
    """
    if payload == MARKER:
        return None
    try:
        value = decode_untrusted(payload, bytes_max=_PAYLOAD_BYTES_MAX, items_max=_ITEMS_MAX)
    except MalformedError as exc:
        raise RemoteProtocolError("bad-payload", str(exc)) from exc
    return evidence_untrusted(value)


def evidence_untrusted(value: Any) -> StateEvidence:
    """Return the evidence that ``value`` encodes.

    Raises:
        RemoteProtocolError: it encodes none, or the sizes contradict each other.
    """
    match value:
        case [
            [int(term), int(index), bytes(chain)],
            bytes(root),
            int(count),
            int(size),
            int(chunk_bytes),
        ] if (
            _is_positive(term)
            and _is_positive(index)
            and len(chain) == DIGEST_BYTES
            and len(root) == DIGEST_BYTES
            and _is_positive(count)
            and _is_positive(size)
            and size <= SNAPSHOT_BYTES_MAX
            and _is_positive(chunk_bytes)
            and chunk_bytes <= CHUNK_BYTES_MAX
            and count == -(-size // chunk_bytes) <= CHUNKS_MAX
        ):
            return StateEvidence(Anchor(term, index, chain), root, count, size, chunk_bytes)
        case _:
            raise RemoteProtocolError("bad-evidence", "not the evidence about a snapshot")


def _is_positive(value: int) -> bool:
    return type(value) is int and 1 <= value <= _INTEGER_MAX
