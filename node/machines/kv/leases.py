"""The leases of a store, on the lease clock: log time that runs only while a leader serves.

The leader counts the clock and proposes ticks. A lease that was granted, or renewed by a tick, gets its time
from a later tick: one whose maker had already applied the grant or the renewal, and so names the clock at
which its callers may have been answered. Until then the lease cannot expire.
"""

from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

TTL_MIN_S: Final = 2
TTL_MAX_S: Final = 9_000_000_000
LEASE_ID_MAX: Final = 2**63 - 1
LEASE_COST: Final = 512  # what a lease counts towards the quota
# A tick ends this many leases at most, and none further once this many keys are gone: the next one goes on.
EXPIRED_PER_TICK_MAX: Final = 1000
EXPIRED_KEYS_PER_TICK_MAX: Final = 4096
_MS: Final = 1000


class KeyLease(Struct, frozen=True, gc=False):
    """``expires_ms`` is on the lease clock; None until tick number ``settles_at``, which sets it."""

    ttl_s: int
    expires_ms: int | None
    settles_at: int


class LeaseTable:
    """What the store knows of leases.

    Attributes:
        clock_ms: the lease clock at the last tick.
        ticks: how many there were.
        by_id: the leases.
        keys_of: the keys that belong to each lease.
    """

    def __init__(self) -> None:
        self.clock_ms = 0
        self.ticks = 0
        self.by_id: dict[int, KeyLease] = {}
        self.keys_of: dict[int, set[bytes]] = {}
        # Each holds an entry for every lease that waits for it, and others that no longer count.
        self._due: list[tuple[int, int]] = []
        self._unsettled: list[tuple[int, int]] = []

    def set(self, lease_id: int, lease: KeyLease | None) -> None:
        """Make the lease ``lease``; None: there is no such lease, and no key belongs to it."""
        if lease is None:
            del self.by_id[lease_id], self.keys_of[lease_id]
            return
        self.by_id[lease_id] = lease
        if lease_id not in self.keys_of:
            self.keys_of[lease_id] = set()
        if lease.expires_ms is None:
            heappush(self._unsettled, (lease.settles_at, lease_id))
        else:
            heappush(self._due, (lease.expires_ms, lease_id))

    def granted(self, ttl_s: int) -> KeyLease:
        """Return a lease that begins now. The next tick may be under way, so the one after it counts."""
        return KeyLease(ttl_s, None, self.ticks + 2)

    def settled(self, settled_ms: int) -> list[tuple[int, KeyLease]]:
        """Return the leases that the present tick gives a time, with that time."""
        found: dict[int, KeyLease] = {}
        while self._unsettled and self._unsettled[0][0] <= self.ticks:
            settles_at, lease_id = heappop(self._unsettled)
            lease = self.by_id.get(lease_id)
            if lease is not None and lease.expires_ms is None and lease.settles_at == settles_at:
                found[lease_id] = KeyLease(lease.ttl_s, settled_ms + lease.ttl_s * _MS, 0)
        return list(found.items())

    def next_due(self) -> int | None:
        """Return the lease whose time is over and that is next to end; None if there is none."""
        while self._due and self._due[0][0] <= self.clock_ms:
            expires_ms, lease_id = heappop(self._due)
            lease = self.by_id.get(lease_id)
            if lease is not None and lease.expires_ms == expires_ms:
                return lease_id
        return None

    def remaining_s(self, lease: KeyLease) -> int:
        """Return how long a lease has at least, in whole seconds; 0 in its last one."""
        if lease.expires_ms is None:
            return lease.ttl_s
        return max(lease.expires_ms - self.clock_ms, 0) // _MS
