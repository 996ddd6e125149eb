"""All watches of one member, over the one history of its store.

The hub is told after each step of the member. It finds the watches that a change concerns by the key, and
gives each of them a turn in its stream; what it does for a write does not depend on how slow a client is.
"""

from typing import Final

from node.watch.history import History
from node.watch.interest import Interest, prefix_of
from node.watch.stream import Watch, WatchStream
from node.watch.values import Permits, WatchOrder

WATCHES_MAX: Final = 40_000
WATCHES_PER_OWNER_MAX: Final = 20_000
BYTES_MAX: Final = 64 * 1024 * 1024
BYTES_PER_OWNER_MAX: Final = 32 * 1024 * 1024
WATCH_COST: Final = 1024  # in bytes, beside its keys
# A range that is no prefix costs every write a comparison, so it is charged like something large.
RANGE_COST: Final = 16 * 1024
# After more revisions than this in one step every watch gets a turn: that is cheaper, and bounded.
REVISIONS_PER_STEP_MAX: Final = 4096


class WatchHub:
    """The watches of one member.

    Attributes:
        history: what is watched.
        head: the newest revision that the hub has seen.
        watches: how many there are.
        bytes_used: what they are charged with.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.head = history.revision
        self._interest: Interest[Watch] = Interest()
        self._streams: dict[WatchStream, None] = {}
        self.watches = 0
        self.bytes_used = 0
        self._of_owner: dict[bytes, tuple[int, int]] = {}  # watches, bytes

    def attach(self, owner: bytes, permits: Permits) -> WatchStream:
        """Return a new stream of a client, which is named by its credential."""
        stream = WatchStream(self, owner, permits)
        self._streams[stream] = None
        return stream

    def stepped(self) -> list[WatchStream]:
        """Look at what was applied since the last call; return the streams that have something to send."""
        history, seen = self.history, self.head
        head = history.revision
        if head == seen:
            return []
        if head < seen:
            return self.reset()
        self.head = head
        if not self.watches:
            return []
        if history.compact_revision > seen + 1 or head > seen + REVISIONS_PER_STEP_MAX:
            for stream in self._streams:
                stream.wake_all(seen + 1)
            return [stream for stream in self._streams if stream.ready]
        woken: dict[WatchStream, None] = {}
        for revision, changes in history.events(seen + 1, head, b"", None):
            for change in changes:
                for watch in self._interest.of(change.key):
                    if not watch.waits and watch.next <= revision:
                        watch.stream.wake(watch, revision)
                        woken[watch.stream] = None
        return list(woken)

    def reset(self) -> list[WatchStream]:
        """Give up every stream: the history is another one, such as after a recovery. Return them all."""
        self.head = self.history.revision
        for stream in self._streams:
            stream.lost = True
        return list(self._streams)

    # ---- called by streams -----------------------------------------------------
    def cost_of(self, order: WatchOrder) -> int:
        """Return what a watch is charged with, in bytes."""
        start, end = order.start, order.end
        cost = WATCH_COST + len(start) + len(end or b"")
        if end != start + b"\x00" and prefix_of(start, end) is None:
            cost += RANGE_COST
        return cost

    def has_room(self, stream: WatchStream, order: WatchOrder) -> bool:
        """Return whether the owner of ``stream`` may have one watch more."""
        cost = self.cost_of(order)
        watches, used = self._of_owner.get(stream.owner, (0, 0))
        return (
            watches < WATCHES_PER_OWNER_MAX
            and used + cost <= BYTES_PER_OWNER_MAX
            and self.watches < WATCHES_MAX
            and self.bytes_used + cost <= BYTES_MAX
        )

    def admit(self, watch: Watch) -> None:
        """Take a watch for which there is room."""
        self._interest.add(watch, watch.order.start, watch.order.end)
        self._charge(watch, 1)

    def dismiss(self, watch: Watch) -> None:
        """Let a watch go."""
        self._interest.remove(watch, watch.order.start, watch.order.end)
        self._charge(watch, -1)

    def _charge(self, watch: Watch, sign: int) -> None:
        owner = watch.stream.owner
        watches, used = self._of_owner.get(owner, (0, 0))
        self.watches += sign
        self.bytes_used += sign * watch.cost
        if watches + sign:
            self._of_owner[owner] = (watches + sign, used + sign * watch.cost)
        else:
            del self._of_owner[owner]

    def closed(self, stream: WatchStream) -> None:
        """Forget a stream that has no watches any more."""
        self._streams.pop(stream, None)
