"""Clients of a cluster under chaos: what they asked, what they were told, and when."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.api import schemas
from node.client import BondstoneClient, ClientError
from node.client.errors import NotExecutedError, OutcomeUnknownError, UnreachableError
from node.client.items import item_of
from node.simulation.linearizability import Operation, check_linearizable

# Then all clients go on to the next key: what one key's history costs to check is bounded, and an operation
# of unknown outcome costs most, for it may have happened at any time since.
OPERATIONS_PER_KEY: Final = 40
UNKNOWN_PER_KEY: Final = 5
THINK_S: Final = (0.005, 0.06)
SEARCH_STATES_MAX: Final = 2_000_000
# A register and the number of changes in its life: a write that was applied twice shows in the number even
# if nobody read the value in between.
Register = tuple[str | None, int]
ABSENT: Final[Register] = (None, 0)


class VersionedRegister:
    """The key-value machine, one key of it."""

    def initial(self, key: str) -> Register:
        return ABSENT

    def step(self, state: Any, operation: Any) -> tuple[Any, Any]:
        value, version = state
        match operation:
            case ("get",):
                return state, state
            case ("put", new):
                return (new, version + 1), version + 1
            case ("cas", expect, new):
                return ((new, version + 1), True) if value == expect else (state, False)
            case _:
                raise AssertionError(f"unknown operation {operation!r}")


class SessionReadError(Exception):
    """A read with ``min_at`` answered from a state older than the cursor it was given."""


@dataclass(slots=True)
class History:
    """Everything that all clients saw. Safe to add to from every thread."""

    operations: list[Operation] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _key: int = 0
    _asked: int = 0
    _unknown: int = 0

    def next_key(self) -> str:
        """Return the key that is to be asked about now."""
        with self._lock:
            if self._asked >= OPERATIONS_PER_KEY or self._unknown >= UNKNOWN_PER_KEY:
                self._key, self._asked, self._unknown = self._key + 1, 0, 0
            self._asked += 1
            return f"key-{self._key}"

    def record(self, operation: Operation, kind: str) -> None:
        """Add an operation with an answer, or without one."""
        with self._lock:
            self.outcomes["unknown" if operation.returned is None else kind] += 1
            self._unknown += operation.returned is None
            self.operations.append(operation)

    def text(self) -> str:
        """Return the whole history for people, a key after the other."""
        ordered = sorted(self.operations, key=lambda operation: (operation.key, operation.invoked))
        return "".join(f"{operation}\n" for operation in ordered)

    def check(self) -> int:
        """Return how many operations were checked; raise if no order explains them."""
        return check_linearizable(self.operations, VersionedRegister(), states_max=SEARCH_STATES_MAX)


class Clerk:
    """One client: one operation after the other on keys that all clients share."""

    def __init__(self, name: str, client: BondstoneClient, history: History, rng: random.Random) -> None:
        self._name = name
        self._client = client
        self._history = history
        self._rng = rng
        self._serial = 0
        self._seen: dict[str, Register] = {}
        self._written: tuple[str, int, schemas.At] | None = None

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``. What no client may ever see goes to ``history.errors``."""
        with self._client:
            while not stop.wait(self._rng.uniform(*THINK_S)):
                try:
                    self._one()
                except Exception as exc:
                    self._history.errors.append(f"{self._name}: {type(exc).__name__}: {exc}")
                    return

    def _one(self) -> None:
        key = self._history.next_key()
        match self._rng.choices(("put", "get", "cas", "session"), (35, 30, 25, 10))[0]:
            case "put":
                self._write(key, ("put", self._new_value()), self._put)
            case "cas":
                expect, _ = self._seen.get(key, ABSENT)
                self._write(key, ("cas", expect, self._new_value()), self._cas)
            case "get":
                self.read(key)
            case _:
                self._session_read()

    def _new_value(self) -> str:
        self._serial += 1
        return f"{self._name}.{self._serial}"

    def _write(self, key: str, asked: tuple[Any, ...], send: Callable[..., Any]) -> None:
        invoked = time.monotonic_ns()
        try:
            answer = send(key, *asked[1:])
        except OutcomeUnknownError:
            self._record(key, invoked, None, asked, None)
        except (NotExecutedError, UnreachableError):  # it has not happened and never will
            self._history.outcomes["not-executed"] += 1
        else:
            self._record(key, invoked, time.monotonic_ns(), asked, answer)

    def _put(self, key: str, value: str) -> int:
        done = self._client.execute({"op": "put", "key": key, "value": value})
        version = int(done.result["version"])
        self._seen[key] = (value, version)
        self._written = (key, version, schemas.At(term=done.term, index=done.index))
        return version

    def _cas(self, key: str, expect: str | None, value: str) -> bool:
        swapped = self._client.compare_and_swap(key, expect=expect, value=value)
        if swapped:
            self._seen[key] = (value, self._seen.get(key, ABSENT)[1] + 1)
        return swapped

    def read(self, key: str) -> Register | None:
        """Read strongly; None if nobody answered."""
        invoked = time.monotonic_ns()
        try:
            item = self._client.get(key)
        except ClientError:
            self._history.outcomes["read-unanswered"] += 1
            return None
        found = ABSENT if item is None else (item.value.decode(), item.version)
        self._seen[key] = found
        self._record(key, invoked, time.monotonic_ns(), ("get",), found)
        return found

    def _session_read(self) -> None:
        """Read one's own last write from whatever node answers (weak, but not older than the write)."""
        if self._written is None:
            return
        key, version, at = self._written
        try:
            answer = self._client.query({"op": "get", "key": key}, consistency="weak", min_at=at)
        except (NotExecutedError, UnreachableError):
            self._history.outcomes["read-unanswered"] += 1
            return
        item = answer.result["item"]
        if item is None or item_of(item).version < version:
            raise SessionReadError(f"{key} at {at}: version {version} was acknowledged, read {item}")
        self._history.outcomes["session-read"] += 1

    def _record(
        self, key: str, invoked: int, returned: int | None, asked: tuple[Any, ...], answer: Any
    ) -> None:
        operation = Operation(
            key=key, invoked=invoked, returned=returned, input=asked, output=answer, label=self._name
        )
        self._history.record(operation, asked[0])


def read_everything(clerk: Clerk, keys: Sequence[str]) -> None:
    """Read every key strongly, as part of the history: that is where a lost write would show."""
    for key in keys:
        if clerk.read(key) is None:
            raise AssertionError(f"{key} cannot be read although the group has converged")
