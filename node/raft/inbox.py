"""Incoming events, bonds and messages, and the chapter that handles each.

A message is compared with each class in turn, the frequent ones first.
"""

from typing import Any, Final, assert_never, get_args

from node.features import objection, objection_to_peer
from node.peers import BondLoss, Incarnation
from node.raft.events import (
    BondDown,
    BondUp,
    Cancel,
    ChangeVersion,
    Event,
    Execute,
    Persisted,
    Query,
    Received,
    Recover,
    RemoveMember,
    SnapshotStored,
    Tick,
    TransferLeadership,
    Unfit,
)
from node.raft.messages import (
    Alive,
    Append,
    AppendReply,
    Avail,
    AvailReply,
    CatchUpMessage,
    Chunk,
    ClusterMessage,
    Fetch,
    Forward,
    ForwardReply,
    FoundingMessage,
    Genesis,
    GenesisProposal,
    GenesisSignature,
    MemoryMessage,
    MemoryReport,
    Overloaded,
    Presence,
    ReadIndex,
    ReadIndexReply,
    SnapshotDigest,
    SnapshotMessage,
    SnapshotOffer,
    SyncAnswer,
    SyncAsk,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from node.raft.recovering import Recovering
from node.raft.state import Peer
from node.raft.types import Bootstrap

FOUNDING: Final = frozenset(get_args(FoundingMessage))


class Inbox(Recovering):
    """Passes every event and message to the chapter that handles it."""

    def _handle(self, event: Event) -> None:
        match event:
            case Received():
                self._on_message(event.sender, event.message)
            case Tick():
                pass
            case Execute():
                self.session.submit(event)
            case Query():
                self.reads.ask(event)
            case BondUp():
                self._on_bond_up(event)
            case BondDown():
                self._on_bond_down(event.peer, event.loss)
            case Cancel():
                self._on_cancel(event)
            case Persisted() | SnapshotStored():
                self._on_disk_report(event)
            case _:
                self._handle_operator(event)

    def _handle_operator(self, event: TransferLeadership | RemoveMember | Recover | ChangeVersion) -> None:
        match event:
            case TransferLeadership():
                self._start_transfer(event.token, event.target)
            case RemoveMember():
                self._remove_member(event)
            case Recover():
                self._recover_group(event)
            case ChangeVersion():
                self._change_version(event)
            case _:
                assert_never(event)

    def _on_disk_report(self, report: Persisted | SnapshotStored) -> None:
        if isinstance(report, SnapshotStored):
            self._on_snapshot_stored(report)
            return
        self._persisted(report.serial)
        self._count_own_vote()

    # ---- bonds --------------------------------------------------------------
    def _on_bond_up(self, bond: BondUp) -> None:
        peer = bond.peer
        self.peers[peer] = Peer(bond.preference, bond.build)
        self.tenure.ended_bonds.pop(peer, None)
        if self._turn_away(peer):
            return
        self._refresh_audience()
        self._send(peer, self._presence())

    def _part_with_unfit(self) -> None:
        """Part with peers that do not know the new levels: messages of these levels may be sent now."""
        self.tenure.parting_due = False
        for peer in sorted(self.peers):
            self._turn_away(peer)

    def _turn_away(self, peer: Incarnation) -> bool:
        """Part with ``peer`` if its software cannot be in our group; return whether we did.

        Its bond ends before we send another message, because the peer might not understand that one.
        """
        levels, theirs = self.tenure.replica.levels, self.peers[peer].build
        unfit = objection_to_peer(self.build, theirs) if levels is None else objection(theirs, levels)
        if unfit:
            self._notice(Unfit(peer, unfit))
            self._on_bond_down(peer, BondLoss.LOST)
        return bool(unfit)

    def _on_bond_down(self, peer: Incarnation, loss: BondLoss) -> None:
        tenure = self.tenure
        if self.peers.pop(peer, None) is None:
            return
        self._refresh_audience()
        self._forget_promises(peer)
        tenure.rivals.discard(peer)
        if loss is not BondLoss.LOST and peer in tenure.members:
            tenure.ended_bonds[peer] = loss
        if tenure.leadership is not None:
            tenure.leadership.review_due = True
            tenure.leadership.streak.pop(peer, None)
            self._forget_memory(tenure.leadership, peer)
            if peer not in tenure.members:
                tenure.leadership.match.pop(peer, None)
                tenure.leadership.echo.pop(peer, None)
                tenure.leadership.answered_ms.pop(peer, None)
                tenure.leadership.lag.pop(peer, None)
        if peer == tenure.leader:
            self._leader_bond_lost()
        if tenure.pull is not None:
            tenure.pull.known.pop(peer, None)
            tenure.pull.cut_at.pop(peer, None)
        tenure.snaps.reports.pop(peer, None)
        tenure.snaps.named.pop(peer, None)
        tenure.snaps.pace.forget(peer)
        self._lose_source(peer)
        self.reads.forget_peer(peer)
        self._drive_founding()

    # ---- messages -----------------------------------------------------------
    def _on_message(self, sender: Incarnation, message: Any) -> None:
        peer = self.peers.get(sender)
        if peer is None:
            return  # its bond is gone, so its last messages no longer count
        if type(message) in FOUNDING:
            self._on_founding_message(sender, message)
        elif self._is_ours(sender, peer, message):
            self._on_cluster_message(sender, message)

    def _on_founding_message(self, sender: Incarnation, message: FoundingMessage) -> None:
        match message:
            case Presence():
                self._on_presence(sender, message)
            case GenesisProposal():
                self._on_genesis_proposal(sender, message)
            case GenesisSignature():
                self._on_genesis_signature(sender, message)
            case Genesis():
                self._on_genesis(sender, message)
            case Alive():
                self._on_alive(message)
            case _:
                assert_never(message)

    def _is_ours(self, sender: Incarnation, peer: Peer, message: ClusterMessage) -> bool:
        """R2: only messages of our own cluster count. A member in no cluster enters the first it meets."""
        tenure = self.tenure
        if message.cluster == tenure.cluster:
            if peer.cluster != tenure.cluster:
                peer.cluster = tenure.cluster
                self._refresh_audience()
            return True
        if message.cluster in self.founding_state.dissolved:
            self._send(sender, self._presence())
            return False
        peer.cluster = message.cluster
        self._refresh_audience()
        if tenure.cluster is not None or not self._may_enter():
            self._send(sender, self._presence())
            return False
        self._enter(message.cluster)
        return True

    def _may_enter(self) -> bool:
        return self.founding.bootstrap is not Bootstrap.INIT

    def _on_cluster_message(self, sender: Incarnation, m: ClusterMessage) -> None:
        match m:
            case Append():
                self._on_append(sender, m)
            case AppendReply():
                self._on_append_reply(sender, m)
            case Forward():
                self._on_forward(sender, m)
            case ForwardReply():
                self.session.on_forward_reply(sender, m)
            case ReadIndex():
                self.reads.on_read_index(sender, m)
            case ReadIndexReply():
                self.reads.on_read_index_reply(sender, m)
            case VoteRequest():
                self._on_vote_request(sender, m)
            case VoteReply():
                self._on_vote_reply(sender, m)
            case TimeoutNow():
                self._on_timeout_now(sender, m)
            case Avail() | AvailReply() | Fetch() | Chunk():
                self._on_catch_up_message(sender, m)
            case MemoryReport() | Overloaded():
                self._on_memory_message(sender, m)
            case _:
                self._on_snapshot_message(sender, m)

    def _on_catch_up_message(self, sender: Incarnation, m: CatchUpMessage) -> None:
        match m:
            case Avail():
                self._on_avail(sender, m)
            case AvailReply():
                self._on_avail_reply(sender, m)
            case Fetch():
                self._on_fetch(sender, m)
            case Chunk():
                self._on_chunk(sender, m)
            case _:
                assert_never(m)

    def _on_memory_message(self, sender: Incarnation, m: MemoryMessage) -> None:
        match m:
            case MemoryReport():
                self._on_memory_report(sender, m)
            case Overloaded():
                self.session.on_overloaded(sender, m)
            case _:
                assert_never(m)

    def _on_snapshot_message(self, sender: Incarnation, m: SnapshotMessage) -> None:
        match m:
            case SnapshotDigest():
                self._on_snapshot_digest(sender, m)
            case SnapshotOffer():
                self._on_snapshot_offer(sender, m)
            case SyncAsk():
                self._on_sync_ask(sender, m)
            case SyncAnswer():
                self._on_sync_answer(sender, m)
            case _:
                assert_never(m)
