"""An independent model of the key-value machine's third version: what ``/v1/kv`` needs, and nothing else.

A dictionary and a sorted copy of it for each answer; it shares no code with the machine.
"""

from typing import Any

from node.machines.base import CommandError, StateMachine


class KvModel(StateMachine):
    """Keeps every state it ever had, by revision."""

    signature = "bondstone/kv/v3"

    def __init__(self) -> None:
        self.past: list[dict[bytes, tuple[bytes, int, int, int, int]]] = [{}, {}]
        self.revision = 1

    def savepoint(self) -> Any:
        return (list(self.past), self.revision)

    def rollback(self, savepoint: Any) -> None:
        self.past, self.revision = list(savepoint[0]), savepoint[1]

    def apply(self, command: Any, context: Any) -> Any:
        now = dict(self.past[-1])
        if command[0] == "txn":
            succeeded = all(self.holds(compare) for compare in command[1])
            answers = [self.operate(now, each) for each in command[2 if succeeded else 3]]
            self.keep(now)
            return [self.revision, succeeded, answers]
        if command[0] not in {"put", "delete"}:
            raise CommandError("op-unknown", "the model knows put, delete and txn")
        answer = self.operate(now, command)
        self.keep(now)
        return [self.revision, *answer[1:]]

    def keep(self, now: dict[bytes, Any]) -> None:
        if now != self.past[-1]:
            self.past.append(now)
            self.revision += 1

    def operate(self, now: dict[bytes, Any], operation: list[Any]) -> list[Any]:
        match operation:
            case ["put", key, value, lease, _]:
                if lease:
                    raise CommandError("lease-not-found", "there is no such lease")
                old = now.get(key)
                modified = self.revision + 1
                created, version = (old[1], old[3] + 1) if old else (modified, 1)
                now[key] = (value, created, modified, version, lease)
                return ["put", None]
            case ["delete", key, end, _]:
                gone = [each for each in now if self.within(each, key, end)]
                for each in gone:
                    del now[each]
                return ["delete", len(gone), []]
            case ["range", *_]:
                return ["range", *self.page(now, operation)]
            case _:
                raise CommandError("op-unknown", "the model knows put, delete and range")

    def within(self, each: bytes, key: bytes, end: bytes) -> bool:
        return each == key if end == b"" else each >= key and (end == b"\0" or each < end)

    def page(self, state: dict[bytes, Any], query: list[Any]) -> list[Any]:
        _, key, end, limit, _, _, _, flags, *_ = query
        found = sorted(each for each in state if self.within(each, key, end))
        if flags & 2:
            return [[], False, len(found)]
        rows = [[each, b"" if flags & 1 else state[each][0], *state[each][1:]] for each in found]
        return [rows[:limit], len(rows) > limit, len(rows)]

    def holds(self, compare: list[Any]) -> bool:
        target, result, key, _, operand = compare
        row = self.past[-1].get(key)
        actual = {0: row[3] if row else 0, 2: row[2] if row else 0}[target]
        return bool(actual == operand if result == 0 else actual > operand)

    def query(self, query: Any) -> Any:
        revision = query[4]
        if revision > self.revision:
            raise CommandError("revision-future", "the store has no such revision yet")
        return [self.revision, *self.page(self.past[revision or -1], query)]

    def keys_of(self, command: Any) -> Any:
        raise NotImplementedError

    def snapshot(self) -> Any:
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError
