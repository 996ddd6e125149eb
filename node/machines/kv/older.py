"""The store of versions 1 and 2: a past that is bounded by itself, and no leases."""

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import takewhile
from typing import Any, Final

from msgspec import Struct

from node.machines.base import ApplyContext, CommandError, FrozenState
from node.machines.kv.frozen_older import FrozenStore
from node.machines.kv.sorted_keys import SortedKeys
from node.machines.kv.values import KEY_COST, REVISION_START, Version

PAST_COST: Final = 1000  # what a version that ended takes in memory beside the bytes of key and value
# Version 1 has this limit instead of the group's quota, and counts nothing but the bytes.
VERSION_1_BYTES_MAX: Final = 256 * 1024 * 1024
# How much of the past can be read: older versions are compacted, oldest first. Part of the state (and so of
# the signature): equal on every node.
HISTORY_VERSIONS_MAX: Final = 10_000
HISTORY_BYTES_MAX: Final = 16 * 1024 * 1024


class Past(Struct, frozen=True, gc=False):
    """A version that was replaced or deleted at ``end_revision``."""

    key: bytes
    was: Version
    end_revision: int


class _WasLive(Struct, frozen=True, gc=False):
    """The key held ``version`` (then the youngest of the past), or nothing."""

    key: bytes
    version: Version | None


class _WasCompacted(Struct, frozen=True, gc=False):
    past: Past
    compact_revision: int


_Undo = _WasLive | _WasCompacted


