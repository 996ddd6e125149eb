"""Recovery by a survivor (3.10): one living voter founds a new generation from its own state.

For a group whose volatile majority is gone for good, where the group document permits it. In one step the
survivor commits what its log holds, as a new leader would, and goes on in a new cluster behind it, alone; the
others join it by a snapshot. It never serves the old cluster again, and so signs one successor only.

Nothing shows a loss apart from a partition. So what lives wins: a member of the old cluster that has a leader
answers a successor with ``Alive``, and every member of the successor that receives it halts. No member of the
old cluster ever halts or moves because it met a successor: a quorum that lives must not lose a member to one.
"""

from abc import abstractmethod
from typing import Final

from node.features import Levels
from node.peers import Incarnation
from node.raft.entries import (
    REMOVED_LEVEL,
    Signatures,
    decode_config_untrusted,
    encode_config,
    genesis_digest,
    make_entry,
)
from node.raft.events import Recover
from node.raft.messages import Alive, Presence
from node.raft.outlook import Outlook, Quorum
from node.raft.quorum import Config
from node.raft.rivals import Rivals
from node.raft.state import HaltError
from node.raft.succession import (
    INDEX_JUMP,
    INDEX_MAX,
    Predecessor,
    genesis_term,
    recovery_statement,
)
from node.raft.types import Cursor, Entry, EntryKind, NotExecuted, Ok, Unknown

RECOVERY: Final = "recovery by a survivor"  # why the first Cfg of such a generation was written
PREDECESSOR_LIVES: Final = "predecessor-lives"  # why a successor halts
# A survivor must have been without a leader for this many election timeouts: by then every peer that lives
# has noticed that the leader is dead.
PATIENCE: Final = 10


class Recovering(Rivals):
    """Founding the next generation, and giving way to a predecessor that lives."""

    @abstractmethod
    def outlook(self) -> Outlook:
        """Return what this member knows of the quorum."""

    # ---- founding it --------------------------------------------------------
    def _recover_group(self, request: Recover) -> None:
        refusal = self._recovery_refusal(request)
        if refusal:
            self._complete(request.token, NotExecuted(refusal, self.tenure.leader))
            return
        predecessor = self._predecessor_for(request)
        self._commit_to(self.log.last().index)
        self._apply_committed(self.tenure.commit)
        entry = self._succeed(predecessor)
        self._complete(request.token, Ok((), Cursor(entry.term, entry.index)))

    def _recovery_refusal(self, request: Recover) -> str:
        """Return why this member may not found a generation; empty if it may."""
        tenure, config, last = self.tenure, self.last_config, self.log.last()
        if config is None or tenure.cluster is None:
            return "no-cluster"
        others = {peer.cluster for peer in self.peers.values()} - {None, tenure.cluster}
        # Volatile voters alone are lost: with trust_disk they come back from their disks.
        judged = (
            (self.recovery is None, "recovery-not-authorized"),
            (self.settings.trust_disk, "recovery-needs-no-survivor"),
            (self._level() < REMOVED_LEVEL, "feature-level-too-low"),
            (self.me not in config.voters or tenure.removed_ms is not None, "not-a-voter"),
            (bool(tenure.dissolve_index), "dissolving"),
            (self._is_group_alive(), "group-is-alive"),
            (bool(others), "another-cluster-is-here"),
            (request.position != last or last.index > INDEX_MAX - INDEX_JUMP, "position-differs"),
            (not self._is_approved(request), "approval-refused"),
        )
        return next((reason for refused, reason in judged if refused), "")

    def _is_approved(self, request: Recover) -> bool:
        if self.recovery is None:
            return False
        return self.recovery.permits(self._statement(self._predecessor_for(request)), request.approval)

    def _is_group_alive(self) -> bool:
        """Return whether there is, or was a moment ago, a leader, or a quorum that may elect one."""
        tenure = self.tenure
        heard_ms = tenure.since_ms if tenure.leader_contact_ms is None else tenure.leader_contact_ms
        return (
            tenure.leader is not None
            or self.now - heard_ms < PATIENCE * self.settings.election_timeout_ms
            or self.outlook().quorum not in (Quorum.LOST, Quorum.GONE)
        )

    def _predecessor_for(self, request: Recover) -> Predecessor:
        return Predecessor(
            cluster=self._cluster,
            position=self.log.last(),
            jump=self._index_jump(),
            approval=request.approval,
        )

    def _statement(self, predecessor: Predecessor) -> bytes:
        return recovery_statement(self.group_id, predecessor, self.me.id)

    def _index_jump(self) -> int:
        return INDEX_JUMP

    def _succeed(self, predecessor: Predecessor) -> Entry:
        """Leave the old cluster for its successor, which begins with all that is applied here."""
        before = self.tenure
        replica, config = before.replica, self.last_config
        assert config is not None
        assert replica.levels is not None
        if replica.applied.index != predecessor.position.index:
            raise HaltError("recovery-not-applied")
        if before.handed_over is not None:
            self._complete(before.handed_over.token, Unknown("transfer-lost"))
        self._become_follower(before.term, None)
        self.reads.ask_again()
        before.snaps.keeper.forget_unproven()
        entry = self._successors_genesis(predecessor, config, replica.levels)
        self.log.restart(predecessor.start, self.log.last_ms())
        replica.applied = Cursor(predecessor.start.term, predecessor.start.index)
        tenure = self.tenure = self._new_tenure_over(replica)
        tenure.cluster, tenure.predecessor = entry.chain, predecessor
        tenure.commit = predecessor.start.index
        tenure.log_commands, tenure.published_levels = replica.commands, before.published_levels
        tenure.snaps.is_wanted = True
        self._append((entry,))
        self._set_vote(entry.term, None)
        self._commit_to(entry.index)
        for peer in self.peers.values():
            peer.presence = None  # of the time before
        self._refresh_audience()
        self._broadcast_presence()
        self.election_due = self.now + 1  # alone it wins at once, in a step of its own
        return entry

    def _successors_genesis(self, predecessor: Predecessor, last: Config, levels: Levels) -> Entry:
        nonce = self.randrange(2**128).to_bytes(16, "big")
        voters = (self.me,)
        signature = self.credentials.sign(genesis_digest(self.group_id, nonce, voters, levels, predecessor))
        founding = Signatures(nonce=nonce, signatures=(signature,), levels=levels, predecessor=predecessor)
        config = Config(epoch=last.epoch + 1, voters=voters, tie=None, reason=RECOVERY, removed=last.removed)
        return make_entry(
            predecessor.start,
            term=genesis_term(predecessor.generation),
            kind=EntryKind.CONFIG,
            time_ms=self.log.last_ms(),
            payload=encode_config(config, founding),
        )

    # ---- meeting the old cluster ----------------------------------------------
    def _meet_rival(self, sender: Incarnation, m: Presence) -> None:
        """Answer a successor of ours, or any other rival, that we have a leader."""
        if self.recovery is not None and self.tenure.leader is not None and m.cluster is not None:
            self._send(sender, Alive(self._cluster, m.cluster))
        super()._meet_rival(sender, m)

    def _on_alive(self, m: Alive) -> None:
        predecessor = self.predecessor()
        if predecessor is not None and (m.cluster, m.outlives) == (predecessor.cluster, self.tenure.cluster):
            raise HaltError(PREDECESSOR_LIVES)

    def predecessor(self) -> Predecessor | None:
        """Return what the genesis of our cluster follows: whoever joined gives way as its founder does."""
        genesis = self.tenure.replica.genesis
        if genesis is None:
            return None
        _, founding = decode_config_untrusted(genesis.payload)
        return None if founding is None else founding.predecessor
