"""The built-in transfer of snapshots: chunks from all peers at once, each proven against the evidence.

ask       [number of a chunk]
answer    [number, chunk, [digests of its proof]]
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.errors import MalformedError
from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.sync.evidence import CHUNK_BYTES_MAX
from node.sync.fetching import Fetching
from node.sync.keeper import Snapshot
from node.sync.merkle import DIGEST_BYTES, PROOF_DIGESTS_MAX
from node.sync.state_sync import (
    ANSWER_BYTES_MAX,
    StateSync,
    SyncProgress,
    SyncProvider,
    SyncRequest,
    SyncSession,
    Target,
    Turn,
)

_ASK_BYTES_MAX: Final = 16
_ITEMS_MAX: Final = PROOF_DIGESTS_MAX + 8


class SnapshotSync(StateSync):
    """Chunks of the snapshot, from all peers that offer it."""

    @property
    def signature(self) -> str:
        return "bondstone/snapshot/v1"

    def provider(self) -> "ChunkProvider":
        return ChunkProvider()

    def session(self, target: Target) -> "ChunkSession":
        return ChunkSession(target)


class ChunkProvider(SyncProvider):
    """Answers with chunks."""

    def message(self, peer: Incarnation, snapshot: Snapshot, payload: bytes) -> Sequence[bytes]:  # noqa: ARG002
        match _decode(payload, _ASK_BYTES_MAX):
            case [int(number)] if type(number) is int and 0 <= number < snapshot.evidence.count:
                data, proof = snapshot.chunk(number)
                return (encode_answer(number, data, proof),)
            case _:
                raise RemoteProtocolError("bad-chunk-request", "not the number of a chunk")


class ChunkSession(SyncSession):
    """Fetches the chunks.

    Attributes:
        fetching: which chunks are here, and which peer was asked for which of the others.
    """

    def __init__(self, target: Target) -> None:
        self.fetching = Fetching(target.evidence)
        self._patience_ms = target.patience_ms

    def offer(self, peer: Incarnation) -> None:
        self.fetching.offer(peer)

    def lose(self, peer: Incarnation) -> None:
        self.fetching.lose(peer)

    def message(self, peer: Incarnation, payload: bytes) -> None:
        number, data, proof = decode_answer_untrusted(payload)
        if not self.fetching.take(peer, number, data, proof):
            raise RemoteProtocolError("chunk-not-proven", "a chunk that its proof does not lead to the root")

    def tick(self, now_ms: int) -> Turn:
        patience_ms = self._patience_ms
        given_up = self.fetching.given_up()
        for peer in given_up:
            self.fetching.lose(peer)
        asks = [
            SyncRequest(peer, encode([number]))
            for peer, number in self.fetching.requests(now_ms, patience_ms)
        ]
        return Turn(asks, self.fetching.due_ms(now_ms, patience_ms), given_up)

    @property
    def progress(self) -> SyncProgress:
        return SyncProgress(self.fetching.done, self.fetching.evidence.count)

    def loading(self) -> Iterator[bytes] | None:
        return self.fetching.hand_over() if self.fetching.is_complete else None


def encode_answer(number: int, data: bytes, proof: Sequence[bytes]) -> bytes:
    """Return the payload with a chunk and its proof."""
    return encode([number, data, list(proof)])


def decode_answer_untrusted(payload: bytes) -> tuple[int, bytes, tuple[bytes, ...]]:
    """Return number, chunk and proof.

    Raises:
        RemoteProtocolError: the payload is no answer.
    """
    match _decode(payload, ANSWER_BYTES_MAX):
        case [int(number), bytes(data), [*proof]] if (
            type(number) is int
            and number >= 0
            and 0 < len(data) <= CHUNK_BYTES_MAX
            and len(proof) <= PROOF_DIGESTS_MAX
            and all(type(one) is bytes and len(one) == DIGEST_BYTES for one in proof)
        ):
            return number, data, tuple(proof)
        case _:
            raise RemoteProtocolError("malformed-chunk", "not a chunk with its proof")


def _decode(payload: bytes, bytes_max: int) -> Any:
    try:
        return decode_untrusted(payload, bytes_max=bytes_max, items_max=_ITEMS_MAX)
    except MalformedError as exc:
        raise RemoteProtocolError("malformed-message", str(exc)) from exc
