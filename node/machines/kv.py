"""A key-value store with etcd's data model: every change has a revision, and the recent past can be read.

Keys and values are bytes; in commands they are text, or base64 under ``key_b64``, ``value_b64`` (and so on),
and in results text when the bytes are valid UTF-8, otherwise base64 under the same names.

Commands:

    {"op": "put", "key", "value", "prev"?: bool}   -> {"revision", "create_revision", "version", "prev"?}
    {"op": "delete", "key", "prev"?: bool}         -> {"revision", "deleted": 0 | 1, "prev"?}
    {"op": "cas", "key", "expect", "value"}        -> {"revision", "swapped": bool, "item"?}

``prev: true`` requests the item that the key held before, or null. ``cas``: null in ``expect`` means "the key
is absent", null in ``value`` means "make it absent". A mismatch is an answer, not an error, and ``item`` then
shows what the key holds (or null). Results do not repeat what the caller just sent.

Queries:

    {"op": "get", "key", "revision"?}                            -> {"revision", "item"}
    {"op": "list", "prefix", "after"?, "limit"?, "revision"?}    -> {"revision", "items", "more"}

An *item* is ``{"key", "value", "create_revision", "mod_revision", "version"}`` with etcd's meanings: the
revision that created this life of the key, the one that last changed it, and the number of changes in this
life from 1. ``revision`` in a result is the store's: 1 when empty, one more with every command that changed
something. ``list`` is in byte order of the keys; to go on, pass the last key as ``after``.
"""

from collections import deque
from collections.abc import Iterator
from heapq import merge
from itertools import takewhile
from typing import Any, Final, Self

from msgspec import Struct

from node.machines.base import ApplyContext, CommandError, FrozenState, StateMachine, Thawing
from node.machines.fields import Fields, plain_put, put_bytes
from node.machines.frozen_kv import FrozenStore, ThawingStore
from node.machines.keys import KeyRange, Touched
from node.machines.sorted_keys import SortedKeys

# Only the command limits keys and values: its size is a setting of the group, at most this.
KEY_BYTES_MAX: Final = 2 * 1024 * 1024
VALUE_BYTES_MAX: Final = 2 * 1024 * 1024
# What a key that exists takes in memory beside the bytes of key and value. It counts towards the group's
# quota: otherwise keys of a few bytes would take fifty times what they count. Equal on every node.
KEY_COST: Final = 256
PAST_COST: Final = 1000  # what a version that ended takes in memory beside the bytes of key and value
# Version 1 has this limit instead of the group's quota, and counts nothing but the bytes.
VERSION_1_BYTES_MAX: Final = 256 * 1024 * 1024
LIST_LIMIT_DEFAULT: Final = 1000
LIST_LIMIT_MAX: Final = 10_000
LIST_BYTES_MAX: Final = 4 * 1024 * 1024
# How much of the past can be read: older versions are compacted, oldest first. Part of the state (and so of
# the signature): equal on every node.
HISTORY_VERSIONS_MAX: Final = 10_000
HISTORY_BYTES_MAX: Final = 16 * 1024 * 1024
REVISION_START: Final = 1  # as in etcd: an empty store is at revision 1, the first change makes 2
REVISION_MAX: Final = 2**63 - 1


