"""The log under the rules (3.2, 3.5): append, truncate, verify, commit, apply.

I2  every append is preceded by an equal (term, index, chain).
I6  nothing at or below commit is ever truncated.
"""

from collections.abc import Sequence
from typing import Final

from node.errors import RemoteProtocolError
from node.features import LOWEST, Levels, objection
from node.peers import Incarnation
from node.raft.entries import (
    ENTRY_LEVELS,
    Signatures,
    counts_as_command,
    decode_config_untrusted,
    decode_number_untrusted,
    genesis_digest,
    make_entry,
)
from node.raft.events import Advanced, ConfigCommitted, LevelsChanged, SaveEntries, SaveTruncation
from node.raft.promises import Promises
from node.raft.quorum import Config
from node.raft.replica import BrokenMachineError
from node.raft.signing import GENESIS_TERM
from node.raft.state import HaltError
from node.raft.succession import Predecessor, Recovery, genesis_term, recovery_statement
from node.raft.tenure import NOTHING_AWAITED
from node.raft.types import COMMANDS, LEADER, Cursor, Entry, EntryKind, Position

# To approach the wall's time, the log's time runs at most this much faster or slower than the monotonic
# clock.
SLEW_PERCENT: Final = 10
# The reason in the first Cfg of a cluster that may give itself up: one member founded it alone, in ``auto``
# mode.
AUTO_GENESIS: Final = "genesis: auto"


