"""The watches of one client's stream, which take turns.

No answer waits here: the changes are in the store's history, and a watch is only a place in it. Whoever
drives the stream takes one answer each time its client can receive one. So a client that does not read costs
the same few bytes for each watch, and nobody waits for it; only a compaction can overtake it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from node.watch.history import WatchedChange
from node.watch.values import NO_WATCH, Permits, WatchAnswer, WatchOrder

if TYPE_CHECKING:
    from node.watch.hub import WatchHub

REVISIONS_PER_TURN_MAX: Final = 1024  # that one turn reads, whether they are wanted or not
CHANGES_PER_ANSWER: Final = 1000  # no further revision is added to an answer beyond these
BYTES_PER_ANSWER: Final = 1024 * 1024
FRAGMENT_BYTES_MAX: Final = 1536 * 1024
CHANGE_COST: Final = 64  # what a change takes in an answer beside keys and values, at most
NOTIFY_S: Final = 5.0
WAITING_MAX: Final = 64  # answers owed to requests; beyond these the driver reads no further request

PERMISSION_DENIED: Final = "etcdserver: permission denied"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
TOO_MANY: Final = "bondstone: there are too many watches"


class Watch:
    """One watch: all changes before ``next`` that concern it were sent."""

    __slots__ = ("cost", "next", "order", "sent_s", "stream", "waits", "watch_id")

    def __init__(
        self, stream: "WatchStream", order: WatchOrder, watch_id: int, first: int, cost: int
    ) -> None:
        self.stream = stream
        self.order = order
        self.watch_id = watch_id
        self.next = first
        self.cost = cost
        self.waits = False  # whether it waits for its turn
        self.sent_s = 0.0


class WatchStream:
    """One client's watches. Made by ``WatchHub.attach``.

    Attributes:
        owner: who is charged for the watches.
        lost: whether the history is another one now. The stream has to end: what followed would not be true.
    """

    def __init__(self, hub: "WatchHub", owner: bytes, permits: Permits) -> None:
        self.owner = owner
        self.lost = False
        self._hub = hub
        self._permits = permits
        self._watches: dict[int, Watch] = {}
        self._next_id = 0
        self._turns: OrderedDict[Watch, None] = OrderedDict()
        self._answers: deque[WatchAnswer] = deque()  # these go first
        self._asked = 0  # progress requests without an answer
        self._promised = 0  # the revision that the first of them is answered with
        self._behind: dict[Watch, None] = {}  # watches that must pass it before

    # ---- requests -----------------------------------------------------------
    @property
    def full(self) -> bool:
        """Whether the client has to receive answers before it may ask for more."""
        return len(self._answers) + self._asked >= WAITING_MAX

    def create(self, order: WatchOrder, now_s: float) -> None:
        """Begin a watch, or refuse it; the answer follows."""
        hub = self._hub
        refusal = self._refusal(order)
        if refusal is not None:
            self._answers.append(
                WatchAnswer(watch_id=NO_WATCH, revision=hub.head, created=True, canceled=True, reason=refusal)
            )
            return
        watch_id = order.watch_id or self._new_id()
        first = order.first if order.first > 0 else hub.head + 1 if order.first == 0 else 1
        watch = Watch(self, order, watch_id, first, hub.cost_of(order))
        watch.sent_s = now_s
        self._watches[watch_id] = watch
        hub.admit(watch)
        self._answers.append(WatchAnswer(watch_id=watch_id, revision=hub.head, created=True))
        if first <= hub.head:
            self.wake(watch, first)
            if self._asked and first <= self._promised:
                self._behind[watch] = None

    def _refusal(self, order: WatchOrder) -> str | None:
        if order.end is not None and order.end <= order.start:
            return EMPTY_RANGE
        if not self._permits(order.start, order.end):
            return PERMISSION_DENIED
        if order.watch_id in self._watches and order.watch_id != 0:
            return DUPLICATE_ID
        return None if self._hub.has_room(self, order) else TOO_MANY

    def _new_id(self) -> int:
        while self._next_id in self._watches:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def cancel(self, watch_id: int) -> None:
        """End a watch at its client's wish. An unknown id gets no answer."""
        watch = self._watches.get(watch_id)
        if watch is not None:
            self._end(watch, WatchAnswer(watch_id=watch_id, revision=self._hub.head, canceled=True))

    def ask_progress(self) -> None:
        """Owe the client an answer once every watch has passed what is the head now."""
        self._asked += 1
        if self._asked == 1:
            self._promise()

    def _promise(self) -> None:
        self._promised = self._hub.head
        self._behind = {watch: None for watch in self._turns if watch.next <= self._promised}

    def judge(self, permits: Permits) -> None:
        """End the watches that the client may no longer read in full."""
        self._permits = permits
        for watch in list(self._watches.values()):
            if not permits(watch.order.start, watch.order.end):
                self._end(
                    watch,
                    WatchAnswer(
                        watch_id=watch.watch_id,
                        revision=self._hub.head,
                        canceled=True,
                        reason=PERMISSION_DENIED,
                    ),
                )

    def close(self) -> None:
        """End all watches; nothing is sent any more."""
        for watch in list(self._watches.values()):
            self._forget(watch)
        self._answers.clear()
        self._asked = 0
        self._hub.closed(self)

    def _end(self, watch: Watch, answer: WatchAnswer) -> None:
        self._forget(watch)
        self._answers.append(answer)

    def _forget(self, watch: Watch) -> None:
        del self._watches[watch.watch_id]
        self._behind.pop(watch, None)
        self._hub.dismiss(watch)
        if watch.waits:
            watch.waits = False
            del self._turns[watch]

    # ---- what the hub reports -------------------------------------------------
    def wake(self, watch: Watch, revision: int) -> None:
        """Give the watch a turn: it has to look at ``revision``."""
        watch.next = max(watch.next, revision)
        watch.waits = True
        self._turns[watch] = None

    def wake_all(self, revision: int) -> None:
        """Give every watch a turn that has passed ``revision`` only if it began later."""
        for watch in self._watches.values():
            if not watch.waits and watch.next <= self._hub.head:
                self.wake(watch, revision)

    def tick(self, now_s: float) -> None:
        """Report to idle watches that want it how far they have come, as long as the client receives."""
        for watch in self._watches.values():
            if self.full:
                return
            if watch.order.notify and not watch.waits and now_s - watch.sent_s >= NOTIFY_S:
                watch.sent_s = now_s
                self._answers.append(WatchAnswer(watch_id=watch.watch_id, revision=self._hub.head))

    # ---- answers --------------------------------------------------------------
    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to do."""
        return bool(self._answers or self._turns or self._asked)

    def take(self, now_s: float) -> WatchAnswer | None:
        """Return the next answer; None if this turn found none, which means nothing about the next one.

        Each call does a bounded amount of work: one turn of one watch.
        """
        if self._answers:
            return self._answers.popleft()
        if self._asked and not self._behind:
            answer = WatchAnswer(watch_id=NO_WATCH, revision=self._promised)
            self._asked -= 1
            if self._asked:
                self._promise()
            return answer
        if not self._turns:
            return None
        watch, _ = self._turns.popitem(last=False)
        watch.waits = False
        return self._turn(watch, now_s)

    def _turn(self, watch: Watch, now_s: float) -> WatchAnswer | None:
        hub = self._hub
        floor = hub.history.compact_revision
        if watch.next < floor:
            self._forget(watch)
            return WatchAnswer(watch_id=watch.watch_id, revision=0, canceled=True, compact_revision=floor)
        changes = self._read(watch)
        if watch.next > self._promised:
            self._behind.pop(watch, None)
        if watch.next <= hub.head:
            self.wake(watch, watch.next)
        if not changes:
            return None
        watch.sent_s = now_s
        order = watch.order
        parts = list(_split(changes, before=order.before)) if order.fragment else [changes]
        answers = [
            WatchAnswer(
                watch_id=watch.watch_id,
                revision=hub.head,
                changes=part,
                before=order.before,
                more=number < len(parts),
            )
            for number, part in enumerate(parts, 1)
        ]
        self._answers.extend(answers[1:])
        return answers[0]

    def _read(self, watch: Watch) -> list[WatchedChange]:
        """Return the next changes, whole revisions, and move the watch behind them."""
        order = watch.order
        last = min(self._hub.head, watch.next + REVISIONS_PER_TURN_MAX - 1)
        found: list[WatchedChange] = []
        size = 0
        for revision, changes in self._hub.history.events(watch.next, last, order.start, order.end):
            if size >= BYTES_PER_ANSWER or len(found) >= CHANGES_PER_ANSWER:
                last = revision - 1
                break
            for change in changes:
                if order.puts if change.version is not None else order.deletes:
                    found.append(change)
                    size += _size_of(change, before=order.before)
        watch.next = last + 1
        return found


def _size_of(change: WatchedChange, *, before: bool) -> int:
    size = CHANGE_COST + len(change.key)
    if change.version is not None:
        size += len(change.version.value)
    if before and change.before is not None:
        size += CHANGE_COST + len(change.key) + len(change.before.value)
    return size


def _split(changes: list[WatchedChange], *, before: bool) -> Iterator[list[WatchedChange]]:
    """Yield the changes in parts, each within the limit unless one change alone is beyond it."""
    part: list[WatchedChange] = []
    size = 0
    for change in changes:
        grown = _size_of(change, before=before)
        if part and size + grown > FRAGMENT_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(change)
        size += grown
    yield part
