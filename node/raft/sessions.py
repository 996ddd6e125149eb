"""Exactly once (3.8; thesis 6.3): the replicated table of sessions and idempotency keys.

Equal on every node at the same index: it changes only when an entry is applied, and its only clock is the
entries' own ``time_ms``.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, assert_never

from attestation.encoding.canonical import decode_untrusted, digest, encode
from attestation.errors import MalformedError
from node.raft.entries import SessionChange
from node.raft.kept import WHOLE_BYTES_MAX
from node.raft.keys import FrozenKeys, KeyTable
from node.raft.types import (
    AlreadyExecuted,
    Applied,
    CommandBatch,
    Cursor,
    Failed,
    Key,
    KeyUse,
    NotExecuted,
    Ok,
    Result,
    Settings,
)

# Before caller and commands: the digest of a keyed batch is
# ``digest("bondstone/idempotent-commands/v2", system, credential, [command...])``. A key belongs to one
# caller, and either to the machine or to the system state. So no caller receives the answer to another
# caller's commands.
_KEYED: Final = b"\x84" + encode("bondstone/idempotent-commands/v2") + encode(False)
_KEYED_SYSTEM: Final = b"\x84" + encode("bondstone/idempotent-commands/v2") + encode(True)

Decided = Ok | AlreadyExecuted | NotExecuted


@dataclass(slots=True)
class Session:
    """One origin's commands.

    Attributes:
        owner: incarnation id.
        active_ms: time of the last entry of this session.
        opened_ms: time of the entry that opened it.
        low: the origin has its answer to every sequence number below.
        outcomes: of the other numbers that were decided (executed, or refused for their key). At most a
            window of them is kept, without large results.
    """

    owner: bytes
    active_ms: int
    opened_ms: int
    low: int = 1
    outcomes: dict[int, Decided] = field(default_factory=dict)

    def acknowledge(self, below: int) -> None:
        """Forget the outcomes of the sequence numbers up to ``below``, exclusive."""
        outcomes = self.outcomes
        # Each number that was never executed costs a lookup, unless there are more numbers than outcomes.
        if below - self.low <= len(outcomes):
            for seq in range(self.low, below):
                outcomes.pop(seq, None)
        else:
            for seq in [seq for seq in outcomes if seq < below]:
                del outcomes[seq]
        self.low = below


class SessionTable:
    """The sessions and their outcomes, and the idempotency keys."""

    def __init__(self, settings: Settings) -> None:
        self._ttl_ms = settings.session_ttl_ms
        self._window = settings.session_window
        # In the order of their last entry's time_ms, which is monotone in the log.
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._keys = KeyTable(self._ttl_ms)
        self._expiry_ms = 0  # nothing expires at a time up to this

    def __contains__(self, session: bytes) -> bool:
        return session in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def expire(self, time_ms: int) -> None:
        """Forget sessions and keys idle for longer than the TTL at the time of the entry being applied."""
        if time_ms <= self._expiry_ms:
            return
        oldest_ms = time_ms
        while self._sessions:
            session, first = next(iter(self._sessions.items()))
            if first.active_ms + self._ttl_ms >= time_ms:
                oldest_ms = first.active_ms
                break
            del self._sessions[session]
        self._keys.expire(time_ms)
        used_ms = self._keys.oldest_ms()
        if used_ms is not None:
            oldest_ms = min(oldest_ms, used_ms)
        # A session that is added or used later is younger than the oldest one now.
        self._expiry_ms = oldest_ms + self._ttl_ms

    def change(self, change: SessionChange, time_ms: int) -> None:
        """Apply a SESSION entry. A new session of an owner ends the owner's earlier sessions.

        The owner that opens a session knows the log up to ``base_ms``. If its present session was opened
        after that, this request is an old one from an earlier process of the owner. What that process
        executed is forgotten, and must not be executed again.
        """
        match change.operation:
            case "open":
                late = time_ms - change.base_ms > self._ttl_ms
                if change.session in self._sessions or late:
                    return
                others = [(s, v.opened_ms) for s, v in self._sessions.items() if v.owner == change.owner]
                if any(change.base_ms <= opened_ms for _, opened_ms in others):
                    return
                for session, _ in others:
                    del self._sessions[session]
                self._sessions[change.session] = Session(change.owner, time_ms, time_ms)
            case "keepalive":
                self._touch(change.session, time_ms)
            case _:
                self._sessions.pop(change.session, None)

    def outcome_of(self, session: bytes, seq: int) -> Decided | None:
        """Return the stored outcome, if that command was decided and is not yet forgotten."""
        known = self._sessions.get(session)
        return None if known is None else known.outcomes.get(seq)

    def active_ms(self, session: bytes) -> int | None:
        """Return the time of the last entry of an open session; None if it is not open."""
        known = self._sessions.get(session)
        return None if known is None else known.active_ms

    def is_answered(self, session: bytes, seq: int) -> bool:
        """Return whether command ``seq`` was decided, or was given up by its origin."""
        known = self._sessions.get(session)
        return known is not None and (seq < known.low or seq in known.outcomes)

    def key_use(self) -> KeyUse:
        """Return how many keys are remembered, and what is kept of their results."""
        return self._keys.use()

    @property
    def keys_memory(self) -> int:
        """About how many bytes the keys take, with what is kept of their results."""
        return self._keys.memory_bytes

    @property
    def outcomes(self) -> int:
        """How many outcomes the sessions keep until their origins have the answers."""
        return sum(len(session.outcomes) for session in self._sessions.values())

    def admit(self, batch: CommandBatch, time_ms: int) -> Decided | None:
        """Decide whether to execute ``batch``: None is yes, else the outcome it already has."""
        session = self._sessions.get(batch.session)
        if session is None:
            return NotExecuted("session-expired")
        session.active_ms = time_ms
        self._sessions.move_to_end(batch.session)
        if batch.ack_below > session.low:
            session.acknowledge(batch.ack_below)
        stored = session.outcomes.get(batch.seq)
        if stored is not None:
            return stored
        if batch.seq < session.low:
            return NotExecuted("already-answered")
        if len(session.outcomes) >= self._window:
            return NotExecuted("overloaded")
        known = None if batch.key is None else self._admit_key(batch, batch.key, time_ms)
        if known is not None:
            # A copy of this entry may come when the key is forgotten, or when there is room: it gets the same
            # outcome.
            session.outcomes[batch.seq] = known
        return known

    def _admit_key(self, batch: CommandBatch, key: Key, time_ms: int) -> Decided | None:
        used = self._keys.find(key.name)
        if used is not None:
            return used.outcome() if used.is_of(_digest_of(batch)) else NotExecuted("idempotency-key-reused")
        if time_ms > key.not_after_ms:
            return NotExecuted("stale")  # a copy may have been executed, and be forgotten by now
        return NotExecuted("overloaded") if self._keys.is_full else None

    def record(self, batch: CommandBatch, outcome: Ok, time_ms: int, *, size: int) -> None:
        """Remember the outcome of a batch that was admitted and executed, with ``size`` bytes of results.

        Its origin gets the results when it applies the entry itself, so large results are not kept for the
        sequence number. A caller that comes again with the key gets the results only if they are kept.
        """
        brief = outcome if size <= WHOLE_BYTES_MAX else AlreadyExecuted(outcome.at, b"", size)
        self._sessions[batch.session].outcomes[batch.seq] = brief
        if batch.key is not None:
            self._keys.add(
                batch.key.name,
                _digest_of(batch),
                outcome.at,
                outcome.results,
                size=size,
                session=batch.session,
                time_ms=time_ms,
            )

    def _touch(self, session: bytes, time_ms: int) -> None:
        known = self._sessions.get(session)
        if known is not None:
            known.active_ms = time_ms
            self._sessions.move_to_end(session)

    def snapshot_digest(self) -> bytes:
        """Return a digest of all that a snapshot holds of this table: equal on every node at an index."""
        frozen = self.freeze()
        try:
            return digest("bondstone/session-table/v1", list(frozen.sessions()), list(frozen.used_keys()))
        finally:
            frozen.release()

    # ---- snapshots ----------------------------------------------------------
    def freeze(self) -> "FrozenTable":
        """Freeze: what the keys change is copied before, and outcomes never change."""
        return FrozenTable(
            self._expiry_ms,
            [(name, replace(one, outcomes=dict(one.outcomes))) for name, one in self._sessions.items()],
            self._keys.freeze(),
        )

    def load_session(self, value: Any) -> None:
        """Take one of ``FrozenTable.sessions``, in order; this table was empty before the first.

        Raises:
            ValueError, TypeError: it is no such value.
        """
        match value:
            case [int(expiry_ms)]:
                self._expiry_ms = expiry_ms
            case [bytes(name), bytes(owner), int(active_ms), int(opened_ms), int(low), [*outcomes]]:
                decided = {seq: _outcome_of(outcome) for seq, outcome in outcomes}
                self._sessions[name] = Session(owner, active_ms, opened_ms, low, decided)
            case _:
                raise ValueError("not a session")

    def load_keys(self, value: Any) -> None:
        """Take one of ``FrozenTable.used_keys``, in order.

        Raises:
            ValueError, TypeError: it is no such value.
        """
        self._keys.load(value)


class FrozenTable:
    """The sessions and keys as they were, as plain values."""

    def __init__(self, expiry_ms: int, sessions: list[tuple[bytes, Session]], keys: FrozenKeys) -> None:
        self._expiry_ms = expiry_ms
        self._sessions = sessions
        self._keys = keys

    def sessions(self) -> Iterator[list[Any]]:
        yield [self._expiry_ms]
        for name, one in self._sessions:
            outcomes = [[seq, _put_outcome(outcome)] for seq, outcome in one.outcomes.items()]
            yield [name, one.owner, one.active_ms, one.opened_ms, one.low, outcomes]

    def used_keys(self) -> Iterator[list[Any]]:
        return self._keys.values()

    def release(self) -> None:
        self._keys.release()


def _put_outcome(outcome: Decided) -> list[Any]:
    match outcome:
        case Ok(results, at):
            # The value of a result may be as deep as a value can be, so it stands by itself.
            put = [
                [encode(one.value)] if isinstance(one, Applied) else [one.code, one.message]
                for one in results
            ]
            return ["ok", list(at), put]
        case AlreadyExecuted(at, known, size):
            return ["executed", list(at), known, size]
        case NotExecuted(reason):
            return ["refused", reason]
        case _:
            assert_never(outcome)


def _outcome_of(value: Any) -> Decided:
    match value:
        case ["ok", [int(term), int(index)], [*results]]:
            return Ok(tuple(map(_result_of, results)), Cursor(term, index))
        case ["executed", [int(term), int(index)], bytes(known), int(size)]:
            return AlreadyExecuted(Cursor(term, index), known, size)
        case ["refused", str(reason)]:
            return NotExecuted(reason)
        case _:
            raise ValueError("not an outcome")


def _result_of(value: Any) -> Result:
    match value:
        case [bytes(encoded)]:
            try:
                return Applied(decode_untrusted(encoded, bytes_max=len(encoded), items_max=len(encoded)))
            except MalformedError as exc:
                raise ValueError("not a result") from exc
        case [str(code), str(message)]:
            return Failed(code, message)
        case _:
            raise ValueError("not a result")


def _digest_of(batch: CommandBatch) -> bytes:
    return sha256((_KEYED_SYSTEM if batch.system else _KEYED) + batch.keyed).digest()
