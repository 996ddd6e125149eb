"""Few places and many applicants: the longest to wait without credentials is the first to be sent away.

If a full pool refused the newest applicant, the first ones could hold it for as long as they stayed: four
silent addresses could keep a member out of every handshake place. Here the newest applicant gets in. When
there is no place, another must go: in the *share* (an address, an IPv6 /64, a caller) that has the most
places, it is the one that has waited longest. So an applicant that takes many places crowds out itself, and a
share with one place is the last to be touched.

There are two standings, each with room that the other cannot take. *Strangers* have shown nothing but an
address. The *known* have shown credentials, or their address has been used with credentials. No stranger
crowds out one of the known.

``Places`` is for applicants that can be sent away (connections, waiting requests). ``Room`` is for resources
that cannot be taken back once they are given (memory, requests in execution): there no one gets all of it.
"""

import ipaddress
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Share = Hashable

RESERVED_PART: Final = 8  # an eighth of the places for each standing
_IPV6_SHARE_BITS: Final = 64  # the least that one subscriber gets (RFC 6177)


def share_of_address(ip: str) -> str:
    """Return the share of a remote address: IPv4 by itself, IPv6 by its /64, all of which a host can have."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        prefix = int(address) >> (128 - _IPV6_SHARE_BITS) << (128 - _IPV6_SHARE_BITS)
        return f"{ipaddress.IPv6Address(prefix)}/{_IPV6_SHARE_BITS}"
    return str(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of a pool is in use, for metrics.

    Attributes:
        pool: its name.
        limit: the size of the pool.
        strangers, known: how much each standing has.
        sent_away: how often an applicant had to go, or got nothing, since the start.
    """

    pool: str
    limit: int
    strangers: int
    known: int
    sent_away: int


class _Line(Generic[T]):
    """The items of one standing, by share, and the shares by number of items. A step takes constant time."""

    def __init__(self) -> None:
        self.count = 0
        self._items: dict[Share, dict[T, None]] = {}  # of each share, oldest first
        self._by_size: list[dict[Share, None]] = [{}]

    def size_of(self, share: Share) -> int:
        return len(self._items.get(share, ()))

    def add(self, item: T, share: Share) -> None:
        items = self._items.setdefault(share, {})
        self._resize(share, len(items), len(items) + 1)
        items[item] = None
        self.count += 1

    def remove(self, item: T, share: Share) -> None:
        items = self._items[share]
        del items[item]
        self._resize(share, len(items) + 1, len(items))
        if not items:
            del self._items[share]
        self.count -= 1

    def oldest_of(self, share: Share) -> T:
        return next(iter(self._items[share]))

    def first_to_go(self, may_go: Callable[[T], bool]) -> T | None:
        """Return the oldest item that may go, from the share with the most places (for longest)."""
        for shares in reversed(self._by_size):
            for share in shares:
                for item in self._items[share]:
                    if may_go(item):
                        return item
        return None

    def next_in_turn(self) -> T | None:
        """Return the oldest item of the share whose turn it is; its next turn comes after all others'."""
        for share, items in self._items.items():
            self._items[share] = self._items.pop(share)
            return next(iter(items))
        return None

    def _resize(self, share: Share, before: int, after: int) -> None:
        by_size = self._by_size
        if before:
            del by_size[before][share]
        if after:
            if after == len(by_size):
                by_size.append({})
            by_size[after][share] = None
        while len(by_size) > 1 and not by_size[-1]:
            by_size.pop()


class Places(Generic[T]):
    """A pool of places for applicants that can be sent away.

    Args:
        name: of the pool, for metrics.
        places_max: at a time.
        share_max: places of one share; by default as many as the pool has.
        reserved: places of each standing that the other cannot take; by default an eighth.
        may_go: whether one of the known can be sent away now. Strangers always can.
    """

    def __init__(
        self,
        name: str,
        places_max: int,
        *,
        share_max: int | None = None,
        reserved: int | None = None,
        may_go: Callable[[T], bool] = lambda _: True,
    ) -> None:
        self._name = name
        self._places_max = places_max
        self._standing_max = places_max - (places_max // RESERVED_PART if reserved is None else reserved)
        self._share_max = places_max if share_max is None else share_max
        self._may_go = may_go
        self._strangers: _Line[T] = _Line()
        self._known: _Line[T] = _Line()
        self._where: dict[T, tuple[_Line[T], Share]] = {}
        self._sent_away = 0
        self._known_had_turn = False

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, item: T) -> bool:
        return item in self._where

    @property
    def usage(self) -> Usage:
        return Usage(
            pool=self._name,
            limit=self._places_max,
            strangers=self._strangers.count,
            known=self._known.count,
            sent_away=self._sent_away,
        )

    def enter(self, item: T, share: Share, *, known: bool) -> T | None:
        """Give ``item`` a place, and return which item must go: None, another one, or ``item`` itself.

        An item that has a place already enters again: it may have another share or become one of the known,
        and it counts as new.
        """
        self.leave(item)
        line = self._known if known else self._strangers
        line.add(item, share)
        self._where[item] = (line, share)
        if line.size_of(share) > self._share_max:
            goes: T | None = line.oldest_of(share)
        elif line.count > self._standing_max:
            goes = self._first_of(line)
        elif len(self._where) > self._places_max:
            goes = self._first_of(self._strangers if self._strangers.count else self._known)
        else:
            return None
        goes = item if goes is None else goes
        self.leave(goes)
        self._sent_away += 1
        return goes

    def leave(self, item: T) -> None:
        """Free the place of ``item``, if it has one."""
        where = self._where.pop(item, None)
        if where is not None:
            line, share = where
            line.remove(item, share)

    def take_next(self) -> T | None:
        """Take out the next item: the standings take turns, in each the shares take turns, then by age."""
        lines = (self._strangers, self._known) if self._known_had_turn else (self._known, self._strangers)
        for line in lines:
            item = line.next_in_turn()
            if item is not None:
                self._known_had_turn = line is self._known
                self.leave(item)
                return item
        return None

    def _first_of(self, line: _Line[T]) -> T | None:
        return line.first_to_go(self._may_go if line is self._known else lambda _: True)


