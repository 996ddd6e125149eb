"""Fetching a snapshot from peers: which chunks are here, and which peer was asked for which of the others.

Every chunk is proven against the evidence before it counts, so a chunk may come from any peer, in any order,
late or twice. Losing peers costs only the chunks that they were asked for.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from node.peers import Incarnation
from node.sync.evidence import StateEvidence
from node.sync.merkle import is_proven, leaf_of

WINDOW: Final = 8  # chunks asked of one peer at a time
SILENT_MAX: Final = 8  # a source that was late this often, and sent nothing in between, serves no more


@dataclass(slots=True)
class _Source:
    """A peer that offers the snapshot.

    Attributes:
        asked: by chunk: when it was asked for.
        late: how many answers did not come in time, since the last that came.
        silent: how often it was late since the last proven chunk of it, that came late or not.
        resting_ms: until then the other sources are asked.
    """

    asked: dict[int, int] = field(default_factory=dict)
    late: int = 0
    silent: int = 0
    resting_ms: int = 0


class Fetching:
    """The fetch of one snapshot.

    Attributes:
        evidence: what it is proven against.
    """

    def __init__(self, evidence: StateEvidence) -> None:
        self.evidence = evidence
        self._chunks: list[bytes | None] = [None] * evidence.count
        # A dictionary is no queue: to find its first key it walks over all that were deleted before.
        self._queue = deque(range(evidence.count))  # whatever is missing, and numbers that no longer are
        self._is_missing = bytearray(b"\x01") * evidence.count  # not here, and not asked for
        self._left = evidence.count
        self._sources: dict[Incarnation, _Source] = {}

    @property
    def done(self) -> int:
        """The number of chunks that are here."""
        return self.evidence.count - self._left

    @property
    def is_complete(self) -> bool:
        return self._left == 0

    @property
    def sources(self) -> int:
        """The number of peers that serve it."""
        return len(self._sources)

    def outstanding(self, peer: Incarnation) -> int:
        """Return how many chunks ``peer`` was asked for."""
        source = self._sources.get(peer)
        return 0 if source is None else len(source.asked)

    def offer(self, peer: Incarnation) -> None:
        """Note that ``peer`` serves this snapshot."""
        self._sources.setdefault(peer, _Source())

    def given_up(self) -> list[Incarnation]:
        """Return the peers that have not sent a chunk for so long that another snapshot may be better."""
        return sorted(peer for peer, source in self._sources.items() if source.silent >= SILENT_MAX)

    def lose(self, peer: Incarnation) -> None:
        """Note that ``peer`` no longer serves it."""
        source = self._sources.pop(peer, None)
        if source is not None:
            self._return(source.asked)

    def _return(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._chunks[number] is None and not self._is_missing[number]:
                self._is_missing[number] = 1
                self._queue.append(number)

    def _next_missing(self) -> int | None:
        """Return the number of a chunk to ask for; None if there is none. It stays missing."""
        while self._queue and not self._is_missing[self._queue[0]]:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def take(self, peer: Incarnation, number: int, chunk: bytes, proof: tuple[bytes, ...]) -> bool:
        """Take a chunk; return whether it is proven. A chunk that is here already is not looked at."""
        evidence = self.evidence
        if not 0 <= number < evidence.count:
            return False
        source = self._sources.get(peer)
        if source is not None and source.asked.pop(number, None) is not None:
            source.late = source.resting_ms = 0
        if self._chunks[number] is not None:
            return True
        if not is_proven(leaf_of(chunk), number, proof, root=evidence.root, count=evidence.count):
            self._return((number,))
            return False
        if source is not None:
            source.silent = 0
        self._chunks[number] = chunk
        self._is_missing[number] = 0
        self._left -= 1
        return True

    def requests(self, now_ms: int, patience_ms: int) -> list[tuple[Incarnation, int]]:
        """Return which peers to ask for which chunks now.

        A peer that does not answer within ``patience_ms`` rests: the others are asked first, for the same
        chunks too. A late answer of it still counts.
        """
        for source in self._sources.values():
            self._give_up_late(source, now_ms, patience_ms)
        asked: list[tuple[Incarnation, int]] = []
        ready = sorted(self._sources, key=lambda peer: (self._sources[peer].late, peer))
        if any(self._sources[peer].resting_ms <= now_ms for peer in ready):
            ready = [peer for peer in ready if self._sources[peer].resting_ms <= now_ms]
        before = -1
        while len(asked) > before:
            before = len(asked)
            for peer in ready:  # in turn, so that all of them serve
                source = self._sources[peer]
                room = 1 if source.late else WINDOW
                number = self._next_missing() if len(source.asked) < room else None
                if number is not None:
                    self._queue.popleft()
                    self._is_missing[number] = 0
                    source.asked[number] = now_ms
                    asked.append((peer, number))
        return asked

    def _give_up_late(self, source: _Source, now_ms: int, patience_ms: int) -> None:
        late = {number: at for number, at in source.asked.items() if now_ms - at >= patience_ms}
        if late:
            for number in late:
                del source.asked[number]
            source.late += 1
            source.silent += 1
            source.resting_ms = now_ms + patience_ms
            self._return(late)

    def due_ms(self, now_ms: int, patience_ms: int) -> int:
        """Return when to ask ``requests`` again, unless something comes before."""
        times = [at + patience_ms for source in self._sources.values() for at in source.asked.values()]
        times += [source.resting_ms for source in self._sources.values() if source.resting_ms > now_ms]
        return min(times, default=now_ms + patience_ms)

    def hand_over(self) -> Iterator[bytes]:
        """Yield all chunks in order, and keep none of them; only when it is complete."""
        for number, chunk in enumerate(self._chunks):
            assert chunk is not None
            self._chunks[number] = None
            yield chunk
