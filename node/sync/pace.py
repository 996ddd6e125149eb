"""How often a provider answers one peer: a bucket of tokens, and a few requests that wait for one."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from node.peers import Incarnation

ASKS_PER_S: Final = 1000  # of one peer, over any longer time
BURST: Final = 64  # requests that are answered at once
WAITING_MAX: Final = 64  # requests of one peer that wait; further ones are dropped
_MS_PER_ASK: Final = 1000 // ASKS_PER_S


@dataclass(slots=True)
class _Bucket:
    """``free_ms``: when all requests until now would have been answered at the steady rate."""

    free_ms: int = 0
    waiting: deque[tuple[bytes, bytes]] = field(default_factory=deque)


@dataclass(slots=True)
class Pace:
    """The requests of all peers: each the root of a snapshot, and the payload for the provider.

    Attributes:
        waiting: how many requests wait: nearly always none, and every step of a member asks.
    """

    waiting: int = 0
    _buckets: dict[Incarnation, _Bucket] = field(default_factory=dict)

    def ask(self, peer: Incarnation, root: bytes, payload: bytes) -> None:
        """Let a request wait; drop it if too many of the peer wait already."""
        bucket = self._buckets.setdefault(peer, _Bucket())
        if len(bucket.waiting) < WAITING_MAX:
            bucket.waiting.append((root, payload))
            self.waiting += 1

    def due(self, now_ms: int) -> list[tuple[Incarnation, bytes, bytes]]:
        """Take the requests that may be answered now."""
        taken = []
        for peer, bucket in self._buckets.items():
            bucket.free_ms = max(bucket.free_ms, now_ms - BURST * _MS_PER_ASK)
            while bucket.waiting and bucket.free_ms < now_ms:
                bucket.free_ms += _MS_PER_ASK
                taken.append((peer, *bucket.waiting.popleft()))
        self.waiting -= len(taken)
        return taken

    def due_ms(self) -> int | None:
        """Return when the next request may be answered; None if none waits."""
        times = [bucket.free_ms + 1 for bucket in self._buckets.values() if bucket.waiting]
        return min(times, default=None)

    def forget(self, peer: Incarnation) -> None:
        """Drop what a peer asked for whose bond is gone."""
        bucket = self._buckets.pop(peer, None)
        if bucket is not None:
            self.waiting -= len(bucket.waiting)
