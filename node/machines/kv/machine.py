"""A key-value store with etcd's data model: every change has a revision, and the past can be read.

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

Versions 1 and 2 keep a bounded past (``older``). Version 3 keeps all of it until it is told to compact
(``store``), and also has commands and queries that are lists: transactions, ranges, leases (``commands``,
``queries``; the forms are in docs/kv.md).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from node.machines.base import (
    QUOTA_BYTES_DEFAULT,
    ApplyContext,
    CommandError,
    FrozenState,
    StateMachine,
    Thawing,
)
from node.machines.fields import Fields, plain_put, put_bytes
from node.machines.keys import KeyRange, Touched
from node.machines.kv.commands import apply_list, check_list, frees_list, keys_of_list
from node.machines.kv.frozen import VERSION, FrozenThird, ThawingThird
from node.machines.kv.frozen_older import ThawingOlder
from node.machines.kv.leases import LeaseTable
from node.machines.kv.older import OlderStore
from node.machines.kv.queries import answer_list, keys_of_list_query
from node.machines.kv.store import EVENT_COST, Store
from node.machines.kv.values import (
    KEY_BYTES_MAX,
    KEY_COST,
    REVISION_MAX,
    VALUE_BYTES_MAX,
    KeyEvent,
    Version,
)

LIST_LIMIT_DEFAULT: Final = 1000
LIST_LIMIT_MAX: Final = 10_000
LIST_BYTES_MAX: Final = 4 * 1024 * 1024
_LISTS_FROM: Final = 3  # the first version with commands that are lists


class KeyValue(StateMachine):
    """See the module's documentation for commands, queries and results.

    ``savepoint`` starts an undo log; ``rollback`` works only with the newest savepoint.
    """

    def __init__(self) -> None:
        # An untouched store is the older one in every version: members of older releases know its snapshot.
        self._store: OlderStore | Store = OlderStore()
        self._quota_bytes = QUOTA_BYTES_DEFAULT
        self._savepoints = 0

    @property
    def signature(self) -> str:
        return "bondstone/kv/v3"

    @property
    def versions(self) -> range:
        return range(1, 4)

    def migrate(self, old: int, new: int) -> None:  # noqa: ARG002
        """Build the store of version 3. Versions 1 and 2 differ in their limits alone."""
        if new >= _LISTS_FROM and isinstance(self._store, OlderStore) and not self._store.is_untouched:
            self._store = Store.of_older(self._store)

    # ---- what watches and leases need ---------------------------------------------
    @property
    def revision(self) -> int:
        """The head."""
        return self._store.revision

    @property
    def compact_revision(self) -> int:
        """The floor: the oldest revision that can be read."""
        return self._store.compact_revision

    @property
    def leases(self) -> LeaseTable:
        """The leases, to be read only."""
        return self._third().leases

    def events(
        self, first: int, last: int, start: bytes, end: bytes | None
    ) -> Iterator[tuple[int, Sequence[KeyEvent]]]:
        """Yield each revision in ``first..last`` that changed keys of the range, with its events in order.

        An ``end`` of None is behind every key. The group runs version 3: nothing is kept of others' events.

        Raises:
            CommandError: a revision was compacted before its turn came.
        """
        return self._third().events(first, last, start, end)

    # ---- commands -------------------------------------------------------------
    def apply(self, command: Any, context: ApplyContext) -> dict[str, Any] | list[Any]:
        store = self._store
        if context.version >= _LISTS_FROM:
            self._quota_bytes = context.quota_bytes
            if isinstance(store, OlderStore):
                store = self._store = Store.of_older(store)
            if type(command) is list and command:
                return apply_list(store, command, context)
        plain = plain_put(command, key_bytes_max=KEY_BYTES_MAX, value_bytes_max=VALUE_BYTES_MAX)
        if plain is not None:
            key, value = plain
            after = self._write(key, value, store.held(key), context)
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
        if type(command) is list and command:
            check_list(command)
            return
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
        before = self._store.held(key)
        after = self._write(key, value, before, context)
        result: dict[str, Any] = {
            "revision": self._store.revision,
            "create_revision": after.create_revision,
            "version": after.version,
        }
        if wants_previous:
            result["prev"] = _item(key, before)
        return result

    def _delete(self, fields: Fields) -> dict[str, Any]:
        key, wants_previous = _delete_of(fields)
        before = self._store.held(key)
        if before is not None:
            self._remove(key, before)
        result: dict[str, Any] = {"revision": self._store.revision, "deleted": 0 if before is None else 1}
        if wants_previous:
            result["prev"] = _item(key, before)
        return result

    def _cas(self, fields: Fields, context: ApplyContext) -> dict[str, Any]:
        key, expect, value = _cas_of(fields)
        before = self._store.held(key)
        swapped = expect == (None if before is None else before.value)
        if swapped and value is not None:
            self._write(key, value, before, context)
        elif swapped and before is not None:
            self._remove(key, before)
        result: dict[str, Any] = {"revision": self._store.revision, "swapped": swapped}
        if not swapped:
            result["item"] = _item(key, before)
        return result

    def _write(self, key: bytes, value: bytes, before: Version | None, context: ApplyContext) -> Version:
        store = self._store
        if isinstance(store, OlderStore):
            return store.write(key, value, before, context)
        store.require_room(
            len(key) + len(value) + EVENT_COST + (KEY_COST if before is None else 0), context.quota_bytes
        )
        return store.write(key, value, before, store.revision + 1)

    def _remove(self, key: bytes, before: Version) -> None:
        store = self._store
        if isinstance(store, OlderStore):
            store.remove(key, before)
        else:
            store.remove(key, before, store.revision + 1)

    # ---- memory -------------------------------------------------------------------
    @property
    def memory_bytes(self) -> int:
        return self._store.memory_bytes

    def frees(self, command: Any) -> bool:
        if type(command) is list:
            return frees_list(command)
        if not isinstance(command, dict):
            return False
        op = command.get("op")
        return op == "delete" or (op == "cas" and command.get("value", "") is None)

    # ---- which keys -------------------------------------------------------------
    def keys_of(self, command: Any) -> Touched:
        """Return the keys; a command whose result shows what a key held before reads that key too."""
        if type(command) is list and command:
            return keys_of_list(command)
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
        if type(query) is list and query:
            return keys_of_list_query(query)
        fields = Fields(query)
        match fields.op():
            case "get":
                return Touched(reads=(KeyRange.of_key(_key_of(fields)),))
            case "list":
                return Touched(reads=(KeyRange.of_prefix(_prefix_of(fields)),))
            case _:
                raise _unknown_query()

    # ---- queries --------------------------------------------------------------
    def query(self, query: Any) -> dict[str, Any] | list[Any]:
        if type(query) is list and query:
            return answer_list(self._third(), query, self._quota_bytes)
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
        return {"revision": self._store.revision, "item": _item(key, self._store.version_at(key, at))}

    def _list(self, fields: Fields) -> dict[str, Any]:
        prefix = _prefix_of(fields)
        after = fields.optional_bytes_of("after", bytes_max=KEY_BYTES_MAX)
        limit = fields.integer("limit", default=LIST_LIMIT_DEFAULT, low=1, high=LIST_LIMIT_MAX)
        at = self._revision_of(fields)
        fields.done()
        items: list[dict[str, Any] | None] = []
        budget = LIST_BYTES_MAX
        more = False
        for key in self._store.keys_at(prefix, after, at):
            version = self._store.version_at(key, at)
            if version is None:
                continue
            budget -= len(key) + len(version.value)
            if len(items) == limit or (items and budget < 0):
                more = True
                break
            items.append(_item(key, version))
        return {"revision": self._store.revision, "items": items, "more": more}

    def _revision_of(self, fields: Fields) -> int:
        at = fields.integer("revision", default=self._store.revision, low=1, high=REVISION_MAX)
        if at > self._store.revision:
            raise CommandError("revision-future", f"the store is at revision {self._store.revision}")
        if at < self._store.compact_revision:
            raise CommandError(
                "revision-compacted", f"the oldest readable revision is {self._store.compact_revision}"
            )
        return at

    def _third(self) -> Store:
        store = self._store
        if isinstance(store, Store):
            return store
        if store.is_untouched:
            return Store()
        raise CommandError("op-unknown", "the group runs a version of this machine without lists")

    # ---- undo -------------------------------------------------------------------
    def savepoint(self) -> tuple[int, OlderStore | Store, int]:
        """Return a token; changes before it can no longer be undone."""
        self._savepoints += 1
        store = self._store
        return (self._savepoints, store, store.savepoint())

    def rollback(self, savepoint: tuple[int, OlderStore | Store, int]) -> None:
        serial, store, revision = savepoint
        assert serial == self._savepoints, "only the newest savepoint can be rolled back to"
        store.rollback(revision)
        self._store = store

    # ---- snapshots ----------------------------------------------------------------
    def snapshot(self) -> Any:
        """Return the whole state: the items of ``freeze`` in version 3, an object before."""
        store = self._store
        if isinstance(store, OlderStore):
            return store.snapshot()
        frozen = FrozenThird(store)
        return list(frozen.items())

    def restore(self, snapshot: Any) -> None:
        """Replace everything.

        Raises:
            ValueError: this is not a snapshot of this machine; the state is unchanged.
        """
        try:
            if isinstance(snapshot, dict):
                self._take_older(snapshot)
                return
            thawing = self.thaw()
            for item in snapshot:
                thawing.take(item)
            thawing.finish()
        except (KeyError, TypeError) as exc:
            raise ValueError("not a snapshot of a KeyValue") from exc

    def _take_older(self, snapshot: dict[str, Any]) -> None:
        fresh = OlderStore()
        fresh.load(int(snapshot["revision"]), int(snapshot["compact_revision"]))
        for row in snapshot["live"]:
            fresh.load_live(row)
        for row in snapshot["past"]:
            fresh.load_past(row)
        self.become(fresh)

    def become(self, fresh: OlderStore | Store) -> None:
        """Take the whole state of another store."""
        self._store = fresh
        self._savepoints += 1  # an earlier savepoint has no state to return to

    def freeze(self) -> FrozenState:
        """Freeze at once, and copy what changes before it has been walked."""
        store = self._store
        if isinstance(store, OlderStore):
            return store.freeze()
        frozen = FrozenThird(store)
        store.frozen.append(frozen)
        return frozen

    def thaw(self) -> Thawing:
        return ThawingStore(self)


class ThawingStore:
    """Fills a fresh store of either kind, which becomes the machine's in the end."""

    def __init__(self, machine: KeyValue) -> None:
        self._machine = machine
        self._older = OlderStore()
        self._filling: ThawingOlder | ThawingThird = ThawingOlder(self._older)
        self._begun = False

    def take(self, item: Any) -> None:
        try:
            if not self._begun:
                self._begin(item)
            else:
                self._filling.take(item)
        except (KeyError, TypeError) as exc:
            raise ValueError("not an item of a frozen store") from exc

    def _begin(self, item: Any) -> None:
        if isinstance(item, list) and len(item) > 2 and item[0] == VERSION:  # an older one has two members
            third = ThawingThird()
            third.begin(item)
            self._filling = third
        else:
            self._filling.take(item)
        self._begun = True

    def finish(self) -> None:
        if isinstance(self._filling, ThawingOlder):
            self._filling.finish()
            self._machine.become(self._older)
        else:
            self._machine.become(self._filling.finish())


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
