"""The state machine behind the log, and the system state beside it: committed entries in, outcomes out, equal
on every node.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from node.features import Levels
from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import RequestKind, SystemState
from node.raft.entries import (
    NotPlainError,
    counts_as_command,
    decode_commands_untrusted,
    decode_config_untrusted,
    decode_number_untrusted,
    decode_session_untrusted,
    plain_bytes,
)
from node.raft.events import Query
from node.raft.kept import aborted
from node.raft.sessions import Decided, SessionTable
from node.raft.types import (
    Applied,
    CommandBatch,
    Cursor,
    Entry,
    EntryKind,
    Failed,
    Ok,
    Resolution,
    Result,
    Settings,
)

# Limits of one entry: the data that every node keeps for it must not be a thousand times its own size.
RESULTS_BYTES_MAX: Final = 4 * 1024 * 1024
REFUSAL_CHARS_MAX: Final = 4096
TERMS_MAX: Final = 1024
_COMMAND: Final = EntryKind.COMMAND
_SYSTEM: Final = EntryKind.SYSTEM
_SESSION: Final = EntryKind.SESSION
_MACHINE_COMMAND: Final = RequestKind.COMMAND
_SYSTEM_COMMAND: Final = RequestKind.SYSTEM_COMMAND
_OF_LEVELS: Final = frozenset((EntryKind.CONFIG, EntryKind.FEATURE, EntryKind.MACHINE))
# The machine does not cause these: another node may have had the memory, and received no Ctrl-C.
OF_THE_HOST: Final = (MemoryError, KeyboardInterrupt)


class BrokenMachineError(Exception):
    """The machine, or the system state, could not take a savepoint or go back to one.

    Its state must not be trusted any more.
    """


def ignore_raised(_what: str, _raised: BaseException) -> None:
    """Ignore an exception of a machine: the default for a caller that keeps no log."""


class Replica:
    """Applies entries in order.

    Attributes:
        applied: cursor of the last entry applied.
        applied_ms: its time_ms.
        commands: how many entries were applied that a caller may have asked for.
        levels: what the group runs at; None before its genesis is applied.
        genesis: the first entry.
        config: index and payload of the last CONFIG entry.
        terms: (index, term) of the first entry of each term; of many terms only the latest.
    """

    def __init__(
        self, machine: StateMachine, system: SystemState, settings: Settings, group_id: bytes
    ) -> None:
        self.machine = machine
        self.system = system
        self.table = SessionTable(settings)
        self.applied = Cursor(0, 0)
        self.applied_ms = 0
        self.commands = 0
        self.levels: Levels | None = None
        self.genesis: Entry | None = None
        self.config: tuple[int, bytes] | None = None
        self.terms: deque[tuple[int, int]] = deque(maxlen=TERMS_MAX)
        # Called with every exception of the machine that is no refusal, for the traceback in the log.
        self.on_raised: Callable[[str, BaseException], None] = ignore_raised
        self._version = 1  # of the machine
        self._group_id = group_id
        self._quota_bytes = settings.quota_bytes

    def apply(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Resolution | None]]:
        """Apply the entries after ``applied``, each when it is asked for, and yield its command's outcome.

        Raises:
            MemoryError: the host gives us too little memory; the state must not be trusted any more.
            BrokenMachineError: the machine failed where it must not.
        """
        commands = [entry for entry in entries if entry.kind is _COMMAND or entry.kind is _SYSTEM]
        batches = iter(decode_commands_untrusted(commands))
        before = self.applied
        for entry in entries:
            at = Cursor(entry.term, entry.index)
            assert at.index == before.index + 1
            if at.term != before.term:
                self.terms.append((at.index, at.term))
            self.table.expire(entry.time_ms)
            resolution, kind = None, entry.kind
            if kind is _COMMAND or kind is _SYSTEM:
                if kind is _COMMAND or counts_as_command(entry):
                    self.commands += 1
                batch = next(batches)
                # Every node finds it equally malformed: it is a no-op that answers no caller, and does not
                # block the log.
                if batch is not None:
                    resolution = self._apply_batch(batch, entry, at)
            elif kind is _SESSION:
                change = decode_session_untrusted(entry.payload)
                self.table.change(change, entry.time_ms)
                resolution = Resolution(change.session, 0, Ok((), at))
            elif kind in _OF_LEVELS:
                resolution = self._change_levels(entry, at)
            self.applied_ms = entry.time_ms
            self.applied = before = at
            yield entry, resolution

    def term_at(self, index: int) -> int | None:
        """Return the term of the applied entry at ``index``, 0 at 0; None if that was too many terms ago."""
        if index == 0:
            return 0
        return next((term for first, term in reversed(self.terms) if first <= index), None)

    def _change_levels(self, entry: Entry, at: Cursor) -> Resolution | None:
        """Apply a CONFIG, FEATURE or MACHINE entry: the genesis, a CONFIG entry, sets the first levels.

        Returns the outcome of a MACHINE entry, as a command of no session with its index as the number.
        """
        levels, resolution = self.levels, None
        if entry.kind is EntryKind.CONFIG:
            _, founding = decode_config_untrusted(entry.payload)
            self.config = (entry.index, entry.payload)
            if founding is not None:
                self.genesis = entry
            if levels is None and founding is not None:
                levels = founding.levels
        elif levels is not None and entry.kind is EntryKind.FEATURE:
            level = decode_number_untrusted(entry.payload)
            levels = Levels(max(level, levels.level), levels.family, levels.version)  # never downwards
        elif levels is not None:
            version = decode_number_untrusted(entry.payload)
            result = self._migrate(levels.version, version)
            if type(result) is Applied:
                levels = Levels(levels.level, levels.family, version)
            resolution = Resolution(b"", entry.index, Ok((result,), at))
        if levels is not None:
            self.take_levels(levels)
        return resolution

    def take_levels(self, levels: Levels) -> None:
        """Run at ``levels`` from the next entry on."""
        self.levels, self._version = levels, levels.version

    def _migrate(self, old: int, new: int) -> Result:
        """Convert the machine's state to another version. A refusal is the same on every member."""
        if new == old:
            return Applied(None)
        savepoint = self._savepoint(self.machine)
        try:
            self.machine.migrate(old, new)
        except OF_THE_HOST:
            raise
        except CommandError as exc:
            result = Failed(exc.code, exc.message[:REFUSAL_CHARS_MAX])
        except BaseException as exc:  # noqa: BLE001 - the group continues at its old version
            self.on_raised("migrate", exc)
            result = Failed("migrate-raised", type(exc).__name__)
        else:
            return Applied(None)
        self._rollback(self.machine, savepoint)
        return result

    def _apply_batch(self, batch: CommandBatch, entry: Entry, at: Cursor) -> Resolution:
        known = self.admit(batch, entry.time_ms)
        if known is not None:
            return Resolution(batch.session, batch.seq, known)
        results, size = self._execute(batch, entry)
        outcome = Ok(results, at)
        self.table.record(batch, outcome, entry.time_ms, size=size)
        return Resolution(batch.session, batch.seq, outcome)

    def admit(self, batch: CommandBatch, time_ms: int) -> Decided | None:
        """Return None to execute ``batch``, or the outcome that it already has (3.8)."""
        return self.table.admit(batch, time_ms)

    def _execute(self, batch: CommandBatch, entry: Entry) -> tuple[tuple[Result, ...], int]:
        """Run all commands, or none: the first refusal rolls the whole entry back.

        Returns the results, and about how many bytes they take.
        """
        # The caller is judged by the state before the entry.
        commands, credential, time_ms = batch.commands, batch.credential, entry.time_ms
        request: RequestKind = _MACHINE_COMMAND
        target: StateMachine | SystemState = self.machine
        if batch.system:
            request, target = _SYSTEM_COMMAND, self.system
        for sub, command in enumerate(commands):
            refusal = self._judge(credential, request, command, time_ms)
            if refusal is not None:
                return aborted(len(commands), sub, refusal), len(refusal.message)
        savepoint = self._savepoint(target)
        results: list[Result] = []
        size = 0
        term, index, group_id = entry.term, entry.index, self._group_id
        version, quota_bytes = self._version, self._quota_bytes
        for sub, command in enumerate(commands):
            context = ApplyContext(term, index, sub, time_ms, group_id, credential, version, quota_bytes)
            result = self._apply_one(target, command, context)
            if type(result) is Applied:
                try:
                    size += plain_bytes(result.value)
                except NotPlainError as exc:
                    result = Failed(
                        "result-not-plain", f"the machine returned {exc}, which is not plain data"
                    )
                if size > RESULTS_BYTES_MAX:
                    result = Failed("results-too-large", f"more than {RESULTS_BYTES_MAX} bytes of results")
            if type(result) is Failed:
                self._rollback(target, savepoint)
                return aborted(len(commands), sub, result), len(result.message)
            results.append(result)
        return tuple(results), size

    def _judge(
        self, credential: bytes | None, request: RequestKind, value: object, now_ms: int
    ) -> Failed | None:
        """Return why the caller may not ask this; None if the caller may."""
        try:
            self.system.judge(credential, request, value, now_ms=now_ms, machine=self.machine)
        except CommandError as exc:
            return Failed(exc.code, exc.message[:REFUSAL_CHARS_MAX])
        except OF_THE_HOST:
            raise
        except BaseException as exc:  # noqa: BLE001 - a caller that cannot be judged is refused on every node
            self.on_raised("judge", exc)
            return Failed("judge-raised", type(exc).__name__)
        return None

    def _savepoint(self, target: StateMachine | SystemState) -> object:
        try:
            return target.savepoint()
        except OF_THE_HOST:
            raise
        except BaseException as exc:
            raise BrokenMachineError(type(exc).__name__) from exc

    def _rollback(self, target: StateMachine | SystemState, savepoint: object) -> None:
        try:
            target.rollback(savepoint)
        except OF_THE_HOST:
            raise
        except BaseException as exc:
            raise BrokenMachineError(type(exc).__name__) from exc

    def _apply_one(
        self, target: StateMachine | SystemState, command: object, context: ApplyContext
    ) -> Result:
        try:
            return Applied(target.apply(command, context))
        except CommandError as exc:
            return Failed(exc.code, exc.message[:REFUSAL_CHARS_MAX])
        except OF_THE_HOST:
            raise  # stop: the nodes must not diverge
        except BaseException as exc:  # noqa: BLE001 - every node raises the same; a blocked log is worse
            self.on_raised("apply", exc)
            # The text of a foreign exception may differ between nodes (addresses); its type does not.
            return Failed("apply-raised", type(exc).__name__)

    def query(self, query: Query, now_ms: int) -> object:
        """Return the answer of the machine or the system state, or ``Failed`` if the query is refused.

        Whether the caller may ask is judged by the state that answers, at the time ``now_ms`` of the log.
        """
        request = RequestKind.SYSTEM_QUERY if query.system else RequestKind.QUERY
        refusal = self._judge(query.credential, request, query.query, now_ms)
        if refusal is not None:
            return refusal
        try:
            return (self.system if query.system else self.machine).query(query.query)
        except CommandError as exc:
            return Failed(exc.code, exc.message)
        except OF_THE_HOST:
            raise
        except BaseException as exc:  # noqa: BLE001 - a bad query must not stop the member
            self.on_raised("query", exc)
            return Failed("query-raised", type(exc).__name__)
