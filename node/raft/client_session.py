"""Commands of this member's own callers, exactly once (3.8), and commands that peers forward to the leader.

A command waits, gets the next sequence number of this member's session, is written by us or forwarded, and is
complete when *its* (session, seq) is applied here: never because some index was committed (C8). The next
leader receives every unanswered command again, in order; the replicated session table makes the copies
harmless.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.raft.entries import (
    KEY_BYTES_MAX,
    SessionChange,
    decode_session_untrusted,
    encode_command_body,
    encode_commands,
    encode_session,
    is_credential,
    is_plain,
    payload_prefix,
    session_id,
)
from node.raft.events import Cancel, Execute
from node.raft.membership import Membership
from node.raft.messages import Forward, ForwardReply, Proposal
from node.raft.reads import Reads
from node.raft.tenure import Leadership
from node.raft.types import (
    COMMANDS,
    Cursor,
    EntryKind,
    Key,
    NotExecuted,
    Ok,
    Outcome,
    Unknown,
)

PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
PAYLOAD_OVERHEAD_BYTES: Final = 512
# How much of a key's TTL a command may take from here into the log. Callers repeat it and hand it over within
# three quarters (``node/api/freshness.py``), and the log's time may go a tenth faster than theirs.
NOT_AFTER_DIVISOR: Final = 8


@dataclass(slots=True)
class Pending:
    """One Execute that is not answered yet.

    Attributes:
        seq: 0 while it waits.
        key: with how late it may be executed, from its first ``seq`` on.
        cursor: where the current leader put it, if that leader reported it.
        left: it was handed to some leader (maybe ourselves) at least once.
    """

    execute: Execute
    body: bytes
    seq: int = 0
    payload: bytes = b""
    key: Key | None = None
    sent_ms: int = 0
    cursor: Cursor | None = None
    left: bool = False


@dataclass(slots=True)
class ClientSession:
    """This member's session and its commands.

    Attributes:
        number: of the current session; every expiry makes a new one.
        id: of that session.
        was_open: the session was open at some time.
        asked_ms: when we last asked for it to be opened or kept alive.
        next_seq: for the next command.
        next_send: every command in flight from here on is still to be handed over.
        sent_to: the leader that has been given what lies below ``next_send``.
        sent_in_term: its term.
        rewind_due: until then a gap that the leader reports is not new.
    """

    number: int
    id: bytes
    waiting: deque[Pending] = field(default_factory=deque)
    in_flight: dict[int, Pending] = field(default_factory=dict)
    tokens: dict[int, Pending] = field(default_factory=dict)
    bytes: int = 0
    was_open: bool = False
    asked_ms: int | None = None
    asked_in_term: int = 0
    next_seq: int = 1
    next_send: int = 1
    sent_to: Incarnation | None = None
    sent_in_term: int = 0
    used_ms: int = 0
    retry_due: int = 0
    rewind_due: int = 0


class Clients(Membership):
    """Both ends of forwarding."""

    reads: Reads
    session: ClientSession

    # ---- from our callers ---------------------------------------------------
    def _on_execute(self, execute: Execute) -> None:
        tenure = self.tenure
        session = self.session
        refusal = self._judge(execute)
        if refusal:
            self._complete(execute.token, NotExecuted(refusal, tenure.leader))
            return
        body = encode_command_body(execute.commands, execute.credential)
        size = len(body)
        if size > self.settings.command_bytes_max:
            self._complete(execute.token, NotExecuted("command-too-large", tenure.leader))
            return
        if len(session.tokens) >= self.settings.pending_max or session.bytes + size > PENDING_BYTES_MAX:
            self._complete(execute.token, NotExecuted("overloaded", tenure.leader))
            return
        pending = Pending(execute, body)
        session.tokens[execute.token] = pending
        session.bytes += size
        session.waiting.append(pending)

    def _judge(self, execute: Execute) -> str:
        """Return why these commands can never be executed; empty if they can."""
        if not execute.commands:
            return "no-commands"
        if execute.key is not None and not 1 <= len(execute.key) <= KEY_BYTES_MAX:
            return "bad-idempotency-key"
        if execute.credential is not None and not is_credential(execute.credential):
            return "bad-credential"
        if not all(is_plain(command) for command in execute.commands):
            return "not-plain-data"
        return ""

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
        pending = self.session.tokens.get(cancel.token)
        if pending is None:
            return
        outcome: Outcome = Unknown("cancelled")
        if not pending.left:
            outcome = NotExecuted("cancelled", tenure.leader)
        self._finish(pending, outcome)

    def _finish(self, pending: Pending, outcome: Outcome) -> None:
        session = self.session
        token = pending.execute.token
        del session.tokens[token]
        session.bytes -= len(pending.body)
        if pending.seq:
            session.in_flight.pop(pending.seq, None)
        else:
            session.waiting.remove(pending)
        self._complete(token, outcome)

    # ---- the session --------------------------------------------------------
    def _session_is_open(self) -> bool:
        """Open or renew our session as needed; return whether commands can be sent in it."""
        tenure = self.tenure
        session = self.session
        if session.id in tenure.replica.table:
            session.was_open = True
            if self.now - session.used_ms >= self.settings.session_ttl_ms // 3:
                self._ask_session("keepalive")
            return not self._is_session_over()
        if session.was_open:
            self._renew_session()
        # An open with the time of an old entry would be taken for a late copy, and be void.
        up_to_date = tenure.replica.applied.index == tenure.commit
        if up_to_date and (tenure.leadership is not None or tenure.in_step):
            self._ask_session("open")
        return False

    def _is_session_over(self) -> bool:
        """Return whether the next entry that is applied ends our session, which is still open in the table.

        Commands handed over in it would get a place in the log, and never be executed.
        """
        idle_ms = self._log_time_passed() - self.tenure.replica.table.active_ms(self.session.id)
        return idle_ms > self.settings.session_ttl_ms

    def _renew_session(self) -> None:
        """Replace our expired session. Unanswered commands were not executed in it, and never will be.

        All of the log up to the expiry is applied here, and every later entry of that session is void: so
        handing the commands over again under a new session executes each at most once.
        """
        session = self.session
        session.number += 1
        session.id = session_id(self.group_id, self.me.id, session.number)
        session.was_open = False
        session.asked_ms = None
        unanswered = list(session.in_flight.values())
        session.in_flight.clear()
        for pending in unanswered:
            pending.seq, pending.payload, pending.cursor = 0, b"", None
        session.waiting.extendleft(reversed(unanswered))
        session.next_seq = session.next_send = 1

    def _ask_session(self, operation: str) -> None:
        tenure = self.tenure
        session = self.session
        fresh = session.asked_in_term == tenure.term and session.asked_ms is not None
        if fresh and self.now - (session.asked_ms or 0) < self.settings.election_timeout_ms:
            return
        change = SessionChange(operation, session.id, self.me.id, tenure.replica.applied_ms)
        proposal = Proposal(EntryKind.SESSION, 0, encode_session(change))
        if self._hand_over((proposal,)):
            session.asked_ms = self.now
            session.asked_in_term = tenure.term
            session.used_ms = self.now

    # ---- to the leader ------------------------------------------------------
    def _hand_over(self, proposals: tuple[Proposal, ...], after: int = 0) -> bool:
        """Write proposals if we lead, otherwise forward them; return whether either was possible."""
        tenure = self.tenure
        if tenure.leadership is not None:
            if self._refusal(tenure.leadership):
                return False
            for proposal in proposals:
                self._note_cursor(proposal.seq, self._propose(self.session.id, proposal))
            return True
        if tenure.leader is None or not self._reaches_leader():
            return False
        self._send(tenure.leader, Forward(self._cluster, self.session.number, after, proposals))
        return True

    def _reaches_leader(self) -> bool:
        return self.tenure.leadership is not None or self.tenure.leader in self.peers

    def _flush_session(self) -> None:
        """Hand over the waiting commands, all in one Forward."""
        tenure = self.tenure
        session = self.session
        if not self._session_is_open() or not self._reaches_leader():
            return
        if session.sent_in_term != tenure.term or session.sent_to != tenure.leader:
            session.sent_in_term, session.sent_to = tenure.term, tenure.leader
            for pending in session.in_flight.values():
                pending.cursor = None
            session.next_send = next(iter(session.in_flight), session.next_seq)
        if session.waiting:
            self._number_waiting()
        if session.next_send < session.next_seq:
            self._send_unsent()

    def _number_waiting(self) -> None:
        session = self.session
        while session.waiting:
            low = next(iter(session.in_flight), session.next_seq)
            if session.next_seq - low >= self.settings.session_window:
                return
            pending = session.waiting.popleft()
            pending.seq = session.next_seq
            if pending.execute.key is not None and pending.key is None:
                not_after_ms = self._log_time_passed() + self.settings.session_ttl_ms // NOT_AFTER_DIVISOR
                pending.key = Key(pending.execute.key, not_after_ms)
            pending.payload = encode_commands(session.id, pending.seq, low, pending.key, pending.body)
            session.in_flight[pending.seq] = pending
            session.next_seq += 1

    def _send_unsent(self) -> None:
        session = self.session
        while session.next_send < session.next_seq:
            batch: list[Proposal] = []
            size = 0
            seq = session.next_send
            while seq < session.next_seq and size < self.settings.append_bytes_max:
                pending = session.in_flight.get(seq)
                if pending is not None:
                    kind = EntryKind.SYSTEM if pending.execute.system else EntryKind.COMMAND
                    batch.append(Proposal(kind, seq, pending.payload))
                    size += len(pending.payload)
                seq += 1
            if batch and not self._hand_over(tuple(batch), self._before(batch[0].seq)):
                return
            for proposal in batch:
                sent = session.in_flight.get(proposal.seq)
                if sent is not None:
                    sent.sent_ms, sent.left = self.now, True
            session.next_send = seq
            session.used_ms = self.now

    def _before(self, seq: int) -> int:
        """Return the unanswered command before ``seq``; 0 if every earlier command is answered."""
        return next((other for other in reversed(self.session.in_flight) if other < seq), 0)

    def _note_cursor(self, seq: int, cursor: Cursor | None) -> None:
        pending = self.session.in_flight.get(seq)
        if pending is None or cursor is None:
            return
        pending.cursor = cursor
        pending.left = True
        if pending.execute.feed:
            self._finish(pending, Ok((), cursor))

    def _retry_forwards(self) -> None:
        """Hand over everything again, in order, from the point where a Forward or its answer was lost."""
        session = self.session
        if self.now < session.retry_due:
            return
        session.retry_due = self.now + self.settings.election_timeout_ms // 2
        for seq, pending in session.in_flight.items():
            if seq >= session.next_send:
                return
            waited = self.now - pending.sent_ms
            if pending.cursor is None and waited >= self.settings.election_timeout_ms // 2:
                session.next_send = seq
                return

    def _session_due(self) -> int:
        return max(self.session.retry_due, self.now + 1)

    def _on_forward_reply(self, sender: Incarnation, m: ForwardReply) -> None:
        if m.session != self.session.number or m.term != self.tenure.term or sender != self.tenure.leader:
            return
        for seq, cursor in m.cursors:
            self._note_cursor(seq, cursor)
        session = self.session
        if m.refused == "gap" and self.now >= session.rewind_due:
            # Once for all Forwards under way, because each of them is refused for the same gap. Commands that
            # are handed over again may be refused too, until we know that our session expired.
            session.rewind_due = self.now + self.settings.heartbeat_ms
            unsure = (seq for seq, pending in session.in_flight.items() if pending.cursor is None)
            session.next_send = min(next(unsure, session.next_seq), session.next_send)

    # ---- as the leader ------------------------------------------------------
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
        if not refused:
            for proposal in m.proposals:
                cursor = self._propose(session, proposal)
                if cursor is not None and proposal.seq:
                    cursors.append((proposal.seq, cursor))
            if leadership is not None:
                leadership.awaited = self.log.last().index
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

    # ---- decided ------------------------------------------------------------
    def _state_replaced(self) -> None:
        """Answer what was decided in the entries that never came here.

        If our session ended there, nothing remembers which of its commands were executed before. They must
        not be handed over again.
        """
        session = self.session
        gone = session.id not in self.tenure.replica.table
        for seq, pending in list(session.in_flight.items()):
            outcome: Outcome | None = self.tenure.replica.table.outcome_of(session.id, seq)
            if outcome is None and gone and pending.left:
                outcome = Unknown("session-expired")
            if outcome is not None:
                self._finish(pending, outcome)

    def _entry_applied(self, session: bytes, seq: int, outcome: Outcome) -> None:
        leadership: Leadership | None = self.tenure.leadership
        if not session:
            self._version_changed(seq, outcome)
            return
        if leadership is not None:
            leadership.proposed.pop((session, seq), None)
        if session != self.session.id:
            return
        pending = self.session.in_flight.get(seq)
        if pending is None or outcome == NotExecuted("session-expired"):
            return  # expired: _renew_session hands it over again
        self._finish(pending, outcome)
