"""How much memory a member's part of the group may take, and what is in use (pure arithmetic).

    early   a snapshot is due, so that the log can be cut
    low     a member that was over its mark, and takes less than this again, takes writes again
    mark    no write is taken that may make the state larger
    full    what is left is for the group's own entries

What is counted are the parts that clients can make grow. The interpreter, and what has a fixed bound of its
own, is outside of the budget.
"""

from typing import Final, NamedTuple

from msgspec import Struct

from node.peers import Incarnation
from node.raft.log import OVERHEAD_BYTES, LogStore

NO_BUDGET: Final = 1 << 62
# An entry's share in memory beside ``entry_bytes``: the objects that it consists of. Measured: 283 bytes more
# than its payload.
ENTRY_COST: Final = 283 - OVERHEAD_BYTES
# An outcome that a session keeps until its origin has the answer.
OUTCOME_COST: Final = 256
# One byte of an entry may become this many: in the log, as a remembered key, and in the machine's state.
GROWTH: Final = 3
# A budget below this many times the quota, and this much besides, could not hold a full store, the snapshot
# that is held and the next one; besides there are the store's history, also in both snapshots, and the log.
STATES: Final = 3
BESIDES_BYTES: Final = 64 * 1024 * 1024


class Budget(Struct, frozen=True):
    """Limits in bytes."""

    size: int = NO_BUDGET

    @property
    def early(self) -> int:
        return self.size * 5 // 8

    @property
    def low(self) -> int:
        return self.size * 3 // 4

    @property
    def mark(self) -> int:
        return self.size * 7 // 8

    @property
    def full(self) -> int:
        return self.size * 31 // 32


UNLIMITED: Final = Budget()


def needed_for(quota_bytes: int) -> int:
    """Return the smallest budget whose mark leaves room for a store as large as its quota."""
    return -(-(STATES * quota_bytes + BESIDES_BYTES) * 8 // 7)


def quota_within(size: int) -> int:
    """Return the largest quota for which a budget of ``size`` bytes is enough; 0 or less: there is none."""
    return (size * 7 // 8 - BESIDES_BYTES) // STATES


class MemoryUse(NamedTuple):
    """Bytes in use, by part.

    Attributes:
        log: the entries.
        kept: of the results of remembered idempotency keys.
        keys: those keys, and the open sessions.
        store: the machine's state, as far as the machine reports it, otherwise as its last snapshot shows it.
        snapshots: the one that is held, an older one that peers fetch, and the next one: as large as it is
            expected to be, or as it is already.
        fetched: of a snapshot that is being installed, and entries that came before those that they follow.
        buffers: commands of callers that wait, and messages to and from peers.
    """

    log: int
    kept: int
    keys: int
    store: int
    snapshots: int
    fetched: int
    buffers: int

    @property
    def total(self) -> int:
        return sum(self)


class MemoryReported(Struct, frozen=True):
    """What a leader knows of a member's memory.

    Attributes:
        use: bytes in use.
        budget: its limit.
        taken: ``log.taken`` of the leader, less what the member did not have yet.
    """

    use: int
    budget: Budget
    taken: int

    def taken_at(self, limit: int) -> int:
        """Return at which ``log.taken`` the member may take ``limit`` bytes."""
        return self.taken + (limit - self.use) // GROWTH


class MemoryStatus(NamedTuple):
    """The memory of one member, for people and metrics.

    Attributes:
        pressed: if it leads: the members for which writes are refused, and what they reported.
    """

    use: MemoryUse
    budget: Budget
    pressed: tuple[tuple[Incarnation, MemoryReported], ...]


def log_memory(log: LogStore) -> int:
    """Return about how many bytes the entries take in memory."""
    return log.size + ENTRY_COST * (log.last().index - log.base.index)
