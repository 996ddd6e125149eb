"""Named collections in one replicated state: maps, vecs, sets, cells, onces and priority queues.

Names are text. Keys and values are bytes; in commands they are text, or base64 under ``key_b64``,
``value_b64`` (and so on; a list is text or base64 as a whole), and in results text when the bytes are valid
UTF-8, otherwise base64 under the same names. docs/collections.md lists every command, query and result.

``{"op": "declare", "name", "kind", "capacity"?}`` brings a collection into being, and does nothing if it is
there already with the same kind and capacity. Every other command names a declared collection. Its result
has ``version``, the index of the last entry that changed the collection, and shows whether and how the
command took effect: an exchange that does not match, an occupied once and a position that is not there are
answers, not errors.

The whole state is one persistent value: a savepoint, a rollback and ``freeze`` each take one reference.
"""

from typing import Any, Final

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.collections.frozen import KINDS, Frozen, Row
from node.machines.collections.maps import map_commands
from node.machines.collections.queries import collection_queries, describe
from node.machines.collections.queues import empty_queue, queue_commands
from node.machines.collections.reading import CollectionFields
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import Body, Collection, Command, Queue
from node.machines.collections.thawing import ThawingRows
from node.machines.collections.vecs import vec_commands
from node.machines.keys import KeyRange, Touched

COLLECTIONS_MAX: Final = 1024
CAPACITY_MAX: Final = 1_000_000
# Version 1 has this limit instead of the group's quota, for all items of all collections with their overhead.
VERSION_1_BYTES_MAX: Final = 256 * 1024 * 1024
SNAPSHOT_ROWS: Final = 1000

_COMMANDS: Final = {**map_commands(), **vec_commands(), **queue_commands()}
_QUERIES: Final = collection_queries()
_FREEING: Final = frozenset(
    ("drop", "clear", "map-remove", "map-pop", "set-remove", "vec-remove", "vec-pop", "vec-truncate",
     "queue-remove", "queue-remove-range", "queue-pop")
)  # fmt: skip