class Replication(Promises):
    """Every change of the log is made here."""

    recovery: Recovery | None

    # ---- writing ------------------------------------------------------------
    def _write(self, kind: EntryKind, payload: bytes) -> Entry:
        """The leader's own append: the next entry of its term.

        Nothing of a feature level is written before the entry that allows it is applied here (U8).
        """
        if self._level_of(kind) > self._level():
            raise HaltError("entry-above-feature-level")
        tenure, log = self.tenure, self.log
        time_ms, rest = divmod(self._log_time(log.last_ms()), 100)
        entry = make_entry(log.last(), term=tenure.term, kind=kind, time_ms=time_ms, payload=payload)
        self._append((entry,))
        tenure.log_time_rest = rest
        return entry

    def _level_of(self, kind: EntryKind) -> int:
        return ENTRY_LEVELS[kind]

    def _level(self) -> int:
        """Return the highest feature level that we may write and send now."""
        levels = self.tenure.replica.levels
        return LOWEST if levels is None else levels.level

    def _log_time(self, last_ms: int) -> int:
        """The time of the next entry, in hundredths of a millisecond (3.8).

        The host owns the wall clock. If the log's time copied it, one jump would end every session and forget
        every idempotency key of the group at once, and a retry would execute a second time. So the log's time
        follows the monotonic clock, and is only slewed towards the wall's: a TTL lasts its nominal time, plus
        or minus ``SLEW_PERCENT``.
        """
        tenure = self.tenure
        before = last_ms * 100 + tenure.log_time_rest
        elapsed = self.now - tenure.appended_ms
        return before + min(
            max(self.wall * 100 - before, elapsed * (100 - SLEW_PERCENT)), elapsed * (100 + SLEW_PERCENT)
        )

    def _log_time_passed(self) -> int:
        """Return the least that an entry's time would be if it were written now, in milliseconds."""
        elapsed = self.now - self.tenure.appended_ms
        return self.log.last_ms() + elapsed * (100 - SLEW_PERCENT) // 100

    def _append(self, entries: Sequence[Entry]) -> None:
        tenure = self.tenure
        self.log.append(entries)
        tenure.appended_ms, tenure.log_time_rest = self.now, 0
        for entry in entries:
            if counts_as_command(entry):
                tenure.log_commands += 1
            elif entry.kind is EntryKind.CONFIG:
                self._adopt_config(entry)
            elif entry.kind is EntryKind.FEATURE or entry.kind is EntryKind.MACHINE:
                self._check_number(entry)
            elif entry.kind is EntryKind.DISSOLVE:
                tenure.dissolve_index = tenure.dissolve_index or entry.index
            elif entry.kind is EntryKind.SNAPSHOT:
                self._snapshot_appended(entry)
        if self.settings.trust_disk:
            self._record(SaveEntries(tuple(entries)))
            tenure.writes.append((self.serial, entries[-1].index))

    def _adopt_config(self, entry: Entry) -> None:
        """A Cfg counts from the moment it is in the log, not from its commit (3.6)."""
        try:
            config, founding = decode_config_untrusted(entry.payload)
        except RemoteProtocolError as exc:
            raise HaltError("malformed-config-in-log") from exc
        if entry.index == 1:
            self.tenure.is_auto = config.reason == AUTO_GENESIS
            if founding is not None:
                self._require_fit(founding.levels)
        self.tenure.configs.append((entry.index, config))
        self._refresh_active()

    def _check_number(self, entry: Entry) -> None:
        """Halt at a level or version that our software does not know: it may not understand what follows.

        A peer that bonds with us checks first whether we know the group's levels, so this should never
        happen. But a host can start an older image on a log that it kept.
        """
        try:
            number = decode_number_untrusted(entry.payload)
        except RemoteProtocolError as exc:
            raise HaltError("malformed-levels-in-log") from exc
        family, versions = self.build.family, self.build.versions
        if entry.kind is EntryKind.FEATURE:
            self._require_fit(Levels(number, family, versions.high))
        else:
            self._require_fit(Levels(self.build.features.high, family, number))

    def _require_fit(self, levels: Levels) -> None:
        unfit = objection(self.build, levels)
        if unfit:
            raise HaltError(unfit)

    def _truncate(self, index: int) -> None:
        """Drop every entry above ``index``, and the Cfgs there."""
        tenure = self.tenure
        if index < tenure.commit:
            raise HaltError("truncation-below-commit")
        if index < self.verified:
            raise HaltError("truncation-below-verified")  # we may have acknowledged it
        last = self.log.last().index
        tenure.log_commands -= sum(counts_as_command(self.log.get(i)) for i in range(index + 1, last + 1))
        self.log.truncate(index)
        self._record(SaveTruncation(index))
        tenure.durable_index = min(tenure.durable_index, index)
        for position, (serial, written) in enumerate(tenure.writes):
            tenure.writes[position] = (serial, min(written, index))
        if tenure.dissolve_index > index:
            tenure.dissolve_index = 0
        if tenure.configs and tenure.configs[-1][0] > index:
            tenure.configs = [(at, config) for at, config in tenure.configs if at <= index]
            self._refresh_active()

    # ---- verifying ----------------------------------------------------------
    def _agrees(self, position: Position) -> bool:
        """Return whether our log has this very position: index, term and chain."""
        mine = self.log.last()
        if position.index > mine.index:
            return False
        if position.index < self.log.base.index:
            return True  # it is committed, so every leader has the entry that we had there
        if position.index < mine.index:
            mine = self.log.position(position.index)
        if mine == position:
            return True
        if mine.term == position.term or position.index <= self.tenure.commit:
            # One leader per term writes one entry per index, and committed entries never differ.
            raise HaltError("log-divergence")
        return False

    def _wrong_genesis(self, entries: Sequence[Entry]) -> bool:
        """Return whether ``entries`` begin another cluster than the one they were sent for."""
        if not entries or entries[0].index != 1:
            return False
        return entries[0].chain != self.tenure.cluster or not self._is_genesis(entries[0])

    def _is_genesis(self, entry: Entry) -> bool:
        """Return whether every founder signed ``entry``: no genesis with a missing signature exists."""
        if entry.kind is not EntryKind.CONFIG:
            return False
        try:
            config, founding = decode_config_untrusted(entry.payload)
        except RemoteProtocolError:
            return False
        if founding is None:
            return False
        if founding.predecessor is not None:
            if not self._is_succession(entry, config, founding.predecessor):
                return False
        elif entry.index != 1 or entry.term != GENESIS_TERM or config.epoch != 1:
            return False
        digest = genesis_digest(
            self.group_id, founding.nonce, config.voters, founding.levels, founding.predecessor
        )
        return all(
            self.credentials.verify(voter, digest, signature)
            for voter, signature in zip(config.voters, founding.signatures, strict=True)
        )

    def _is_succession(self, entry: Entry, config: Config, predecessor: Predecessor) -> bool:
        """Return whether a survivor alone founds its generation with this, and the group permits that."""
        if self.recovery is None or len(config.voters) != 1:
            return False
        statement = recovery_statement(self.group_id, predecessor, config.voters[0].id)
        return (
            entry.index == predecessor.start.index + 1
            and entry.term == genesis_term(predecessor.generation)
            and self.recovery.permits(statement, predecessor.approval)
        )

    def _first_entry(self) -> Entry:
        """Return the first entry of our cluster's log, which may be cut off the log; only if it has one."""
        if self.log.base.index == 0:
            return self.log.get(1)
        genesis = self.tenure.replica.genesis
        assert genesis is not None  # only what is applied is cut off
        return genesis

    def _founding_signatures(self) -> Signatures | None:
        """Return the signatures under our cluster's genesis; None if we do not have it."""
        if self.log.last().index == 0:
            return None
        _, founding = decode_config_untrusted(self._first_entry().payload)
        return founding

    def _take(self, after: Position, entries: Sequence[Entry]) -> None:
        """Take entries that follow ``after``, which we have: skip equal ones, replace conflicting ones."""
        if entries:
            self._accept(entries)
        self._verify_up_to(after.index + len(entries))

    def _accept(self, entries: Sequence[Entry]) -> None:
        last = self.log.last().index
        base = self.log.base.index
        for offset, entry in enumerate(entries):
            if entry.index < base:
                continue
            if entry.index > last:
                self._append(entries[offset:])
                return
            mine = self.log.position(entry.index)
            if mine.term != entry.term:
                self._truncate(entry.index - 1)
                self._append(entries[offset:])
                return
            if mine.chain != entry.chain:
                raise HaltError("log-divergence")

    def _verify_up_to(self, index: int) -> None:
        """Note that our log is proven equal to this term's leader's log up to ``index``."""
        tenure = self.tenure
        if tenure.verified_term != tenure.term:
            tenure.verified_term = tenure.term
            tenure.verified_index = 0
            tenure.verified_leader = tenure.term_leader
        if index > tenure.verified_index:
            tenure.verified_index = index

    @property
    def verified(self) -> int:
        """The last index proven equal to this term's leader's log; 0 if no index is proven equal."""
        tenure = self.tenure
        if tenure.role is LEADER:
            return self.log.last().index
        return tenure.verified_index if tenure.verified_term == tenure.term else 0

    def _serve_limit(self) -> int:
        """R-serve: entries above this index are never served, because they may be a dead leader's."""
        return max(self.verified, self.tenure.commit)

    # ---- committing and applying --------------------------------------------
    def _copies_needed(self) -> int:
        """Return how many members must hold an entry before it is committed.

        With the tie-break one of two voters is a quorum: it continues to lead and may take in a replacement.
        But an entry that only one machine holds is not committed, unless ``min_voters`` is 1. A group of two
        stops taking writes when one dies, and resumes when there are two again. A learner's copy counts here:
        to become a voter, the replacement needs the no-op of a re-elected leader to be committed.
        """
        smallest = min(len(config.voters) for config in self.tenure.active)
        return min(2, self.settings.min_voters, smallest)

    def _has_enough_copies(self, holders: set[Incarnation]) -> bool:
        return len(holders) >= self._copies_needed()

    def _commit_to(self, index: int) -> None:
        tenure = self.tenure
        if index <= tenure.commit:
            return
        settles = any(tenure.commit < at <= index for at, _ in tenure.configs)
        tenure.commit = index
        if settles:
            self._refresh_active()

    def _apply_committed(self, limit: int) -> None:
        """Apply what is committed, up to the index ``limit``, and about a chunk more."""
        start = self.tenure.replica.applied.index
        try:
            while self.tenure.replica.applied.index < min(self.tenure.commit, limit):
                if not self._apply_some():
                    return
        except MemoryError as exc:
            raise HaltError("out-of-memory-in-apply") from exc
        except BrokenMachineError as exc:
            raise HaltError("state-machine-broken") from exc
        if self.tenure.replica.applied.index > start:
            self._notice(Advanced(self.tenure.replica.applied))

    def _apply_some(self) -> bool:
        """Apply about a chunk of entries; return whether the cluster goes on after them."""
        first = self.tenure.replica.applied.index + 1
        entries = self.log.slice(first, self.tenure.commit, self.settings.chunk_bytes_max)
        for entry, resolution in self.tenure.replica.apply(entries):
            if resolution is not None:
                self._entry_applied(resolution.session, resolution.seq, resolution.outcome)
            if entry.kind not in COMMANDS and not self._take_effect(entry):
                return False
        return True

    def _take_effect(self, entry: Entry) -> bool:
        """Do what members do at an applied entry of their own; return whether the cluster goes on."""
        if entry.kind is EntryKind.CONFIG:
            self._announce_config(entry)
        if self.tenure.replica.levels is not self.tenure.published_levels:
            self._announce_levels(Cursor(entry.term, entry.index))
        if entry.kind is EntryKind.SNAPSHOT:
            self._snapshot_applied(entry)
        if entry.kind is EntryKind.DISSOLVE:
            # No entry after it is ever applied: the cluster ended here, on every node alike.
            self._dissolve(Cursor(entry.term, entry.index))
            return False
        return True

    # ---- how current the applied state is (3.7) -----------------------------
    def _cover(self) -> None:
        """Note the time that the applied state covers, once the awaited entry is applied."""
        tenure = self.tenure
        applied = tenure.replica.applied
        if tenure.awaited_index > applied.index:
            return
        same = tenure.awaited_index == applied.index
        term = applied.term if same else tenure.replica.term_at(tenure.awaited_index)
        # A new leader may not know yet what its predecessors committed: until it does, its commit index
        # proves nothing.
        if term == tenure.awaited_term and (
            tenure.covered_ms is None or tenure.covered_ms < tenure.awaited_ms
        ):
            tenure.covered_ms = tenure.awaited_ms
        tenure.awaited_index = NOTHING_AWAITED

    def _await_commit(self, index: int, term: int, ms: int) -> None:
        """Note that at ``ms`` the leader of ``term`` had committed ``index`` and no more.

        Only one such mark is kept at a time.
        """
        tenure = self.tenure
        self._cover()
        if tenure.awaited_index == NOTHING_AWAITED:
            tenure.awaited_index, tenure.awaited_term, tenure.awaited_ms = index, term, ms

    def _announce_levels(self, at: Cursor) -> None:
        tenure = self.tenure
        levels = tenure.published_levels = tenure.replica.levels
        assert levels is not None
        tenure.parting_due = True
        self._notice(LevelsChanged(levels, at))

    def _announce_config(self, entry: Entry) -> None:
        config, _ = decode_config_untrusted(entry.payload)
        self._notice(ConfigCommitted(config.epoch, config.voters, config.reason))
