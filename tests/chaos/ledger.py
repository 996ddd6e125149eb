"""Every change of the store, each once and in order, as a client that follows it gets to know them; and
whether that explains all that the other clients saw.

The store's revision is part of every answer. So with the ledger in hand each answer has its place in the one
order of all changes, and no search is needed: it is enough to look whether the places respect real time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.history import ABSENT, Call, Outcome, Register

REVISION_START: Final = 1
State = Mapping[str, tuple[str, int, int]]  # key -> value, version, revision of its last change


class LedgerError(Exception):
    """A broken promise. ``promise`` is a stable code."""

    def __init__(self, promise: str, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision changed. ``value`` is None if the key was deleted."""

    key: str
    value: str | None
    version: int


@dataclass(slots=True)
class Ledger:
    """What a follower has learned.

    Attributes:
        changes: by revision.
        sights: what nodes showed as their whole store: node, revision, state.
    """

    changes: dict[int, Change] = field(default_factory=dict)
    sights: list[tuple[str, int, State]] = field(default_factory=list)

    @property
    def last(self) -> int:
        return max(self.changes, default=REVISION_START)

    def states(self) -> Iterator[tuple[int, State]]:
        """Yield each revision and the state after it. The same dictionary each time."""
        state: dict[str, tuple[str, int, int]] = {}
        yield REVISION_START, state
        for revision in range(REVISION_START + 1, self.last + 1):
            change = self.changes[revision]
            if change.value is None:
                state.pop(change.key, None)
            else:
                state[change.key] = (change.value, change.version, revision)
            yield revision, state


def check_complete(ledger: Ledger) -> None:
    """Every revision was seen. Without it, nothing else can be looked at."""
    missing = [n for n in range(REVISION_START + 1, ledger.last) if n not in ledger.changes]
    if missing:
        raise LedgerError("revision-missing", f"nobody shows revisions {missing[:10]}")


def _check_versions(ledger: Ledger, _calls: list[Call]) -> None:
    """Each change of a key has the next version."""
    versions: dict[str, int] = {}
    for revision in range(REVISION_START + 1, ledger.last + 1):
        change = ledger.changes[revision]
        expected = 0 if change.value is None else versions.get(change.key, 0) + 1
        if change.version != expected:
            raise LedgerError("version-wrong", f"at {revision}: {change}, not version {expected}")
        versions[change.key] = expected


def _check_sights(ledger: Ledger, _calls: list[Call]) -> None:
    """Every node held at every revision what all the others held then."""
    by_revision: defaultdict[int, list[tuple[str, State]]] = defaultdict(list)
    for node, revision, seen in ledger.sights:
        by_revision[revision].append((node, seen))
    for revision, state in ledger.states():
        for node, seen in by_revision.pop(revision, ()):
            if seen != state:
                differing = sorted(key for key in {*seen, *state} if seen.get(key) != state.get(key))
                raise LedgerError("node-diverged", f"{node} at {revision}: {differing[:5]}")
    if by_revision:
        raise LedgerError(
            "revision-missing", f"sights of {sorted(by_revision)}, ledger ends at {ledger.last}"
        )


def _check_writes(ledger: Ledger, calls: list[Call]) -> None:
    """Every change is somebody's write, once; every acknowledged write is there; no refused one is."""
    writes = {call.value: call for call in calls if call.value is not None}
    deletes: defaultdict[str, int] = defaultdict(int)
    for call in calls:
        deletes[call.key] += call.kind == "delete" and call.outcome is not Outcome.REFUSED
    seen: dict[str, int] = {}
    for revision, change in sorted(ledger.changes.items()):
        if change.value is None:
            deletes[change.key] -= 1
            if deletes[change.key] < 0:
                raise LedgerError("applied-twice", f"more deletes of {change.key} than were asked for")
            continue
        call = writes.get(change.value)
        if call is None or call.key != change.key:
            raise LedgerError("nobody-wrote-this", f"{change} at {revision}")
        if change.value in seen:
            raise LedgerError("applied-twice", f"{call} is at {seen[change.value]} and at {revision}")
        if call.outcome is Outcome.REFUSED:
            raise LedgerError("refused-write-happened", f"{call} is at {revision}")
        seen[change.value] = revision
    taken: dict[int, Call] = {}
    for call in calls:
        if not call.changed:
            continue
        change_there = ledger.changes.get(call.revision)
        if change_there is None or (change_there.key, change_there.value) != (call.key, call.value):
            raise LedgerError("acknowledged-write-lost", f"{call}, but there is {change_there}")
        if call.revision in taken:
            raise LedgerError("acknowledged-write-lost", f"{call} and {taken[call.revision]} are one change")
        taken[call.revision] = call