class CollectionsMachine(StateMachine):
    """See the module's documentation for what commands, queries and results have in common."""

    def __init__(self) -> None:
        self._state = Frozen(SortedMap.empty(), 0)

    @property
    def signature(self) -> str:
        return "bondstone/collections/v2"

    @property
    def versions(self) -> range:
        return range(1, 3)

    def migrate(self, old: int, new: int) -> None:
        """Change nothing: the versions differ in the limit alone. A state that is beyond it only shrinks."""

    def collection(self, name: str) -> Collection | None:
        """Return the named collection as it is now; later changes do not change the returned value."""
        return self._state.collections.get(name.encode())

    # ---- commands -------------------------------------------------------------
    def apply(self, command: Any, context: ApplyContext) -> dict[str, Any]:
        fields = CollectionFields(command)
        op = fields.op()
        match op:
            case "declare":
                return self._declare(*_declared_by(fields), context.index)
            case "drop":
                return self._drop(_name_of(fields), context.index)
            case "clear":
                return self._clear(_name_of(fields), context.index)
            case _:
                return self._change(op, fields, context)

    def check(self, command: Any) -> None:
        fields = CollectionFields(command)
        op = fields.op()
        match op:
            case "declare":
                _declared_by(fields)
            case "drop" | "clear":
                _name_of(fields)
            case _:
                change = _command(op)
                fields.name()
                change.read(fields)
                fields.done()

    def _declare(self, name: bytes, kind: str, capacity: int, index: int) -> dict[str, Any]:
        present = self._state.collections.get(name)
        if present is not None:
            _require_kind(present, kind)
            body = present.body
            if isinstance(body, Queue) and body.capacity != capacity:
                raise CommandError(
                    "capacity-differs", f"it is declared with capacity {body.capacity or None}"
                )
            return {"version": present.version, "declared": False}
        if len(self._state.collections) >= COLLECTIONS_MAX:
            raise CommandError("too-many-collections", f"there are {COLLECTIONS_MAX} collections already")
        self._store(name, Collection(kind, index, 0, _empty(kind, capacity)), 0)
        return {"version": index, "declared": True}

    def _drop(self, name: bytes, index: int) -> dict[str, Any]:
        present = self._state.collections.get(name)
        if present is None:
            return {"version": index, "dropped": False}
        left = self._state.collections.remove(name)
        self._state = Frozen(left, self._state.size - present.size)
        return {"version": index, "dropped": True}

    def _clear(self, name: bytes, index: int) -> dict[str, Any]:
        present = self._collection(name)
        if present.kind == "once":
            raise CommandError("once-is-written", "what a once holds stays; drop the collection instead")
        removed = len(present.body)
        if removed:
            # A queue's sequence goes on, so that no later entry has the rank of an earlier one.
            body = present.body
            empty = (
                Queue(SortedMap.empty(), SortedMap.empty(), body.next_sequence, body.capacity)
                if isinstance(body, Queue)
                else _empty(present.kind, 0)
            )
            self._store(name, Collection(present.kind, index, 0, empty), -present.size)
        return {"version": index if removed else present.version, "removed": removed}

    def _change(self, op: str, fields: CollectionFields, context: ApplyContext) -> dict[str, Any]:
        change = _command(op)
        name = fields.name()
        args = change.read(fields)
        fields.done()
        present = self._collection(name)
        _require_kind(present, change.kind)
        step = change.run(present.body, args)
        if step.body is present.body:
            return {"version": present.version, **step.result}
        limit = VERSION_1_BYTES_MAX if context.version == 1 else context.quota_bytes
        if step.grown > 0 and self._state.size + step.grown > limit:
            raise CommandError(
                "store-full", f"all collections are limited to {limit} bytes; remove some items"
            )
        index = context.index
        self._store(name, Collection(present.kind, index, present.size + step.grown, step.body), step.grown)
        return {"version": index, **step.result}

    def _collection(self, name: bytes) -> Collection:
        present = self._state.collections.get(name)
        if present is None:
            raise CommandError("collection-unknown", "no collection of this name is declared")
        return present

    def _store(self, name: bytes, collection: Collection, grown: int) -> None:
        self._state = Frozen(self._state.collections.set(name, collection), self._state.size + grown)

    # ---- memory ---------------------------------------------------------------------
    @property
    def memory_bytes(self) -> int:
        """Half as much again as what the items count: measured, of the kind that takes most."""
        return self._state.size * 3 // 2

    def frees(self, command: Any) -> bool:
        op = command.get("op") if isinstance(command, dict) else None
        return isinstance(op, str) and op in _FREEING

    # ---- which keys -------------------------------------------------------------
    def keys_of(self, command: Any) -> Touched:
        """Return the name of the collection as the key: callers are limited to prefixes of names."""
        fields = CollectionFields(command)
        op = fields.op()
        shows = op not in {"declare", "drop", "clear"} and _command(op).shows
        key = (KeyRange.of_key(fields.name()),)
        return Touched(reads=key if shows else (), writes=key)

    def keys_of_query(self, query: Any) -> Touched:
        fields = CollectionFields(query)
        if fields.op() == "collections":
            return Touched(reads=(KeyRange.of_prefix(b""),))
        return Touched(reads=(KeyRange.of_key(fields.name()),))

    # ---- queries --------------------------------------------------------------
    def query(self, query: Any) -> dict[str, Any]:
        fields = CollectionFields(query)
        op = fields.op()
        match op:
            case "collections":
                fields.done()
                return {"collections": [describe(*one) for one in self._state.collections.items()]}
            case "describe":
                name = _name_of(fields)
                present = self._state.collections.get(name)
                return {"collection": None if present is None else describe(name, present)}
            case _:
                return self._ask(op, fields)

    def _ask(self, op: str, fields: CollectionFields) -> dict[str, Any]:
        asked = _QUERIES.get(op)
        if asked is None:
            raise CommandError("op-unknown", f"{op[:64]!r} is no query of the collections")
        name = fields.name()
        args = asked.read(fields)
        fields.done()
        present = self._collection(name)
        if present.kind not in asked.kinds:
            raise CommandError("kind-differs", f"the collection is a {present.kind}, which has no {op}")
        return {"version": present.version, **asked.answer(present.body, args)}

    # ---- undo and snapshots -------------------------------------------------------
    def savepoint(self) -> Frozen:
        return self._state

    def rollback(self, savepoint: Frozen) -> None:
        self._state = savepoint

    def freeze(self) -> Frozen:
        """Return the whole state at constant cost; its rows can be taken in slices while the machine runs."""
        return self._state

    def thaw(self) -> ThawingRows:
        return ThawingRows(self._become)

    def _become(self, state: Frozen) -> None:
        self._state = state

    def snapshot(self) -> list[Row]:
        """Return the canonical rows of the whole state (see ``frozen``)."""
        return [row for rows in self._state.slices(SNAPSHOT_ROWS) for row in rows]

    def restore(self, snapshot: Any) -> None:
        """Replace the whole state.

        Raises:
            ValueError: this is not a snapshot of this machine; the state is unchanged.
        """
        thawing = self.thaw()
        thawing.take(snapshot)
        thawing.finish()


def _command(op: str) -> Command:
    found = _COMMANDS.get(op)
    if found is None:
        raise CommandError("op-unknown", f"{op[:64]!r} is no command of the collections")
    return found


def _name_of(fields: CollectionFields) -> bytes:
    """Return the name, which is the only member."""
    name = fields.name()
    fields.done()
    return name


def _declared_by(fields: CollectionFields) -> tuple[bytes, str, int]:
    """Return name, kind, and the capacity of a queue (0: any number of entries)."""
    name = fields.name()
    kind = fields.kind(KINDS)
    capacity = fields.capacity(high=CAPACITY_MAX) if kind == "queue" else 0
    fields.done()
    return name, kind, capacity


def _require_kind(present: Collection, kind: str) -> None:
    if present.kind != kind:
        raise CommandError("kind-differs", f"the collection is a {present.kind}, not a {kind}")


def _empty(kind: str, capacity: int) -> Body:
    match kind:
        case "vec":
            return PersistentSequence()
        case "queue":
            return empty_queue(capacity)
        case _:
            return SortedMap.empty()
