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
from node.raft.tenure import Leadership
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
        no_room: list[int] = []
        if not refused:
            for proposal in m.proposals:
                cursor = self._propose(session, proposal)
                if cursor is NO_ROOM:
                    no_room.append(proposal.seq)
                elif cursor is not None and proposal.seq:
                    cursors.append((proposal.seq, cursor))
            if leadership is not None:
                leadership.awaited = self.log.last().index
        if no_room and leadership is not None:
            member, known = self._fullest(leadership)
            self._send(
                sender,
                Overloaded(
                    self._cluster,
                    tenure.term,
                    m.session,
                    tuple(no_room),
                    member,
                    known.use,
                    known.budget.size,
                ),
            )
        self._send(
            sender,
            ForwardReply(self._cluster, tenure.term, m.session, tuple(cursors), refused, tenure.leader),
        )

    def _has_handled(self, leadership: Leadership, session: bytes, seq: int) -> bool:
        """Return whether command ``seq`` is in our log in this term, or was answered before."""
        return (
            not seq
            or (session, seq) in leadership.proposed
            or self.tenure.replica.table.is_answered(session, seq)
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
