"""The whole replicated state as frames, and back: what a snapshot of a group holds.

Sections, in this order:

    0 head        [genesis, [index, payload] of the last CONFIG, applied cursor, applied_ms, commands,
                  [level, machine family, machine version], [[index, term]...]]
                      genesis: [term, time_ms, payload] of entry 1
    1 sessions    [expiry_ms], then one session each
    2 keys        the idempotency keys
    3 system      the system state
    4 machine     its snapshot, for a machine that does not freeze
    5 machine     null, then the items of one that does
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from node.features import Levels, levels_untrusted
from node.machines.base import FrozenState, Thawing
from node.raft.entries import decode_config_untrusted, genesis_start, make_entry
from node.raft.replica import Replica
from node.raft.sessions import FrozenTable
from node.raft.types import Cursor, Entry, EntryKind
from node.sync.image import frame

_HEAD: Final = 0
_SESSIONS: Final = 1
_KEYS: Final = 2
_SYSTEM: Final = 3
_WHOLE: Final = 4
_ITEM: Final = 5


class NotRestorableError(Exception):
    """These frames are not a state that this member can take; nothing has changed."""


def freeze(replica: Replica) -> tuple[Iterator[bytes], Callable[[], None]]:
    """Freeze the state of ``replica`` at the entry that it has just applied.

    Returns the frames, which may be taken while further entries are applied, and what to call when no more
    of them are wanted.

    Raises:
        Exception: of any kind: the machine, or the system state, offers no snapshot or fails.
    """
    genesis, config, levels = replica.genesis, replica.config, replica.levels
    assert genesis is not None
    assert config is not None
    assert levels is not None
    head_values = [
        [genesis.term, genesis.time_ms, genesis.payload],
        list(config),
        list(replica.applied),
        replica.applied_ms,
        replica.commands,
        levels.encode(),
        [list(term) for term in replica.terms],
    ]
    # What may raise comes first: a frozen part that nobody releases would note every change for ever.
    # A machine's or system state's own snapshot may refer to what the next command changes.
    head = frame(_HEAD, head_values)
    system = frame(_SYSTEM, replica.system.snapshot())
    frozen = replica.machine.freeze()
    whole = frame(_WHOLE, replica.machine.snapshot()) if frozen is None else b""
    table = replica.table.freeze()

    def release() -> None:
        table.release()
        if frozen is not None:
            frozen.release()

    return _frames(head, table, system, whole, frozen), release


def _frames(
    head: bytes, table: FrozenTable, system: bytes, whole: bytes, frozen: FrozenState | None
) -> Iterator[bytes]:
    yield head
    for session in table.sessions():
        yield frame(_SESSIONS, session)
    for key in table.used_keys():
        yield frame(_KEYS, key)
    yield system
    if frozen is None:
        yield whole
    else:
        yield frame(_ITEM, None)  # an empty state may have no items
        for item in frozen.items():
            yield frame(_ITEM, item)


class Loading:
    """Frames on their way into a fresh replica. Machine and system state change in ``finish`` alone.

    Args:
        fresh: a replica that has applied nothing, over the machine that will take the state, and with a
            system state of its own.

    Attributes:
        genesis: the first entry of the group's log.
        config_index: of the configuration at the snapshot's anchor.
        config_payload: of its entry.
    """

    def __init__(self, fresh: Replica) -> None:
        self.genesis: Entry | None = None
        self.config_index = 0
        self.config_payload = b""
        self.levels: Levels | None = None
        self._replica = fresh
        self._thawing: Thawing | None = None
        self._whole: list[Any] = []
        self._sections: set[int] = set()
        self._takers: dict[int, Callable[[Any], None]] = {
            _HEAD: self._take_head,
            _SESSIONS: fresh.table.load_session,
            _KEYS: fresh.table.load_keys,
            _SYSTEM: fresh.system.restore,
            _WHOLE: self._whole.append,
            _ITEM: self._take_item,
        }

    @property
    def applied(self) -> Cursor:
        """The entry at which the state was frozen."""
        return self._replica.applied

    def take(self, section: int, value: Any) -> None:
        """Take the next frame.

        Raises:
            NotRestorableError: it is none of such a state.
        """
        self._sections.add(section)
        take = self._takers.get(section)
        if take is None:
            raise NotRestorableError(f"a section {section}")
        try:
            take(value)
        except NotRestorableError:
            raise
        except Exception as exc:
            raise NotRestorableError(f"{type(exc).__name__}: {exc}") from exc

    def _take_head(self, value: Any) -> None:
        replica = self._replica
        match value:
            case [
                [int(term), int(time_ms), bytes(genesis)],
                [int(config_index), bytes(config)],
                [int(applied_term), int(applied_index)],
                int(applied_ms),
                int(commands),
                levels,
                [*terms],
            ]:
                self.genesis = replica.genesis = make_entry(
                    genesis_start(genesis), term=term, kind=EntryKind.CONFIG, time_ms=time_ms, payload=genesis
                )
                decode_config_untrusted(config)
                self.config_index, self.config_payload = config_index, config
                self.levels = levels_untrusted(levels)
                replica.take_levels(self.levels)
                replica.config = (config_index, config)
                replica.applied = Cursor(applied_term, applied_index)
                replica.applied_ms, replica.commands = applied_ms, commands
                replica.terms.extend((index, term) for index, term in terms)
            case _:
                raise NotRestorableError("the head is malformed")

    def _take_item(self, value: Any) -> None:
        if self._thawing is None:
            self._thawing = self._replica.machine.thaw()
        else:
            self._thawing.take(value)

    def finish(self) -> Replica:
        """Give the machine its state; return the replica.

        Raises:
            NotRestorableError: parts are missing, or the machine refuses them; it is unchanged.
        """
        machine = _ITEM if self._thawing is not None else _WHOLE
        if self._sections != {_HEAD, _SESSIONS, _KEYS, _SYSTEM, machine}:
            raise NotRestorableError("sections are missing")
        try:
            if self._thawing is not None:
                self._thawing.finish()
            else:
                (whole,) = self._whole
                self._replica.machine.restore(whole)
        except Exception as exc:
            raise NotRestorableError(f"{type(exc).__name__}: {exc}") from exc
        return self._replica
