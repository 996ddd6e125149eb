"""The conditions that must hold after every single event, whatever happened before.

Properties are promises to users: election safety, log matching, leader completeness, state machine safety,
exactly once, linearizable answers. Rules are the conditions that the proof of 3.12 needs (I1-I6): truthful
ACKs, quorums in every active configuration, one pending configuration. The oracles report a broken rule
before it does harm. With ``rules`` off only harm counts: by this, ablations show that a rule is needed.

``views`` has the oracles' knowledge of each process, and the tree of all logs.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from node.features import NUMBER_MAX
from node.machines.base import ApplyContext
from node.peers import Incarnation
from node.raft.entries import ENTRY_LEVELS, counts_as_command, decode_number_untrusted
from node.raft.events import (
    Advanced,
    Effects,
    Halted,
    LeaderChanged,
    LevelsChanged,
    Notice,
    RivalCluster,
    RoleChanged,
    Send,
    SnapshotTaken,
    StateDiverged,
    SyncFailed,
    Violation,
)
from node.raft.messages import ACK, AppendReply, SnapshotDigest, Vote, VoteReply, VoteRequest
from node.raft.quorum import Config, is_quorum
from node.raft.succession import Predecessor
from node.raft.types import LEADER, REMOVED, Answer, Cursor, Entry, EntryKind, Position
from node.simulation.acks import Acks
from node.simulation.agreement import Agreement
from node.simulation.buffers import check_buffers, check_memory
from node.simulation.clients import SimulatedCall
from node.simulation.errors import InvariantError
from node.simulation.operated import Successions, check_removals, may_end, succession
from node.simulation.process import Process, Watcher
from node.simulation.snapshot_oracle import SnapshotOracle
from node.simulation.views import ROOT, LogTree, View


class Oracles(Watcher):
    """All oracles of one run.

    Attributes:
        agreements: the agreement of each cluster.
        counts: leaders elected, commits, configuration changes, answers judged, members that left because
            they were removed.
        entry_levels: which feature level each kind of entry belongs to.
        is_split: two clusters were founded that may never merge; only an operator can choose between them.
    """

    def __init__(
        self,
        *,
        min_voters: int,
        session_ttl_ms: int,
        rules: bool = True,
        rivals: bool = False,
        discards: bool = False,
    ) -> None:
        self.tree = LogTree()
        self.agreements = defaultdict[bytes, Agreement](lambda: Agreement(session_ttl_ms))
        self.committed: defaultdict[int, list[int]] = defaultdict(lambda: [ROOT])
        names = (
            "elections",
            "commits",
            "configurations",
            "features",
            "reads",
            "writes",
            "undecided",
            "snapshots",
            "installs",
            "restores",
            "removals",
            "recoveries",
        )
        self.counts = dict.fromkeys(names, 0)
        self.is_split = False
        self.entry_levels = dict(ENTRY_LEVELS)
        self._geneses: set[int] = set()
        self._swallowed: InvariantError | None = None
        self._min_voters = min_voters
        self._rules = rules
        self._rivals = rivals
        self._discards = discards
        self._committed_in: defaultdict[int, list[int]] = defaultdict(lambda: [0])
        self._leaders: dict[tuple[int, int], Incarnation] = {}
        self._leader_logs: dict[tuple[int, int], list[int]] = {}
        self._votes: defaultdict[tuple[bytes, int], dict[Incarnation, Incarnation]] = defaultdict(dict)
        self._acks = Acks(
            self.tree, self._leaders, self._leader_logs, self.committed, min_voters=min_voters, rules=rules
        )
        self._snapshots = SnapshotOracle(self.tree, rules=rules)
        self._dead: set[Incarnation] = set()
        self._knows: dict[Incarnation, int] = {}  # the highest feature level of each life
        self._living: list[Process] = []
        self._successions = Successions()

    # ---- the log, as it changes -------------------------------------------------
    def _appended(self, process: Process, entries: Sequence[Entry], commit: int) -> None:
        """Note entries added to the log of ``process`` in a step that ends with ``commit``."""
        view = process.view
        for entry in entries:
            if entry.index != len(view.nodes):
                raise InvariantError("gapless-log", f"{process} has a gap before {entry.index}")
            if view.leads and self._rules:
                self._check_level(process, entry, commit)
            view.nodes.append(self.tree.extend(view.nodes[-1], entry))
            if entry.kind is EntryKind.CONFIG:
                config = self.tree.config_at(view.nodes[-1])
                if entry.index == 1 and self._rules and not self._rivals:
                    self._check_genesis(process, view.nodes[-1], config)
                if view.leads:
                    self._check_proposal(process, entry.index, config, commit)
                view.configs.append((entry.index, config))
        log = self._leader_logs.get((self.tree.genesis[view.nodes[-1]], view.term))
        if view.leads and log is not None:
            log.extend(view.nodes[len(log) :])

    def _check_level(self, process: Process, entry: Entry, commit: int) -> None:
        """U8, U9: a level only rises, to one that all members know, and entries of it come after that."""
        view = process.view
        applied = self.tree.levels[view.nodes[min(commit, len(view.nodes) - 1)]]
        if self.entry_levels.get(entry.kind, NUMBER_MAX) > applied:
            kind = entry.kind.name
            raise InvariantError("entry-above-level", f"{process} writes {kind} at level {applied}")
        if entry.kind is not EntryKind.FEATURE:
            return
        level = decode_number_untrusted(entry.payload)
        if level <= self.tree.levels[view.nodes[-1]]:
            raise InvariantError("monotone-feature", f"{process} writes FEATURE {level} again")
        members = {*process.member.members, *process.member.audience}
        if any(self._knows.get(member, 0) < level for member in members):
            raise InvariantError("feature-unknown", f"{process} writes FEATURE {level}, not known to all")

    def _truncated(self, process: Process, index: int) -> None:
        """Note that all entries above ``index`` were removed."""
        view = process.view
        if index < view.commit:
            raise InvariantError("committed-truncated", f"{process} cuts to {index}, committed {view.commit}")
        if view.leads:
            raise InvariantError("leader-append-only", f"leader {process} cuts to {index}")
        view.former.append(view.nodes.copy())
        del view.nodes[index + 1 :]
        view.configs = [pair for pair in view.configs if pair[0] <= index]

    def _check_genesis(self, process: Process, node: int, config: Config) -> None:
        """Require one genesis, or several without a common founder: a host may boot two TDs of each name.

        R1 and 3.9: every founder signed it, and an incarnation signs only one. A genesis does not count if
        its only holder died before it sent the genesis or had it on its disk. But a genesis that a dead
        process did send may still arrive.
        """
        voters = set(config.voters)
        for other in self._living:
            if len(other.view.nodes) == 1 or other.view.nodes[1] == node:
                continue
            if not voters.isdisjoint(self.tree.config_at(other.view.nodes[1]).voters):
                raise InvariantError("one-genesis", f"{process} and {other} have a founder in common")
        if any(voters.isdisjoint(self.tree.config_at(known).voters) for known in self._geneses):
            self.is_split = True
        self._geneses.add(node)

    def _check_proposal(self, process: Process, index: int, config: Config, commit: int) -> None:
        view = process.view
        if not view.configs or not self._rules:
            return
        last_index, last = view.configs[-1]
        if last_index > commit:
            raise InvariantError(
                "one-pending-configuration", f"{process} adds {index} while {last_index} is open"
            )
        if len(config.voters) < min(self._min_voters, len(last.voters)):
            raise InvariantError("min-voters", f"{process} shrinks to {len(config.voters)}")
        acks = self._acks.sent[self.tree.cluster_of(view.nodes[-1]), view.term]
        for voter in config.voters:
            if voter not in last.voters and voter not in acks:
                raise InvariantError("dead-incarnation", f"{process} promotes {voter}, silent in {view.term}")
        check_removals(process, last, config)
        if config.epoch != last.epoch + 1:
            raise InvariantError("epoch", f"{process} goes from {last.epoch} to {config.epoch}")

    # ---- lives ----------------------------------------------------------------------
    def born(self, process: Process) -> None:
        """Note a new life. R1: its incarnation never lived before, unless a trusted disk kept its state."""
        if self._rules and process.disk is None and process.inc in self._dead:
            raise InvariantError("dead-incarnation", f"{process} lives as {process.inc}, which is dead")
        self._living.append(process)
        self._knows[process.inc] = process.member.build.features.high
        # What it recovered counts at once: a process that gathers events takes its first step later.
        self._log_changed(process, process.view.commit)

    def died(self, process: Process) -> None:
        """Note the end of a life."""
        self._dead.add(process.inc)
        self._living.remove(process)

    # ---- every step ---------------------------------------------------------------
    def observe(self, process: Process, effects: Effects) -> None:
        """Judge the changes of a step of ``process``, and the messages that it is about to send."""
        view = process.view
        commit = view.commit
        quiet = not view.changes
        view.former.clear()
        self._snapshots.observe(process)
        if effects.notices or not quiet or self._swallowed is not None:
            self._observe_changes(process, effects)
        if process.member.settings.lease_reads:
            self._check_lease(process, effects)
        check_buffers(process)
        check_memory(process)
        if view.base != process.log.base.index:
            self._snapshots.check_base(process)
        if effects.sends:
            self._observe_sends(process, effects.sends, unchanged=quiet and commit == view.commit)
        if self._rules and (view.promises or process.member.tenure.held):
            self._acks.hold(process)

    def _observe_sends(self, process: Process, sends: Sequence[Send], *, unchanged: bool) -> None:
        """Judge the promises among the messages of a step; ``unchanged``: it changed no log and no commit."""
        for send in sends:
            message = send.message
            if type(message) is AppendReply:
                if message.verdict is ACK:
                    self._acks.say(process, message)
            elif type(message) is VoteReply:
                if message.vote is Vote.GRANTED and not message.pre:
                    self._voted(process, message, send.to[0])
                if message.verified is not None:
                    self._acks.claim(process, message.cluster, message.verified)
            elif type(message) is SnapshotDigest:
                self._snapshots.digested(process, message.evidence)
            elif type(message) is VoteRequest:
                if unchanged and self._rules:
                    self._check_roll(process, message)
                if not message.pre:
                    self._voted(process, message, process.inc)

    def _observe_changes(self, process: Process, effects: Effects) -> None:
        """Judge the changes of a step. It has none if there is neither a notice nor a change of the log."""
        view = process.view
        led = view.leads = view.role is LEADER
        led_term = view.term
        advanced = [n.commit.index for n in effects.notices if type(n) is Advanced]
        while view.changes and 0 in view.changes:
            advanced = self._left(process, advanced)
        predecessor = succession(process, view.changes)
        if predecessor is not None:
            self._succeeded(process, predecessor)
            # What it committed before is the beginning of the new cluster alone.
            advanced = [commit for commit in advanced if commit > predecessor.start.index]
        if effects.notices:
            # In every step roles change before logs, and logs before the commit index.
            for notice in effects.notices:
                self._noticed(process, notice)
            view.leads = view.role is LEADER or (view.leads and view.term == led_term)
            led = led and view.term == led_term
        if self._swallowed is not None:
            raise self._swallowed
        view.proposed = len(view.configs)
        if view.changes:
            self._log_changed(process, max([view.commit, *advanced]))
        for notice in effects.notices:
            if type(notice) is RoleChanged and notice.role is LEADER:
                self._elected(process, notice.term)
            elif type(notice) is RivalCluster and not (self._rivals or self.is_split or self._successions):
                raise InvariantError("one-genesis", f"{process}: {notice}")
        for commit in advanced:
            self._advanced(process, commit, told=view.leads and not led)

    def _succeeded(self, process: Process, predecessor: Predecessor) -> None:
        self.counts["recoveries"] += 1
        genesis, path = self._successions.note(process, predecessor, self.tree, self.agreements)
        self.committed[genesis] = path
        self._committed_in[genesis] = [self.tree.term_of(node) for node in path]
        self.is_split = self.is_split or self._rivals  # such a group may be founded anew beside it

    def _noticed(self, process: Process, notice: Notice) -> None:
        match notice:
            case RoleChanged():
                self._check_term(process, notice.term)
                process.view.role = notice.role
            case LeaderChanged():
                self._check_term(process, notice.term)
            case LevelsChanged(levels):
                known = (peer.build.features.high for peer in process.member.peers.values())
                if self._rules and any(high < levels.level for high in known):
                    raise InvariantError("unfit-peer", f"{process} keeps a peer that does not know {levels}")
            case SnapshotTaken(fetched=fetched):
                self.counts["snapshots"] += 1
                self.counts["installs"] += fetched
            case SyncFailed(part, reason) if reason != "stalled":
                raise InvariantError("state-sync-failed", f"{process}: its {part} failed: {reason}")
            case Halted(reason) if may_end(process, reason, self._living, self.tree):
                self.counts["removals"] += reason == REMOVED
            case Halted():
                raise InvariantError("halted", f"{process} stopped itself: {notice.reason}")
            case Violation() | StateDiverged():
                raise InvariantError("honest-peer-accused", f"{process}: {notice}")
            case _:
                pass

    def _log_changed(self, process: Process, commit: int) -> None:
        view = process.view
        changes, view.changes = view.changes, []
        for change in changes:
            if isinstance(change, int):
                self._truncated(process, change)
            elif isinstance(change, Position):
                self._snapshots.installed(process, change, self.committed)
            else:
                self._appended(process, change, commit)

    def _left(self, process: Process, advanced: list[int]) -> list[int]:
        """Note that ``process`` emptied its log in this step; return the commit indices after that.

        Only a member that leaves its cluster does that, and only after a committed DISSOLVE entry ended it.
        """
        view = process.view
        cut = view.changes.index(0)
        after = view.changes[cut + 1 :]
        view.changes = view.changes[:cut]
        # Commits come last in a step. If nothing was appended after the cut, they were before it.
        before = [] if after else advanced
        self._log_changed(process, max([view.commit, *before]))
        for commit in before:
            self._advanced(process, commit)
        genesis = self.tree.genesis[view.nodes[-1]]
        if genesis != ROOT:
            self._check_dissolved(process, genesis)
        view.leave()
        view.changes = after
        return advanced if after else []

    def _check_dissolved(self, process: Process, genesis: int) -> None:
        view = process.view
        committed = self.committed[genesis]
        if not self._dissolve_index(committed):
            # The leader is the first to know, and leaves in the step that commits the entry.
            index = self._dissolve_index(view.nodes)
            alone = all(is_quorum(config, {process.inc}) for config in view.active(view.commit, index))
            if not index or not (alone or view.leads or index <= self._acks.settled(process)):
                raise InvariantError("committed-truncated", f"{process} leaves a cluster that goes on")
            self._advanced(process, self._first_own(view, index))
        entries = (self.tree.entries[node] for node in committed)
        lost = any(entry is not None and counts_as_command(entry) for entry in entries)
        if lost and not self._discards:
            raise InvariantError("data-discarded", f"{process} leaves a cluster that has executed commands")
        self.agreements[self.tree.cluster_of(genesis)].dissolved = True

    def _first_own(self, view: View, index: int) -> int:
        """Return the first entry of the leader's own term, whose commit commits that at ``index`` (I4).

        A leader may lose power after it wrote DISSOLVE and before it committed it. If it leads again, it
        commits the DISSOLVE by the no-op of its new term. But nothing behind a DISSOLVE is ever applied, so
        no notice reports how far the commit went. Without an entry of the own term the result is ``index``,
        which no count of an earlier term can commit.
        """
        for own in range(index, len(view.nodes)):
            entry = self.tree.entries[view.nodes[own]]
            if entry is not None and entry.term == view.term:
                return own
        return index

    def _dissolve_index(self, nodes: list[int]) -> int:
        """Return the index of the first DISSOLVE entry of a log; 0 if the log has none."""
        for index, node in enumerate(nodes):
            entry = self.tree.entries[node]
            if entry is not None and entry.kind is EntryKind.DISSOLVE:
                return index
        return 0

    def _check_term(self, process: Process, term: int) -> None:
        view = process.view
        if term < view.term:
            raise InvariantError("monotone-term", f"{process} goes from {view.term} to {term}")
        view.term = term

    def _elected(self, process: Process, term: int) -> None:
        """Its log already holds its own first entry."""
        view = process.view
        self.counts["elections"] += 1
        genesis = self.tree.genesis[view.nodes[-1]]
        key = (genesis, term)
        if self._leaders.setdefault(key, process.inc) != process.inc:
            raise InvariantError("election-safety", f"{process} and {self._leaders[key]} lead term {term}")
        self._leader_logs[key] = list(view.nodes)
        committed, terms = self.committed[genesis], self._committed_in[genesis]
        index = len(committed) - 1
        while index and terms[index] >= term:
            index -= 1
        if index and (len(view.nodes) <= index or view.nodes[index] != committed[index]):
            raise InvariantError("leader-completeness", f"{process}, leader of {term}, lacks entry {index}")
        if self._rules:
            self._check_electors(process, term)

    def _advanced(self, process: Process, commit: int, *, told: bool = False) -> None:
        """Note a new commit index. ``told``: a leader may have received it as a follower."""
        view = process.view
        if commit < view.commit:
            raise InvariantError("monotone-commit", f"{process}: {view.commit} to {commit}")
        if commit >= len(view.nodes):
            raise InvariantError("commit-in-log", f"{process} commits {commit}, which it lacks")
        genesis = self.tree.genesis[view.nodes[commit]]
        committed = self.committed[genesis]
        if view.leads and self._rules:
            known = self._acks.settled(process) if told else view.commit
            if commit > known:
                self._check_quorum(process, known, commit)
        for index in range(view.commit + 1, commit + 1):
            node = view.nodes[index]
            entry = self.tree.entries[node]
            if entry is not None and entry.kind is EntryKind.SNAPSHOT:
                self._snapshots.note_evidence(view, entry)
            if index < len(committed):
                if committed[index] != node:
                    raise InvariantError(
                        "state-machine-safety", f"{process} commits another entry at {index}"
                    )
                continue
            committed.append(node)
            self._committed_in[genesis].append(view.term)
            self.counts["commits"] += 1
            self.counts["configurations"] += entry is not None and entry.kind is EntryKind.CONFIG
            self.counts["features"] += entry is not None and entry.kind is EntryKind.FEATURE
        view.commit = commit

    def _check_electors(self, process: Process, term: int) -> None:
        """Require votes of a quorum of every active configuration, and that the winner is a voter."""
        view = process.view
        cluster, tenure = self.tree.cluster_of(view.nodes[-1]), process.member.tenure
        # Without a leader of that term the winner has counted nothing of its own.
        if process.disk is None and tenure.verified_leader is not None:
            self._acks.claim(process, cluster, Cursor(tenure.verified_term, tenure.verified_index))
        terms = map(self.tree.term_of, view.nodes)
        own = next((i for i, at in enumerate(terms) if at == term), len(view.nodes))
        voters = {inc for inc, choice in self._votes[cluster, term].items() if choice == process.inc}
        voters.add(process.inc)
        # It may not know what a leader committed. Then it needs a quorum of the configurations before, too.
        # What it wrote itself since it won is no part of the election.
        for known in (view.commit, min(self._acks.settled(process), own - 1)):
            active = view.active(known, own)
            is_voter = any(process.inc in config.voters for config in active)
            if is_voter and all(is_quorum(config, voters) for config in active):
                return
        raise InvariantError("election-quorum", f"{process} leads {term} without a quorum of its voters")

    def _check_quorum(self, process: Process, reached: int, commit: int) -> None:
        """I4: a quorum of every active configuration holds an own-term entry, by ACKs that were really sent.

        At least two machines must hold it, unless ``min_voters`` is 1. ``reached`` is committed already.
        """
        view = process.view
        entry = self.tree.entries[view.nodes[commit]]
        if entry is None or entry.term != view.term:
            raise InvariantError("own-term-commit", f"{process} commits {commit} by counting")
        acks = self._acks.sent[self.tree.cluster_of(view.nodes[-1]), view.term]
        while reached < commit:
            # The commit of a configuration retires the one before, so more entries may commit.
            active = view.active(reached, commit)
            steps = {commit, *(match for match in acks.values() if reached < match < commit)}
            if process.disk is not None:
                steps.update(range(reached + 1, commit))  # up to the end of what its own disk has
            for index in sorted(steps, reverse=True):
                holders = {inc for inc, match in acks.items() if match >= index}
                if self._holds(process, index):
                    holders.add(process.inc)
                if self._acks.is_held(holders, active):
                    reached = index
                    break
            else:
                epochs = " and ".join(str(config.epoch) for config in active)
                raise InvariantError(
                    "commit-quorum", f"{process} commits {commit} without a quorum of epochs {epochs}"
                )

    def _holds(self, process: Process, index: int) -> bool:
        """Whether a leader's own copy counts. With trust_disk its disk must have it, as for every member."""
        entry = self.tree.entries[process.view.nodes[index]]
        if process.disk is None or entry is None:
            return True
        return process.disk.holds_entry(Position(entry.term, entry.index, entry.chain))

    def _voted(self, process: Process, m: VoteReply | VoteRequest, candidate: Incarnation) -> None:
        """I1: an incarnation grants at most one vote per term, itself included."""
        disk, term = process.disk, m.term
        if self._rules and disk is not None and not disk.holds_vote(term, candidate):
            raise InvariantError("durable-promise", f"{process} votes before its disk knows")
        if self._votes[m.cluster, term].setdefault(process.inc, candidate) != candidate and self._rules:
            raise InvariantError("one-vote-per-term", f"{process} votes twice in term {term}")

    def _check_roll(self, process: Process, m: VoteRequest) -> None:
        """Require that a vote request names the voters of the active configurations in the candidate's log.

        A trust_disk member may have made the request in an earlier step, from its log at that time, and held
        it back.
        """
        view = process.view
        if process.disk is not None and (not m.pre or m.last != process.log.last()):
            return
        active = view.active(view.commit, len(view.nodes) - 1)
        if set(m.roll) != {voter for config in active for voter in config.voters}:
            raise InvariantError("roll", f"{process} asks {', '.join(map(str, m.roll))}")

    def _check_lease(self, process: Process, effects: Effects) -> None:
        """No answer is served by lease after another leader's term has committed.

        The member reads the clock before it answers, and cannot know how long it stood still in between. Then
        the answer is the result of an earlier step, while its caller already waited: the answer is true.
        """
        view = process.view
        term, leased = view.leased
        if (
            leased
            and not process.was_frozen
            and self._committed_in[self.tree.genesis[view.nodes[-1]]][-1] > term
        ):
            for token, outcome in effects.completions:
                if token in leased and isinstance(outcome, Answer):
                    raise InvariantError("lease", f"{process} answers by its lease of term {term}")
        waiting = process.member.reads.leased
        view.leased = (view.term, frozenset(held.query.token for held in waiting))

    # ---- the state machine and its clients ------------------------------------------
    def applied(
        self, process: Process, call: int, position: int, command: Any, context: ApplyContext
    ) -> None:
        """Note that ``process`` reaches a command and judges its caller.

        The core treats every exception of ``apply`` as the machine's refusal, so the oracle reports an error
        after the step.
        """
        view = process.view
        place = (context.index, context.sub)
        if place <= view.applied:
            self._swallowed = InvariantError("monotone-apply", f"{process} applies {place} again")
        view.applied = place
        self._agree(process, lambda agreed: agreed.applied(str(process), call, position, command, context))

    def executed(
        self, process: Process, call: int, position: int, command: Any, context: ApplyContext
    ) -> None:
        """Note that ``process`` applies a command whose caller it has judged."""
        if (context.index, context.sub) > process.view.applied:
            if self._rules:
                self._swallowed = InvariantError("judged-first", f"{process} applies call {call} unjudged")
            self.applied(process, call, position, command, context)
            return
        self._agree(process, lambda agreed: agreed.applied(str(process), call, position, command, context))

    def refused(self, process: Process, call: int, index: int) -> None:
        """Note that the caller of the command at ``index`` is not permitted."""
        self._agree(process, lambda agreed: agreed.refused.add((call, index)))

    def of_system(self, process: Process, index: int) -> None:
        """Note that the entry at ``index`` is for the system state."""
        self._agree(process, lambda agreed: agreed.systems.add(index))

    def _agree(self, process: Process, action: Callable[[Agreement], None]) -> None:
        """Note what ``process`` applies in its cluster's agreement. A contradiction is reported later."""
        if self._successions.defers(process, action):
            return
        try:
            action(self._agreement(process))
        except InvariantError as exc:
            self._swallowed = self._swallowed or exc

    def _agreement(self, process: Process) -> Agreement:
        """Return the agreement of the cluster of ``process``. A cluster is named by its genesis."""
        assert process.member.cluster is not None
        return self.agreements[process.member.cluster]

    def floors(self) -> dict[bytes, int]:
        """Return, by cluster, the highest log index that any client has seen acknowledged."""
        return {cluster: agreement.floor for cluster, agreement in self.agreements.items()}

    def judge(self, call: SimulatedCall, process: Process) -> None:
        """Judge an answer at the moment its client receives it."""
        if not process.log.last().index:
            return  # a weak read of a member that is in no cluster yet: the initial state
        assert process.member.cluster is not None
        call.cluster = process.member.cluster
        self._agreement(process).judge(call, str(process), call.floors.get(call.cluster, 0))
        self.counts["reads" if isinstance(call.outcome, Answer) else "writes"] += 1