# Every change makes some of these, and a node that catches up makes tens of thousands of changes a second.
class Version(Struct, frozen=True, gc=False):
    """What a key held from ``mod_revision`` on."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


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


class KeyValue(StateMachine):
    """See the module's documentation for commands, queries and results.

    ``savepoint`` starts an undo log; ``rollback`` works only with the newest savepoint.
    """

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
        self._savepoints = 0
        self._frozen: list[FrozenStore] = []

    @property
    def signature(self) -> str:
        return "bondstone/kv/v2"

    @property
    def versions(self) -> range:
        return range(1, 3)

    def migrate(self, old: int, new: int) -> None:
        """Change nothing: the versions differ in the limit alone. A store that is beyond it only shrinks."""

    # ---- commands -------------------------------------------------------------
    def apply(self, command: Any, context: ApplyContext) -> dict[str, Any]:
        plain = plain_put(command, key_bytes_max=KEY_BYTES_MAX, value_bytes_max=VALUE_BYTES_MAX)
        if plain is not None:
            key, value = plain
            after = self._write(key, value, self._live.get(key), context)
            return {
                "revision": after.mod_revision,
                "create_revision": after.create_revision,
                "version": after.version,
            }
        fields = Fields(command)
        match fields.op():
            case "put":
                return self._put(fields, context)
            case "delete":
                return self._delete(fields)
            case "cas":
                return self._cas(fields, context)
            case _:
                raise _unknown_command()

    def check(self, command: Any) -> None:
        if plain_put(command, key_bytes_max=KEY_BYTES_MAX, value_bytes_max=VALUE_BYTES_MAX) is not None:
            return
        fields = Fields(command)
        match fields.op():
            case "put":
                _put_of(fields)
            case "delete":
                _delete_of(fields)
            case "cas":
                _cas_of(fields)
            case _:
                raise _unknown_command()

    def _put(self, fields: Fields, context: ApplyContext) -> dict[str, Any]:
        key, value, wants_previous = _put_of(fields)
        before = self._live.get(key)
        after = self._write(key, value, before, context)
        result: dict[str, Any] = {
            "revision": self._revision,
            "create_revision": after.create_revision,
            "version": after.version,
        }
        if wants_previous:
            result["prev"] = _item(key, before)
        return result

    def _delete(self, fields: Fields) -> dict[str, Any]:
        key, wants_previous = _delete_of(fields)
        before = self._live.get(key)
        if before is not None:
            self._remove(key, before)
        result: dict[str, Any] = {"revision": self._revision, "deleted": 0 if before is None else 1}
        if wants_previous:
            result["prev"] = _item(key, before)
        return result

    def _cas(self, fields: Fields, context: ApplyContext) -> dict[str, Any]:
        key, expect, value = _cas_of(fields)
        before = self._live.get(key)
        swapped = expect == (None if before is None else before.value)
        if swapped and value is not None:
            self._write(key, value, before, context)
        elif swapped and before is not None:
            self._remove(key, before)
        result: dict[str, Any] = {"revision": self._revision, "swapped": swapped}
        if not swapped:
            result["item"] = _item(key, before)
        return result

    # ---- memory -------------------------------------------------------------------
    @property
    def memory_bytes(self) -> int:
        frozen = sum(one.size for one in self._frozen)
        past = self._past_bytes + PAST_COST * len(self._past)
        return self._live_bytes + KEY_COST * len(self._live) + past + frozen

    def frees(self, command: Any) -> bool:
        if not isinstance(command, dict):
            return False
        op = command.get("op")
        return op == "delete" or (op == "cas" and command.get("value", "") is None)

    # ---- which keys -------------------------------------------------------------
    def keys_of(self, command: Any) -> Touched:
        """Return the keys; a command whose result shows what a key held before reads that key too."""
        fields = Fields(command)
        match fields.op():
            case "put" | "delete":
                key = (KeyRange.of_key(_key_of(fields)),)
                return Touched(reads=key if fields.boolean("prev") else (), writes=key)
            case "cas":
                key = (KeyRange.of_key(_key_of(fields)),)
                return Touched(reads=key, writes=key)
            case _:
                raise _unknown_command()

    def keys_of_query(self, query: Any) -> Touched:
        """Return the keys; a list touches its whole prefix, wherever it begins and however much it shows."""
        fields = Fields(query)
        match fields.op():
            case "get":
                return Touched(reads=(KeyRange.of_key(_key_of(fields)),))
            case "list":
                return Touched(reads=(KeyRange.of_prefix(_prefix_of(fields)),))
            case _:
                raise _unknown_query()

    # ---- queries --------------------------------------------------------------
    def query(self, query: Any) -> dict[str, Any]:
        fields = Fields(query)
        match fields.op():
            case "get":
                return self._get(fields)
            case "list":
                return self._list(fields)
            case _:
                raise _unknown_query()

    def _get(self, fields: Fields) -> dict[str, Any]:
        key = _key_of(fields)
        at = self._revision_of(fields)
        fields.done()
        return {"revision": self._revision, "item": _item(key, self._version_at(key, at))}

    def _list(self, fields: Fields) -> dict[str, Any]:
        prefix = _prefix_of(fields)
        after = fields.optional_bytes_of("after", bytes_max=KEY_BYTES_MAX)
        limit = fields.integer("limit", default=LIST_LIMIT_DEFAULT, low=1, high=LIST_LIMIT_MAX)
        at = self._revision_of(fields)
        fields.done()
        items: list[dict[str, Any] | None] = []
        budget = LIST_BYTES_MAX
        more = False
        for key in self._keys_at(prefix, after, at):
            version = self._version_at(key, at)
            if version is None:
                continue
            budget -= len(key) + len(version.value)
            if len(items) == limit or (items and budget < 0):
                more = True
                break
            items.append(_item(key, version))
        return {"revision": self._revision, "items": items, "more": more}

    def _revision_of(self, fields: Fields) -> int:
        at = fields.integer("revision", default=self._revision, low=1, high=REVISION_MAX)
        if at > self._revision:
            raise CommandError("revision-future", f"the store is at revision {self._revision}")
        if at < self._compact_revision:
            raise CommandError(
                "revision-compacted", f"the oldest readable revision is {self._compact_revision}"
            )
        return at

    def _version_at(self, key: bytes, at: int) -> Version | None:
        live = self._live.get(key)
        if live is not None and live.mod_revision <= at:
            return live
        for past in self._past_of.get(key, ()):
            if past.was.mod_revision <= at < past.end_revision:
                return past.was
        return None

    def _keys_at(self, prefix: bytes, after: bytes | None, at: int) -> Iterator[bytes]:
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
    def _write(self, key: bytes, value: bytes, before: Version | None, context: ApplyContext) -> Version:
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

    def _remove(self, key: bytes, before: Version) -> None:
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
    def savepoint(self) -> tuple[int, int]:
        """Return a token; changes before it can no longer be undone."""
        self._undo.clear()
        self._savepoints += 1
        return (self._savepoints, self._revision)

    def rollback(self, savepoint: tuple[int, int]) -> None:
        serial, revision = savepoint
        assert serial == self._savepoints, "only the newest savepoint can be rolled back to"
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

    def restore(self, snapshot: Any) -> None:
        """Replace everything.

        Raises:
            ValueError: this is not a snapshot of this machine; the state is unchanged.
        """
        fresh = type(self)()
        try:
            fresh._load(snapshot)
        except (KeyError, TypeError) as exc:
            raise ValueError("not a snapshot of a KeyValue") from exc
        self.become(fresh)

    def become(self, fresh: Self) -> None:
        """Take the whole state of another store."""
        savepoints = self._savepoints + 1  # an earlier savepoint has no state to return to
        self.__dict__.update(fresh.__dict__)
        self._savepoints = savepoints

    def _load(self, snapshot: Any) -> None:
        self.load(int(snapshot["revision"]), int(snapshot["compact_revision"]))
        for row in snapshot["live"]:
            self.load_live(row)
        for row in snapshot["past"]:
            self.load_past(row)

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

    def thaw(self) -> Thawing:
        return ThawingStore(self)

    def load(self, revision: int, compact_revision: int) -> None:
        """Set the revisions of a store that is being restored."""
        self._revision, self._compact_revision = revision, compact_revision


def _key_of(fields: Fields) -> bytes:
    key = fields.bytes_of("key", bytes_max=KEY_BYTES_MAX)
    if not key:
        raise CommandError("key-empty", "a key has at least one byte")
    return key


def _prefix_of(fields: Fields) -> bytes:
    return fields.optional_bytes_of("prefix", bytes_max=KEY_BYTES_MAX) or b""


def _unknown_command() -> CommandError:
    return CommandError("op-unknown", "the commands are `put`, `delete` and `cas`")


def _unknown_query() -> CommandError:
    return CommandError("op-unknown", "the queries are `get` and `list`")


def _put_of(fields: Fields) -> tuple[bytes, bytes, bool]:
    """Return key, value, and whether the caller requests the item before."""
    key = _key_of(fields)
    value = fields.bytes_of("value", bytes_max=VALUE_BYTES_MAX)
    wants_previous = fields.boolean("prev")
    fields.done()
    return key, value, wants_previous


def _delete_of(fields: Fields) -> tuple[bytes, bool]:
    """Return key, and whether the caller requests the item before."""
    key = _key_of(fields)
    wants_previous = fields.boolean("prev")
    fields.done()
    return key, wants_previous


def _cas_of(fields: Fields) -> tuple[bytes, bytes | None, bytes | None]:
    """Return key, the expected value, and the new one."""
    key = _key_of(fields)
    expect = fields.nullable_bytes_of("expect", bytes_max=VALUE_BYTES_MAX)
    value = fields.nullable_bytes_of("value", bytes_max=VALUE_BYTES_MAX)
    fields.done()
    return key, expect, value


def _size(past: Past) -> int:
    return len(past.key) + len(past.was.value)


def _row(version: Version) -> tuple[bytes, int, int, int]:
    return (version.value, version.create_revision, version.mod_revision, version.version)


def _item(key: bytes, version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    item: dict[str, Any] = {}
    put_bytes(item, "key", key)
    put_bytes(item, "value", version.value)
    item["create_revision"] = version.create_revision
    item["mod_revision"] = version.mod_revision
    item["version"] = version.version
    return item
