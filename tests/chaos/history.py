"""What the clients of a cluster under chaos asked, what they were answered, and when."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from node.simulation.linearizability import ClientCall, check_linearizable

# Then all clients go on to the next key: what one key's history costs to check is bounded, and an operation
# of unknown outcome costs most, for it may have happened at any time since.
CALLS_PER_KEY: Final = 60
UNKNOWN_PER_KEY: Final = 4
SEARCH_STATES_MAX: Final = 2_000_000
# A register and the number of changes in its life: a write that was applied twice shows in the number even
# if nobody read the value in between.
Register = tuple[str | None, int]
ABSENT: Final[Register] = (None, 0)


class Outcome(Enum):
    ANSWERED = "answered"
    UNKNOWN = "unknown"  # it may have happened, at any time since
    REFUSED = "refused"  # it has not happened and never will


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of one client.

    Attributes:
        client: who asked.
        kind: ``put``, ``cas``, ``delete`` or ``get``.
        key: what it is about.
        expect: of ``cas``: what the key must hold.
        value: what shall be written; no two calls ever write the same.
        batch: calls of one atomic entry share this number; 0 if it came alone.
        weak: a read of one's own writes, which need not be of the present.
        invoked: monotonic nanoseconds.
        returned: the same; None without an answer.
        outcome: what the client knows.
        revision: of the store, as in the answer.
        changed: the answer reports that the store was changed.
        found: what the key held before or holds now, where the answer has it.
    """

    client: str
    kind: str
    key: str
    invoked: int
    returned: int | None
    outcome: Outcome
    expect: str | None = None
    value: str | None = None
    batch: int = 0
    weak: bool = False
    revision: int = 0
    changed: bool = False
    found: Register | None = None

    def operation(self) -> ClientCall:
        """Return it for the search. An answer is ``(changed, what the key holds then)``."""
        answer = (self.changed, self.found) if self.outcome is Outcome.ANSWERED else None
        asked = (self.kind, self.expect, self.value)
        return ClientCall(
            key=self.key,
            invoked=self.invoked,
            returned=self.returned,
            input=asked,
            output=answer,
            label=self.client,
        )


class VersionedRegister:
    """The key-value machine, one key of it. An answer reports whether it changed, and what the key holds then."""

    def initial(self, key: str) -> Register:
        return ABSENT

    def step(self, state: Any, operation: Any) -> tuple[Any, Any]:
        held, version = state
        kind, expect, value = operation
        match kind:
            case "get":
                after = state
            case "delete":
                after = ABSENT
            case "cas" if held != expect:
                after = state
            case "put" | "cas":
                after = (value, version + 1)
            case _:
                raise AssertionError(f"unknown operation {operation!r}")
        changed = after != state
        # A swap that was done is answered without the version.
        return after, (changed, None if kind == "cas" and changed else after)


@dataclass(slots=True)
class History:
    """Everything that all clients saw. Safe to add to from every thread."""

    calls: list[Call] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _key: int = 0
    _asked: int = 0
    _unknown: int = 0
    _batches: int = 0

    def next_key(self) -> str:
        """Return the key that is to be asked about now."""
        with self._lock:
            if self._asked >= CALLS_PER_KEY or self._unknown >= UNKNOWN_PER_KEY:
                self._key, self._asked, self._unknown = self._key + 1, 0, 0
            self._asked += 1
            return f"key-{self._key:06d}"

    def next_batch(self) -> int:
        """Return a number that no other batch has."""
        with self._lock:
            self._batches += 1
            return self._batches

    def record(self, calls: Iterable[Call]) -> None:
        """Add calls that have ended, with an answer or without."""
        with self._lock:
            for call in calls:
                self._unknown += call.outcome is Outcome.UNKNOWN
                self.calls.append(call)

    def keys(self) -> list[str]:
        return sorted({call.key for call in self.calls})

    def outcomes(self) -> dict[str, int]:
        """Count what became of the calls."""
        return dict(Counter(f"{call.kind}-{call.outcome.value}" for call in self.calls))

    def text(self) -> str:
        """Return the whole history for people, a key after the other."""
        ordered = sorted(self.calls, key=lambda call: (call.key, call.invoked))
        return "".join(f"{call}\n" for call in ordered)

    def search(self) -> int:
        """Look for an order that explains every answer, key by key, without asking any node.

        Returns:
            how many operations were placed.

        Raises:
            NotLinearizableError: there is none.
            UndecidedError: the search grew too large.
        """
        strong = [
            call.operation() for call in self.calls if call.outcome is not Outcome.REFUSED and not call.weak
        ]
        return check_linearizable(
            strong, VersionedRegister(), states_max=SEARCH_STATES_MAX, is_read=_changed_nothing
        )


def _changed_nothing(operation: ClientCall) -> bool:
    changed, _ = operation.output
    return not changed