class Room:
    """An amount of a resource that cannot be taken back.

    Strangers together get an eighth of it, one caller all but an eighth.

    Args:
        name: for metrics.
        amount_max: the whole amount.
        one_min: the least that one of them can have if no other has anything: for a single request.
    """

    def __init__(self, name: str, amount_max: int, *, one_min: int = 1) -> None:
        self._name = name
        self._amount_max = amount_max
        self._strangers_max = max(amount_max // RESERVED_PART, one_min)
        self._caller_max = max(amount_max - amount_max // RESERVED_PART, one_min)
        self._strangers = 0
        self._of_caller: dict[Share, int] = {}
        self._known = 0
        self._refused = 0

    @property
    def taken(self) -> int:
        return self._strangers + self._known

    @property
    def usage(self) -> Usage:
        return Usage(
            pool=self._name,
            limit=self._amount_max,
            strangers=self._strangers,
            known=self._known,
            sent_away=self._refused,
        )

    def move(self, amount: int, caller: Share | None, to: Share) -> bool:
        """Move what ``take`` gave to ``caller`` to another, which returns False if there is no room."""
        if to == caller:
            return True
        self.give_back(amount, caller)
        if self.take(amount, to):
            return True
        again = self.take(amount, caller)
        assert again, "it was there a moment ago"
        return False

    def stay(self, caller: Share | None = None) -> "Stay":
        """Return a new, empty holding; without ``caller`` it is a stranger's."""
        return Stay(self, caller)

    def take(self, amount: int, caller: Share | None) -> bool:
        """Take ``amount`` for a caller, or for a stranger (None), if there is room for it."""
        if self._strangers + self._known + amount > self._amount_max:
            self._refused += 1
            return False
        if caller is None:
            if self._strangers + amount > self._strangers_max:
                self._refused += 1
                return False
            self._strangers += amount
            return True
        of_caller = self._of_caller.get(caller, 0) + amount
        if of_caller > self._caller_max:
            self._refused += 1
            return False
        self._known += amount
        self._of_caller[caller] = of_caller
        return True

    def give_back(self, amount: int, caller: Share | None) -> None:
        """Give back what ``take`` gave to the same caller."""
        if caller is None:
            self._strangers -= amount
            assert self._strangers >= 0
            return
        self._known -= amount
        left = self._of_caller.get(caller, 0) - amount
        assert left >= 0
        if left:
            self._of_caller[caller] = left
        else:
            self._of_caller.pop(caller, None)


class Stay:
    """One holding in a room: a stranger's at first, and a caller's once the caller is known.

    Attributes:
        amount: taken.
    """

    __slots__ = ("_caller", "_room", "amount")

    def __init__(self, room: Room, caller: Share | None) -> None:
        self._room = room
        self._caller = caller
        self.amount = 0

    def take(self, amount: int) -> bool:
        """Take more, if there is room for it."""
        if not self._room.take(amount, self._caller):
            return False
        self.amount += amount
        return True

    def vouch(self, caller: Share) -> bool:
        """Move the holding to ``caller``; False, and nothing changes, if the caller cannot have this much."""
        if not self._room.move(self.amount, self._caller, caller):
            return False
        self._caller = caller
        return True

    def give_back(self, amount: int) -> None:
        """Give a part of it back."""
        self._room.give_back(amount, self._caller)
        self.amount -= amount

    def end(self) -> None:
        """Give all of it back."""
        self._room.give_back(self.amount, self._caller)
        self.amount = 0
