"""Commands that peers forward to this member while it leads, and whose command an applied entry was (3.8)."""

from typing import Final

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.raft.entries import (
    decode_session_untrusted,
    payload_prefix,
    session_id,
)
from node.raft.events import Cancel
from node.raft.membership import Membership
from node.raft.messages import Forward, ForwardReply, Overloaded, Proposal
from node.raft.reads import Reads
from node.raft.tenure import Leadership, Refused
from node.raft.types import (
    COMMANDS,
    NO_ROOM,
    Cursor,
    NotExecuted,
    Outcome,
    Unknown,
)

PAYLOAD_OVERHEAD_BYTES: Final = 512


class Forwarding(Membership):
    """Both ends of forwarding: the leader's, and the answers to our own callers."""

    reads: Reads

    def _on_cancel(self, cancel: Cancel) -> None:
        tenure = self.tenure
        if self.reads.cancel(cancel.token):
            self._complete(cancel.token, NotExecuted("cancelled", tenure.leader))
            return
        leadership = tenure.leadership
        if (
            leadership is not None
            and leadership.version_change is not None
            and leadership.version_change[0] == cancel.token
        ):
            self._complete(cancel.token, Unknown("cancelled"))
            leadership.version_change = None
            return
        self.session.cancel(cancel.token)

    def _on_forward(self, sender: Incarnation, m: Forward) -> None:
        tenure = self.tenure
        session = session_id(self.group_id, sender.id, m.session)
        if not all(self._is_senders_own(sender, session, p) for p in m.proposals):
            self._violation(sender, "forward-for-another-session")
            return
        leadership = tenure.leadership
        refused = "not-leader" if leadership is None else self._refusal(leadership)
        if leadership is not None and not refused and not self._has_handled(leadership, session, m.after):
            refused = "gap"
        cursors: list[tuple[int, Cursor]] = []
        if leadership is not None and not refused:
            cursors, no_room, refused = self._take_proposals(leadership, session, m.proposals)
            if no_room:
                self._answer_no_room(sender, m.session, self.tenure.refused[session], no_room)
        self._send(
            sender,
            ForwardReply(self._cluster, tenure.term, m.session, tuple(cursors), refused, tenure.leader),
        )

    def _take_proposals(
        self, leadership: Leadership, session: bytes, proposals: tuple[Proposal, ...]
    ) -> tuple[list[tuple[int, Cursor]], list[int], str]:
        """Write proposals of a peer, in order.

        Returns:
            Where each command is, those for which a voter has no memory, and why the rest were not looked at.
        """
        cursors: list[tuple[int, Cursor]] = []
        no_room: list[int] = []
        refused = ""
        for proposal in proposals:
            cursor = self._propose(session, proposal)
            if cursor is NO_ROOM:
                if not self._remember_refused(leadership, session, proposal.seq):
                    refused = "overloaded"
                    break
                no_room.append(proposal.seq)
            elif cursor is not None and proposal.seq:
                cursors.append((proposal.seq, cursor))
        leadership.awaited = self.log.last().index
        return cursors, no_room, refused

    def _remember_refused(self, leadership: Leadership, session: bytes, seq: int) -> bool:
        """Remember that command ``seq`` was refused, so that no copy of it is taken; return whether we can.

        Its origin reports it as not executed, and a network may deliver a Forward again when there is room,
        in a later term too. Only of open sessions is it remembered: they are few, and what comes of a session
        that has ended is void.
        """
        tenure = self.tenure
        table = tenure.replica.table
        if session not in table:
            return False
        known = tenure.refused.get(session)
        if known is not None and seq in known:
            return True
        member, reported = self._fullest(leadership)
        if known is None:
            tenure.refused = {name: one for name, one in tenure.refused.items() if name in table}
            known = tenure.refused[session] = Refused(self.settings.session_window, member, reported)
        known.add(seq, member, reported)
        return True

    def _answer_no_room(self, origin: Incarnation, number: int, refused: Refused, seqs: list[int]) -> None:
        member, reported = refused.member, refused.reported
        self._send(
            origin,
            Overloaded(
                self._cluster,
                self.tenure.term,
                number,
                tuple(seqs),
                member,
                reported.use,
                reported.budget.size,
            ),
        )

    def _has_handled(self, leadership: Leadership, session: bytes, seq: int) -> bool:
        """Return whether command ``seq`` is in our log in this term, was answered before, or was refused."""
        tenure = self.tenure
        return (
            not seq
            or (session, seq) in leadership.proposed
            or tenure.replica.table.is_answered(session, seq)
            or (session in tenure.refused and seq in tenure.refused[session])
        )

    def _is_senders_own(self, sender: Incarnation, session: bytes, proposal: Proposal) -> bool:
        """R2 for sessions: return whether a proposal is the sender's own, and within the limits."""
        limit = self.settings.command_bytes_max + PAYLOAD_OVERHEAD_BYTES
        if proposal.kind in COMMANDS:
            return len(proposal.payload) <= limit and proposal.payload.startswith(
                payload_prefix(session, proposal.seq)
            )
        try:
            change = decode_session_untrusted(proposal.payload)
        except RemoteProtocolError:
            return False
        return change.session == session and change.owner == sender.id and proposal.seq == 0

    def _state_replaced(self) -> None:
        self.session.state_replaced()

    def _entry_applied(self, session: bytes, seq: int, outcome: Outcome) -> None:
        leadership: Leadership | None = self.tenure.leadership
        if not session:
            self._version_changed(seq, outcome)
            return
        if leadership is not None:
            leadership.proposed.pop((session, seq), None)
        if session == self.session.id:
            self.session.applied(seq, outcome)