def _check_batches(ledger: Ledger, calls: list[Call]) -> None:
    """The writes of one entry are neighbours, all or none, and nobody saw the store in between."""
    at = {change.value: revision for revision, change in ledger.changes.items() if change.value is not None}
    batches: defaultdict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.batch:
            batches[call.batch].append(call)
    between: dict[int, list[Call]] = {}
    for batch in batches.values():
        revisions = [at.get(call.value) for call in batch]
        if all(revision is None for revision in revisions):
            continue
        first = revisions[0]
        if first is None or revisions != list(range(first, first + len(batch))):
            raise LedgerError("batch-torn", f"{batch} at {revisions}")
        between.update(dict.fromkeys(range(first, first + len(batch) - 1), batch))
    for call in calls:
        if call.revision in between and not call.changed:
            raise LedgerError("batch-torn", f"{call} saw the store in the midst of {between[call.revision]}")
    for node, revision, _ in ledger.sights:
        if revision in between:
            raise LedgerError("batch-torn", f"{node} showed the store in the midst of {between[revision]}")


def _check_answers(ledger: Ledger, calls: list[Call]) -> None:
    """Whatever an answer shows as held by a key, the key held at the revision of the answer."""
    by_revision: defaultdict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.outcome is not Outcome.ANSWERED:
            continue
        by_revision[call.revision].append(call)
    for revision, state in ledger.states():
        for call in by_revision.pop(revision, ()):
            if call.found is None:
                continue
            item = state.get(call.key)
            held: Register = ABSENT if item is None else (item[0], item[1])
            if call.found != held:
                raise LedgerError("answer-wrong", f"{call}, but at {revision} it held {held}")
            if call.kind == "cas" and held[0] == call.expect:
                raise LedgerError(
                    "answer-wrong", f"{call} was not swapped although it held what was expected"
                )
    if by_revision:
        raise LedgerError("revision-missing", f"answers of {sorted(by_revision)[:5]}, ledger ends earlier")


def _check_real_time(ledger: Ledger, calls: list[Call]) -> None:
    """Nothing has its place before what had ended when it began: all keys together, not each alone."""
    writes: dict[int, Call] = {}
    reads: defaultdict[int, list[Call]] = defaultdict(list)
    by_value = {call.value: call for call in calls if call.value is not None}
    for revision, change in ledger.changes.items():
        if change.value in by_value:
            writes[revision] = by_value[change.value]
    for call in calls:
        if call.outcome is not Outcome.ANSWERED or call.weak:
            continue
        if call.changed:
            writes[call.revision] = call
        else:
            reads[call.revision].append(call)
    latest: Call | None = None  # of all that has its place so far, what began last
    for revision in range(REVISION_START, ledger.last + 1):
        for group in ([writes[revision]] if revision in writes else [], reads[revision]):
            for call in group:
                if latest is not None and call.returned is not None and call.returned < latest.invoked:
                    raise LedgerError(
                        "stale-answer",
                        f"{call} is of revision {revision}, but came to its end before {latest}"
                        " began, whose place is earlier",
                    )
            latest = max([*group, *([latest] if latest else [])], key=lambda call: call.invoked, default=None)


CHECKS: Final[tuple[Callable[[Ledger, list[Call]], None], ...]] = (
    _check_sights,
    _check_versions,
    _check_writes,
    _check_batches,
    _check_answers,
    _check_real_time,
)