class OlderStore:
    """``savepoint`` starts an undo log; ``rollback`` works only with the newest savepoint."""

    def __init__(self) -> None:
        self._revision = REVISION_START
        self._compact_revision = 0
        self._live: dict[bytes, Version] = {}
        self._keys = SortedKeys()
        self._live_bytes = 0
        self._past: deque[Past] = deque()  # by end_revision
        self._past_of: dict[bytes, deque[Past]] = {}
        self._past_bytes = 0
        self._undo: list[_Undo] = []
        self._frozen: list[FrozenStore] = []

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def compact_revision(self) -> int:
        return self._compact_revision

    def held(self, key: bytes) -> Version | None:
        """Return what ``key`` holds now."""
        return self._live.get(key)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was ever written."""
        return self._revision == REVISION_START

    def history(self) -> tuple[Iterator[tuple[bytes, Version]], Iterable[Past]]:
        """Return what every key holds, in byte order, and the versions that ended, in that order."""
        return ((key, self._live[key]) for key in self._keys), self._past

    # ---- memory -------------------------------------------------------------------
    @property
    def memory_bytes(self) -> int:
        frozen = sum(one.size for one in self._frozen)
        past = self._past_bytes + PAST_COST * len(self._past)
        return self._live_bytes + KEY_COST * len(self._live) + past + frozen

    def version_at(self, key: bytes, at: int) -> Version | None:
        live = self._live.get(key)
        if live is not None and live.mod_revision <= at:
            return live
        for past in self._past_of.get(key, ()):
            if past.was.mod_revision <= at < past.end_revision:
                return past.was
        return None

    def keys_at(self, prefix: bytes, after: bytes | None, at: int) -> Iterator[bytes]:
        """Yield, in order, every key with the prefix that may have had a version at ``at``."""
        start = prefix if after is None else max(prefix, after + b"\x00")  # the next key after ``after``
        live = takewhile(lambda key: key.startswith(prefix), self._keys.from_key(start))
        if at == self._revision:
            return live
        gone = sorted(
            key for key in self._past_of if key >= start and key.startswith(prefix) and key not in self._live
        )
        return merge(live, gone)

    # ---- changes, each with its inverse in the undo log ---------------------------
    def write(self, key: bytes, value: bytes, before: Version | None, context: ApplyContext) -> Version:
        grown = len(key) + len(value) if before is None else len(value) - len(before.value)
        if grown > 0:
            self._require_room(grown, before is None, context)
        revision = self._revision = self._revision + 1
        self._live_bytes += grown
        self._undo.append(_WasLive(key, before))
        for frozen in self._frozen:
            frozen.keep(key, before)
        if before is None:
            after = self._live[key] = Version(value, revision, revision, 1)
            self._keys.add(key)
        else:
            after = self._live[key] = Version(value, before.create_revision, revision, before.version + 1)
            self._supersede(key, before)
        return after

    def _require_room(self, grown: int, is_new: bool, context: ApplyContext) -> None:
        """Raise if the store would be too large with ``grown`` bytes more, of a key that may be new."""
        if context.version == 1:
            size, limit = self._live_bytes, VERSION_1_BYTES_MAX
        else:
            size, limit = self._live_bytes + KEY_COST * (len(self._live) + is_new), context.quota_bytes
        if size + grown > limit:
            raise CommandError("store-full", f"the store is limited to {limit} bytes; delete some keys")

    def remove(self, key: bytes, before: Version) -> None:
        self._revision += 1
        self._set_live(key, None)
        self._undo.append(_WasLive(key, before))
        self._supersede(key, before)

    def _supersede(self, key: bytes, before: Version) -> None:
        """Make ``before`` the youngest of the past versions."""
        self._remember(Past(key, before, self._revision))
        while len(self._past) > HISTORY_VERSIONS_MAX or self._past_bytes > HISTORY_BYTES_MAX:
            self._compact_oldest()

    def _remember(self, past: Past) -> None:
        self._past.append(past)
        self._past_bytes += len(past.key) + len(past.was.value)
        past_of = self._past_of.get(past.key)
        if past_of is None:
            self._past_of[past.key] = deque((past,))
        else:
            past_of.append(past)

    def _compact_oldest(self) -> None:
        past = self._past.popleft()
        key = past.key
        versions = self._past_of[key]
        versions.popleft()
        if not versions:
            del self._past_of[key]
        self._past_bytes -= len(key) + len(past.was.value)
        self._undo.append(_WasCompacted(past, self._compact_revision))
        self._compact_revision = past.end_revision

    def _drop_youngest(self, key: bytes) -> None:
        self._past_bytes -= _size(self._past.pop())
        versions = self._past_of[key]
        versions.pop()
        if not versions:
            del self._past_of[key]

    def _set_live(self, key: bytes, version: Version | None) -> None:
        before = self._live.get(key)
        for frozen in self._frozen:
            frozen.keep(key, before)
        if before is not None:
            self._live_bytes -= len(key) + len(before.value)
        if version is None:
            if before is not None:
                del self._live[key]
                self._keys.remove(key)
            return
        if before is None:
            self._keys.add(key)
        self._live[key] = version
        self._live_bytes += len(key) + len(version.value)

    # ---- undo -------------------------------------------------------------------
    def savepoint(self) -> int:
        """Return a token; changes before it can no longer be undone."""
        self._undo.clear()
        return self._revision

    def rollback(self, revision: int) -> None:
        while self._undo:
            match self._undo.pop():
                case _WasLive(key, version):
                    self._set_live(key, version)
                    if version is not None:
                        self._drop_youngest(key)
                case _WasCompacted(past, compact_revision):
                    self._past.appendleft(past)
                    self._past_of.setdefault(past.key, deque()).appendleft(past)
                    self._past_bytes += _size(past)
                    self._compact_revision = compact_revision
        self._revision = revision

    # ---- snapshots ----------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """Return live keys in byte order, then the readable past in the order in which it ended."""
        return {
            "revision": self._revision,
            "compact_revision": self._compact_revision,
            "live": [[key, *_row(self._live[key])] for key in self._keys],
            "past": [[past.key, *_row(past.was), past.end_revision] for past in self._past],
        }

    def load_live(self, row: Any) -> None:
        """Add a key of a store that is being restored."""
        key, value, create_revision, mod_revision, version = row
        self._set_live(bytes(key), Version(bytes(value), create_revision, mod_revision, version))

    def load_past(self, row: Any) -> None:
        """Add a version that ended, of a store that is being restored."""
        key, value, create_revision, mod_revision, version, end_revision = row
        was = Version(bytes(value), create_revision, mod_revision, version)
        self._remember(Past(bytes(key), was, end_revision))

    def freeze(self) -> FrozenState:
        """Freeze in constant time, and copy what changes before it has been walked."""
        frozen = FrozenStore(
            [self._revision, self._compact_revision],
            [[past.key, *_row(past.was), past.end_revision] for past in self._past],
            self._live,
            self._keys,
            self._frozen,
        )
        self._frozen.append(frozen)
        return frozen

    def load(self, revision: int, compact_revision: int) -> None:
        """Set the revisions of a store that is being restored."""
        self._revision, self._compact_revision = revision, compact_revision


def _size(past: Past) -> int:
    return len(past.key) + len(past.was.value)


def _row(version: Version) -> tuple[bytes, int, int, int]:
    return (version.value, version.create_revision, version.mod_revision, version.version)
