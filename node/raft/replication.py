"""The log under the rules (3.2, 3.5): append, truncate, verify, commit, apply.

I2  every append is preceded by an equal (term, index, chain).
I6  nothing at or below commit is ever truncated.
"""

from collections.abc import Sequence
from typing import Final

from node.errors import RemoteProtocolError
from node.features import LOWEST, Levels, objection
from node.raft.entries import (
    ENTRY_LEVELS,
    counts_as_command,
    decode_config_untrusted,
    decode_number_untrusted,
    make_entry,
)
from node.raft.events import Advanced, ConfigCommitted, LevelsChanged, SaveEntries, SaveTruncation
from node.raft.promises import Promises
from node.raft.replica import BrokenMachineError
from node.raft.state import NOTHING_AWAITED, HaltError
from node.raft.types import LEADER, Cursor, Entry, EntryKind, Position

# To approach the wall's time, the log's time runs at most this much faster or slower than the monotonic
# clock.
SLEW_PERCENT: Final = 10
# The reason in the first Cfg of a cluster that may give itself up: one member founded it alone, in ``auto``
# mode.
AUTO_GENESIS: Final = "genesis: auto"


class Replication(Promises):
    """Every change of the log is made here."""

    log_time_rest = 0  # what the last entry's time lacks, in hundredths of a millisecond
    log_commands = 0  # commands of callers in the log, committed or not
    is_auto = False  # the log begins with the genesis of an ``auto`` cluster
    published_levels: Levels | None = None
    parting_due = False  # levels changed: a bonded peer may not know them
    dissolve_index = 0  # of the DISSOLVE entry in the log, 0 if there is none

    # ---- writing ------------------------------------------------------------
    def _write(self, kind: EntryKind, payload: bytes) -> Entry:
        """The leader's own append: the next entry of its term.

        Nothing of a feature level is written before the entry that allows it is applied here (U8).
        """
        if self._level_of(kind) > self._level():
            raise HaltError("entry-above-feature-level")
        last = self.log.last()
        time_ms, rest = divmod(self._log_time(self.log.get(last.index).time_ms), 100)
        entry = make_entry(last, term=self.term, kind=kind, time_ms=time_ms, payload=payload)
        self._append((entry,))
        self.log_time_rest = rest
        return entry

    def _level_of(self, kind: EntryKind) -> int:
        return ENTRY_LEVELS[kind]

    def _level(self) -> int:
        """Return the highest feature level that we may write and send now."""
        return LOWEST if self.replica.levels is None else self.replica.levels.level

    def _log_time(self, last_ms: int) -> int:
        """The time of the next entry, in hundredths of a millisecond (3.8).

        The host owns the wall clock. If the log's time copied it, one jump would end every session and forget
        every idempotency key of the group at once, and a retry would execute a second time. So the log's time
        follows the monotonic clock, and is only slewed towards the wall's: a TTL lasts its nominal time, plus
        or minus ``SLEW_PERCENT``.
        """
        before = last_ms * 100 + self.log_time_rest
        elapsed = self.now - self.appended_ms
        return before + min(
            max(self.wall * 100 - before, elapsed * (100 - SLEW_PERCENT)), elapsed * (100 + SLEW_PERCENT)
        )

    def _log_time_passed(self) -> int:
        """Return the least that an entry's time would be if it were written now, in milliseconds."""
        last = self.log.last().index
        elapsed = self.now - self.appended_ms
        return (self.log.get(last).time_ms if last else 0) + elapsed * (100 - SLEW_PERCENT) // 100

    def _append(self, entries: Sequence[Entry]) -> None:
        self.log.append(entries)
        self.appended_ms, self.log_time_rest = self.now, 0
        for entry in entries:
            if counts_as_command(entry):
                self.log_commands += 1
            elif entry.kind is EntryKind.CONFIG:
                self._adopt_config(entry)
            elif entry.kind is EntryKind.FEATURE or entry.kind is EntryKind.MACHINE:
                self._check_number(entry)
            elif entry.kind is EntryKind.DISSOLVE:
                self.dissolve_index = self.dissolve_index or entry.index
        self._record(SaveEntries(tuple(entries)))
        if self.settings.trust_disk:
            self.writes.append((self.serial, entries[-1].index))

    def _adopt_config(self, entry: Entry) -> None:
        """A Cfg counts from the moment it is in the log, not from its commit (3.6)."""
        try:
            config, founding = decode_config_untrusted(entry.payload)
        except RemoteProtocolError as exc:
            raise HaltError("malformed-config-in-log") from exc
        if entry.index == 1:
            self.is_auto = config.reason == AUTO_GENESIS
            if founding is not None:
                self._require_fit(founding.levels)
        self.configs.append((entry.index, config))
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
        if index < self.commit:
            raise HaltError("truncation-below-commit")
        if index < self.verified:
            raise HaltError("truncation-below-verified")  # we may have acknowledged it
        last = self.log.last().index
        self.log_commands -= sum(counts_as_command(self.log.get(i)) for i in range(index + 1, last + 1))
        self.log.truncate(index)
        self._record(SaveTruncation(index))
        self.durable_index = min(self.durable_index, index)
        for position, (serial, written) in enumerate(self.writes):
            self.writes[position] = (serial, min(written, index))
        if self.dissolve_index > index:
            self.dissolve_index = 0
        if self.configs and self.configs[-1][0] > index:
            self.configs = [(at, config) for at, config in self.configs if at <= index]
            self._refresh_active()

    # ---- verifying ----------------------------------------------------------
    def _agrees(self, position: Position) -> bool:
        """Return whether our log has this very position: index, term and chain."""
        mine = self.log.last()
        if position.index > mine.index:
            return False
        if position.index < mine.index:
            mine = self.log.position(position.index)
        if mine == position:
            return True
        if mine.term == position.term or position.index <= self.commit:
            # One leader per term writes one entry per index, and committed entries never differ.
            raise HaltError("log-divergence")
        return False

    def _wrong_genesis(self, entries: Sequence[Entry]) -> bool:
        """Return whether ``entries`` begin another cluster than the one they were sent for."""
        if not entries or entries[0].index != 1:
            return False
        return entries[0].chain != self.cluster or not self._is_genesis(entries[0])

    def _take(self, after: Position, entries: Sequence[Entry]) -> None:
        """Take entries that follow ``after``, which we have: skip equal ones, replace conflicting ones."""
        if entries:
            self._accept(entries)
        self._verify_up_to(after.index + len(entries))

    def _accept(self, entries: Sequence[Entry]) -> None:
        last = self.log.last().index
        for offset, entry in enumerate(entries):
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
        if self.verified_term != self.term:
            self.verified_term = self.term
            self.verified_index = 0
        if index > self.verified_index:
            self.verified_index = index

    @property
    def verified(self) -> int:
        """The last index proven equal to this term's leader's log; 0 if no index is proven equal."""
        if self.role is LEADER:
            return self.log.last().index
        return self.verified_index if self.verified_term == self.term else 0

    def _serve_limit(self) -> int:
        """R-serve: entries above this index are never served, because they may be a dead leader's."""
        return max(self.verified, self.commit)

    # ---- committing and applying --------------------------------------------
    def _commit_to(self, index: int) -> None:
        if index <= self.commit:
            return
        settles = any(self.commit < at <= index for at, _ in self.configs)
        self.commit = index
        if settles:
            self._refresh_active()

    def _apply_committed(self, limit: int) -> None:
        """Apply what is committed, up to the index ``limit``, and about a chunk more."""
        start = self.replica.applied.index
        try:
            while self.replica.applied.index < min(self.commit, limit):
                if not self._apply_some():
                    return
        except MemoryError as exc:
            raise HaltError("out-of-memory-in-apply") from exc
        except BrokenMachineError as exc:
            raise HaltError("state-machine-broken") from exc
        if self.replica.applied.index > start:
            self._notice(Advanced(self.replica.applied))

    def _apply_some(self) -> bool:
        """Apply about a chunk of entries; return whether the cluster goes on after them."""
        first = self.replica.applied.index + 1
        entries = self.log.slice(first, self.commit, self.settings.chunk_bytes_max)
        for entry, resolution in self.replica.apply(entries):
            if resolution is not None:
                self._entry_applied(resolution.session, resolution.seq, resolution.outcome)
            if entry.kind is EntryKind.CONFIG:
                self._announce_config(entry)
            if self.replica.levels is not self.published_levels:
                self._announce_levels(Cursor(entry.term, entry.index))
            if entry.kind is EntryKind.DISSOLVE:
                # No entry after it is ever applied: the cluster ended here, on every node alike.
                self._dissolve(Cursor(entry.term, entry.index))
                return False
        return True

    # ---- how current the applied state is (3.7) -----------------------------
    def _cover(self) -> None:
        """Note the time that the applied state covers, once the awaited entry is applied."""
        applied = self.replica.applied
        if self.awaited_index > applied.index:
            return
        same = self.awaited_index == applied.index
        term = applied.term if same else self.log.position(self.awaited_index).term
        # A new leader may not know yet what its predecessors committed: until it does, its commit index
        # proves nothing.
        if term == self.awaited_term and (self.covered_ms is None or self.covered_ms < self.awaited_ms):
            self.covered_ms = self.awaited_ms
        self.awaited_index = NOTHING_AWAITED

    def _await_commit(self, index: int, term: int, ms: int) -> None:
        """Note that at ``ms`` the leader of ``term`` had committed ``index`` and no more.

        Only one such mark is kept at a time.
        """
        self._cover()
        if self.awaited_index == NOTHING_AWAITED:
            self.awaited_index, self.awaited_term, self.awaited_ms = index, term, ms

    def _forget_coverage(self) -> None:
        """Forget what the applied state covers: our cluster ended."""
        self.covered_ms, self.awaited_index = None, NOTHING_AWAITED

    def _announce_levels(self, at: Cursor) -> None:
        levels = self.published_levels = self.replica.levels
        assert levels is not None
        self.parting_due = True
        self._notice(LevelsChanged(levels, at))

    def _announce_config(self, entry: Entry) -> None:
        config, _ = decode_config_untrusted(entry.payload)
        self._notice(ConfigCommitted(config.epoch, config.voters, config.reason))
