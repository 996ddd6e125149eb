"""The example of docs/groups.md of a state sync of one's own: only what differs is sent.

Both sides cut a snapshot at its frames, which the parts of the state decide. A member that has an older
snapshot asks for the digests of the new one's blocks, and then for the blocks that it does not have.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Final

from node.sync import (
    Incarnation,
    RemoteProtocolError,
    Snapshot,
    StateSync,
    SyncProgress,
    SyncProvider,
    SyncRequest,
    SyncSession,
    Target,
    Turn,
)

BLOCK: Final = 64 * 1024  # a block has this many bytes at most
PAGE: Final = 64  # blocks whose digests are computed, or sent, at a time
WINDOW: Final = 8  # requests that one peer has not answered yet
DIGESTS: Final = b"d"  # a request: this byte, and the number of a block in 8 bytes, big-endian
CONTENT: Final = b"c"

Span = tuple[int, int]


class DifferenceSync(StateSync):
    """Fetches what differs from the member's own snapshot."""

    @property
    def signature(self) -> str:
        return "example.org/difference/v1"

    def provider(self) -> "DifferenceProvider":
        return DifferenceProvider()

    def session(self, target: Target) -> "DifferenceSession":
        return DifferenceSession(target)


def spans_of(snapshot: Snapshot) -> list[Span]:
    """Return start and length of each block: what did not change is cut as before, wherever it moved."""
    return [
        (at, min(BLOCK, start + length - at))
        for start, length in snapshot.frames()
        for at in range(start, start + length, BLOCK)
    ]


def digest_of(snapshot: Snapshot, span: Span) -> bytes:
    return sha256(snapshot.read(*span)).digest()


class DifferenceProvider(SyncProvider):
    """Answers with digests: how many blocks there are, and those of a page; or with a block."""

    def __init__(self) -> None:
        self._root = b""
        self._spans: list[Span] = []

    def message(self, peer: Incarnation, snapshot: Snapshot, payload: bytes) -> Sequence[bytes]:  # noqa: ARG002
        if snapshot.evidence.root != self._root:
            self._root, self._spans = snapshot.evidence.root, spans_of(snapshot)
        kind, number = payload[:1], int.from_bytes(payload[1:])
        if len(payload) != 9 or kind not in (DIGESTS, CONTENT) or number >= len(self._spans):
            raise RemoteProtocolError("bad-difference-request", "neither digests nor a block")
        if kind == CONTENT:
            return [payload + snapshot.read(*self._spans[number])]
        page = self._spans[number : number + PAGE]
        digests = b"".join(digest_of(snapshot, span) for span in page)
        return [payload + len(self._spans).to_bytes(8) + digests]


class DifferenceSession(SyncSession):
    """Asks for digests, takes the blocks that it has, and asks for the others."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own: dict[bytes, Span] = {}  # blocks of our own snapshot, by digest
        self._unread = iter([] if target.own is None else spans_of(target.own))
        self._sources: list[Incarnation] = []
        self._wanted = deque([DIGESTS + bytes(8)])
        self._asked: dict[bytes, tuple[Incarnation, int]] = {}  # which request went to whom, and when
        self._count = 0
        self._digests: dict[int, bytes] = {}
        self._blocks: dict[int, bytes] = {}

    def offer(self, peer: Incarnation) -> None:
        self._sources.append(peer)

    def lose(self, peer: Incarnation) -> None:
        self._sources.remove(peer)
        self._ask_again([request for request, (asked, _) in self._asked.items() if asked == peer])

    def _ask_again(self, requests: list[bytes]) -> None:
        for request in requests:
            del self._asked[request]
            self._wanted.append(request)

    def message(self, peer: Incarnation, payload: bytes) -> None:  # noqa: ARG002 - any may answer late
        request, body = payload[:9], payload[9:]
        if self._asked.pop(request, None) is None:
            return  # late: another peer was asked, or has answered
        number = int.from_bytes(request[1:])
        if request[:1] == CONTENT:
            if sha256(body).digest() != self._digests[number]:
                self._wanted.append(request)
                raise RemoteProtocolError("block-differs", "a block that is not the one of its digest")
            self._blocks[number] = body
            return
        if not self._count:
            self._count = min(int.from_bytes(body[:8]), self._target.evidence.size)
            self._wanted.extend(DIGESTS + at.to_bytes(8) for at in range(PAGE, self._count, PAGE))
        for at in range(number, min(number + PAGE, self._count)):
            start = 8 + 32 * (at - number)
            self._learn(at, body[start : start + 32])

    def _learn(self, number: int, digest: bytes) -> None:
        self._digests[number] = digest
        span, own = self._own.get(digest), self._target.own
        if span is not None and own is not None:
            self._blocks[number] = own.read(*span)
        else:
            self._wanted.append(CONTENT + number.to_bytes(8))

    def tick(self, now_ms: int) -> Turn:
        own, patience_ms = self._target.own, self._target.patience_ms
        if own is not None:
            read = [(digest_of(own, span), span) for span in islice(self._unread, PAGE)]
            self._own.update(read)
            if read:
                return Turn((), now_ms + 1)
        self._ask_again([one for one, (_, at) in self._asked.items() if now_ms - at >= patience_ms])
        asks = []
        while self._wanted and len(self._asked) < WINDOW * len(self._sources):
            peer = self._sources[len(self._asked) % len(self._sources)]
            request = self._wanted.popleft()
            self._asked[request] = (peer, now_ms)
            asks.append(SyncRequest(peer, request))
        return Turn(asks, now_ms + patience_ms)

    @property
    def progress(self) -> SyncProgress:
        return SyncProgress(len(self._blocks), self._count)

    def loading(self) -> Iterator[bytes] | None:
        if not self._count or len(self._blocks) < self._count:
            return None
        return (self._blocks[number] for number in range(self._count))
