"""Where the members of a group may be, and when to try which address; without I/O.

There are two kinds of addresses. *Seeds* come from the configuration and are never forgotten. *Learned*
addresses come from bonded peers and are dropped when they have failed for long. A seed with a DNS name is
resolved again and again, and every address that it resolves to is a place of its own.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from node.bonds.settings import BondSettings
from node.bonds.wire.addresses import is_ip, join_address, split_address
from node.bonds.wire.messages import PeerEntry

PLACES_MAX: Final = 1024
DIALS_MAX: Final = 32


@dataclass(slots=True)
class _Place:
    """One address. ``peer_id``: the peer that last answered there."""

    seed: bool
    next_ms: int
    peer_id: bytes | None = None
    delay_ms: int = 0
    failing_since_ms: int | None = None
    dialling: bool = False


class AddressBook:
    """Args: ``me`` this node's own peer id; ``randrange`` uniform in [0, n)."""

    def __init__(
        self,
        *,
        settings: BondSettings,
        me: bytes,
        seeds: Iterable[str],
        randrange: Callable[[int], int],
        now_ms: int,
    ) -> None:
        self._settings = settings
        self._me = me
        self._randrange = randrange
        self._places: dict[str, _Place] = {}
        self._names: dict[str, int] = {}  # DNS seed -> when to resolve it again
        for seed in seeds:
            if is_ip(split_address(seed)[0]):
                self._places[seed] = _Place(seed=True, next_ms=now_ms)
            else:
                self._names[seed] = now_ms

    def addresses(self) -> list[str]:
        return sorted(self._places)

    def knows(self, ip: str) -> bool:
        """Return whether one of the addresses is at this IP address."""
        start = join_address(ip, 0)[:-1]
        return any(address.startswith(start) for address in self._places)

    def names_due(self, now_ms: int) -> list[str]:
        """Return the DNS seeds to resolve now."""
        due = [name for name, at_ms in self._names.items() if at_ms <= now_ms]
        for name in due:
            self._names[name] = now_ms + self._jittered(self._settings.reconnect_max_ms)
        return due

    def resolved(self, addresses: Iterable[str], now_ms: int) -> None:
        """Note that a DNS seed resolves to ``addresses``."""
        for address in addresses:
            self._place(address, now_ms)

    def learn(self, entry: PeerEntry, now_ms: int) -> None:
        """Note the addresses of ``entry.peer``, which a bonded peer or that peer itself announced."""
        if entry.peer.id == self._me:
            return
        # The smaller id dials first: if both dialled, both would make connections, and one would be wasted.
        yield_ms = self._settings.yield_ms if entry.peer.id < self._me else 0
        for address in entry.addresses:
            place = self._place(address, now_ms + yield_ms)
            if place is not None and place.peer_id != entry.peer.id:
                place.peer_id = entry.peer.id
                place.next_ms, place.delay_ms = now_ms + yield_ms, 0
                place.failing_since_ms = None

    def due(self, now_ms: int, bonded: Collection[bytes]) -> list[str]:
        """Return the addresses to dial now, and mark them as being dialled."""
        self._forget(now_ms)
        due: list[str] = []
        room = DIALS_MAX - sum(place.dialling for place in self._places.values())
        for address, place in self._places.items():
            if len(due) >= room:
                break
            if place.dialling or place.next_ms > now_ms or place.peer_id == self._me:
                continue
            if place.peer_id is None or place.peer_id not in bonded:
                place.dialling = True
                due.append(address)
        return due

    def reached(self, address: str, peer_id: bytes) -> None:
        """Note that ``peer_id`` answers at ``address``, and that it is bonded (or is this node itself)."""
        place = self._places.get(address)
        if place is not None:
            place.dialling, place.delay_ms, place.failing_since_ms = False, 0, None
            place.peer_id = peer_id

    def failed(self, address: str, now_ms: int, *, peer_id: bytes | None, refused: bool) -> None:
        """Note that dialling ``address`` led to no bond.

        Args:
            address: as ``due`` gave it.
            now_ms: monotonic.
            peer_id: the peer that answered there; None if none did.
            refused: for a reason that lasts until something is changed, so the next try can wait.
        """
        place = self._places.get(address)
        if place is None:
            return
        settings = self._settings
        low, high = settings.reconnect_min_ms, settings.reconnect_max_ms
        if refused:
            low, high = settings.refused_min_ms, settings.refused_max_ms
        place.dialling, place.peer_id = False, peer_id or place.peer_id
        place.delay_ms = min(max(place.delay_ms * 2, low), high)
        place.next_ms = now_ms + self._jittered(place.delay_ms)
        if place.failing_since_ms is None:
            place.failing_since_ms = now_ms

    def lost(self, peer_id: bytes, now_ms: int) -> None:
        """Note that the bond with ``peer_id`` broke: dial again soon, but not all at the same moment."""
        self._put_off(peer_id, now_ms, self._settings.reconnect_min_ms)

    def rejected(self, peer_id: bytes, now_ms: int) -> None:
        """Note that the bond ended for a lasting reason: a new one would end the same way."""
        self._put_off(peer_id, now_ms, self._settings.refused_max_ms)

    def _put_off(self, peer_id: bytes, now_ms: int, delay_ms: int) -> None:
        for place in self._places.values():
            if place.peer_id == peer_id and not place.dialling:
                place.delay_ms = 0
                place.next_ms = now_ms + self._jittered(delay_ms)

    def departed(self, peer_id: bytes, now_ms: int) -> None:
        """Note that ``peer_id`` left for good; another node may begin to use a seed's address."""
        for address, place in list(self._places.items()):
            if place.peer_id != peer_id:
                continue
            if place.seed:
                place.peer_id = None
                place.next_ms = now_ms + self._jittered(self._settings.refused_min_ms)
            else:
                del self._places[address]

    def _place(self, address: str, next_ms: int) -> _Place | None:
        place = self._places.get(address)
        if place is None and len(self._places) < PLACES_MAX:
            place = self._places[address] = _Place(seed=False, next_ms=next_ms)
        return place

    def _forget(self, now_ms: int) -> None:
        limit_ms = self._settings.forget_after_ms
        dead = [
            address
            for address, place in self._places.items()
            if not place.seed
            and not place.dialling
            and place.failing_since_ms is not None
            and now_ms - place.failing_since_ms >= limit_ms
        ]
        for address in dead:
            del self._places[address]

    def _jittered(self, delay_ms: int) -> int:
        """Return between half of ``delay_ms`` and all of it."""
        half = delay_ms // 2
        return half + self._randrange(delay_ms - half + 1)
