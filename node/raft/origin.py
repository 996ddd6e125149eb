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
from node.raft.messages import Forward, ForwardReply, Proposal
from node.raft.reads import Reads
from node.raft.state import Leadership
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
WAY_OF_TTL: Final = 8


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
class Outbox:
    """This member's session and its commands.

    Attributes:
        number: of the current session; every expiry makes a new one.
        session: its id.
        had: the session was open at some time.
        asked_ms: when we last asked for it to be opened or kept alive.
        next_seq: for the next command.
        next_send: every command in flight from here on is still to be handed over.
        sent_to: the leader that has been given what lies below ``next_send``.
        sent_in: its term.
        rewind_due: until then a gap that the leader reports is not new.
    """

    number: int
    session: bytes
    waiting: deque[Pending] = field(default_factory=deque)
    flying: dict[int, Pending] = field(default_factory=dict)
    tokens: dict[int, Pending] = field(default_factory=dict)
    bytes: int = 0
    had: bool = False
    asked_ms: int | None = None
    asked_in: int = 0
    next_seq: int = 1
    next_send: int = 1
    sent_to: Incarnation | None = None
    sent_in: int = 0
    used_ms: int = 0
    retry_due: int = 0
    rewind_due: int = 0


class Origin(Reads):
    """Both ends of forwarding."""

    box: Outbox

    # ---- from our callers ---------------------------------------------------
    def _on_execute(self, execute: Execute) -> None:
        box = self.box
        refusal = self._judge(execute)
        if refusal:
            self._complete(execute.token, NotExecuted(refusal, self.leader))
            return
        body = encode_command_body(execute.commands, execute.credential)
        size = len(body)
        if size > self.settings.command_bytes_max:
            self._complete(execute.token, NotExecuted("command-too-large", self.leader))
            return
        if len(box.tokens) >= self.settings.pending_max or box.bytes + size > PENDING_BYTES_MAX:
            self._complete(execute.token, NotExecuted("overloaded", self.leader))
            return
        pending = Pending(execute, body)
        box.tokens[execute.token] = pending
        box.bytes += size
        box.waiting.append(pending)

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
        if self._cancel_query(cancel.token):
            self._complete(cancel.token, NotExecuted("cancelled", self.leader))
            return
        lead = self.lead
        if lead is not None and lead.version_change is not None and lead.version_change[0] == cancel.token:
            self._complete(cancel.token, Unknown("cancelled"))
            lead.version_change = None
            return
        pending = self.box.tokens.get(cancel.token)
        if pending is None:
            return
        outcome: Outcome = Unknown("cancelled")
        if not pending.left:
            outcome = NotExecuted("cancelled", self.leader)
        self._finish(pending, outcome)

    def _finish(self, pending: Pending, outcome: Outcome) -> None:
        box = self.box
        token = pending.execute.token
        del box.tokens[token]
        box.bytes -= len(pending.body)
        if pending.seq:
            box.flying.pop(pending.seq, None)
        else:
            box.waiting.remove(pending)
        self._complete(token, outcome)

    # ---- the session --------------------------------------------------------
    def _session_is_open(self) -> bool:
        """Open or renew our session as needed; return whether commands can be sent in it."""
        box = self.box
        if box.session in self.replica.table:
            box.had = True
            if self.now - box.used_ms >= self.settings.session_ttl_ms // 3:
                self._ask_session("keepalive")
            return not self._is_session_over()
        if box.had:
            self._renew_session()
        # An open with the time of an old entry would be taken for a late copy, and be void.
        up_to_date = self.replica.applied.index == self.commit
        if up_to_date and (self.lead is not None or self.in_step):
            self._ask_session("open")
        return False

    def _is_session_over(self) -> bool:
        """Return whether the next entry that is applied ends our session, which is still open in the table.

        Commands handed over in it would get a place in the log, and never be executed.
        """
        idle_ms = self._log_time_passed() - self.replica.table.active_ms(self.box.session)
        return idle_ms > self.settings.session_ttl_ms

    def _renew_session(self) -> None:
        """Replace our expired session. Unanswered commands were not executed in it, and never will be.

        All of the log up to the expiry is applied here, and every later entry of that session is void: so
        handing the commands over again under a new session executes each at most once.
        """
        box = self.box
        box.number += 1
        box.session = session_id(self.group_id, self.me.id, box.number)
        box.had = False
        box.asked_ms = None
        unanswered = list(box.flying.values())
        box.flying.clear()
        for pending in unanswered:
            pending.seq, pending.payload, pending.cursor = 0, b"", None
        box.waiting.extendleft(reversed(unanswered))
        box.next_seq = box.next_send = 1

    def _ask_session(self, operation: str) -> None:
        box = self.box
        fresh = box.asked_in == self.term and box.asked_ms is not None
        if fresh and self.now - (box.asked_ms or 0) < self.settings.election_timeout_ms:
            return
        change = SessionChange(operation, box.session, self.me.id, self.replica.applied_ms)
        proposal = Proposal(EntryKind.SESSION, 0, encode_session(change))
        if self._hand_over((proposal,)):
            box.asked_ms = self.now
            box.asked_in = self.term
            box.used_ms = self.now

    # ---- to the leader ------------------------------------------------------
    def _hand_over(self, proposals: tuple[Proposal, ...], after: int = 0) -> bool:
        """Write proposals if we lead, otherwise forward them; return whether either was possible."""
        if self.lead is not None:
            if self._refusal(self.lead):
                return False
            for proposal in proposals:
                self._note_cursor(proposal.seq, self._propose(self.box.session, proposal))
            return True
        if self.leader is None or not self._reaches_leader():
            return False
        self._send(self.leader, Forward(self._cluster, self.box.number, after, proposals))
        return True

    def _reaches_leader(self) -> bool:
        return self.lead is not None or self.leader in self.peers

    def _flush_origin(self) -> None:
        """Hand over the waiting commands, all in one Forward."""
        box = self.box
        if not self._session_is_open() or not self._reaches_leader():
            return
        if box.sent_in != self.term or box.sent_to != self.leader:
            box.sent_in, box.sent_to = self.term, self.leader
            for pending in box.flying.values():
                pending.cursor = None
            box.next_send = next(iter(box.flying), box.next_seq)
        if box.waiting:
            self._number_waiting()
        if box.next_send < box.next_seq:
            self._send_unsent()

    def _number_waiting(self) -> None:
        box = self.box
        while box.waiting:
            low = next(iter(box.flying), box.next_seq)
            if box.next_seq - low >= self.settings.session_window:
                return
            pending = box.waiting.popleft()
            pending.seq = box.next_seq
            if pending.execute.key is not None and pending.key is None:
                not_after_ms = self._log_time_passed() + self.settings.session_ttl_ms // WAY_OF_TTL
                pending.key = Key(pending.execute.key, not_after_ms)
            pending.payload = encode_commands(box.session, pending.seq, low, pending.key, pending.body)
            box.flying[pending.seq] = pending
            box.next_seq += 1

    def _send_unsent(self) -> None:
        box = self.box
        while box.next_send < box.next_seq:
            batch: list[Proposal] = []
            size = 0
            seq = box.next_send
            while seq < box.next_seq and size < self.settings.append_bytes_max:
                pending = box.flying.get(seq)
                if pending is not None:
                    kind = EntryKind.SYSTEM if pending.execute.system else EntryKind.COMMAND
                    batch.append(Proposal(kind, seq, pending.payload))
                    size += len(pending.payload)
                seq += 1
            if batch and not self._hand_over(tuple(batch), self._before(batch[0].seq)):
                return
            for proposal in batch:
                sent = box.flying.get(proposal.seq)
                if sent is not None:
                    sent.sent_ms, sent.left = self.now, True
            box.next_send = seq
            box.used_ms = self.now

    def _before(self, seq: int) -> int:
        """Return the unanswered command before ``seq``; 0 if every earlier command is answered."""
        return next((other for other in reversed(self.box.flying) if other < seq), 0)

    def _note_cursor(self, seq: int, cursor: Cursor | None) -> None:
        pending = self.box.flying.get(seq)
        if pending is None or cursor is None:
            return
        pending.cursor = cursor
        pending.left = True
        if pending.execute.feed:
            self._finish(pending, Ok((), cursor))

    def _retry_forwards(self) -> None:
        """Hand over everything again, in order, from the point where a Forward or its answer was lost."""
        box = self.box
        if self.now < box.retry_due:
            return
        box.retry_due = self.now + self.settings.election_timeout_ms // 2
        for seq, pending in box.flying.items():
            if seq >= box.next_send:
                return
            waited = self.now - pending.sent_ms
            if pending.cursor is None and waited >= self.settings.election_timeout_ms // 2:
                box.next_send = seq
                return

    def _origin_due(self) -> int:
        return max(self.box.retry_due, self.now + 1)

    def _on_forward_reply(self, sender: Incarnation, m: ForwardReply) -> None:
        if m.session != self.box.number or m.term != self.term or sender != self.leader:
            return
        for seq, cursor in m.cursors:
            self._note_cursor(seq, cursor)
        box = self.box
        if m.refused == "gap" and self.now >= box.rewind_due:
            # Once for all Forwards under way, because each of them is refused for the same gap. Commands that
            # are handed over again may be refused too, until we know that our session expired.
            box.rewind_due = self.now + self.settings.heartbeat_ms
            unsure = (seq for seq, pending in box.flying.items() if pending.cursor is None)
            box.next_send = min(next(unsure, box.next_seq), box.next_send)

    # ---- as the leader ------------------------------------------------------
    def _on_forward(self, sender: Incarnation, m: Forward) -> None:
        session = session_id(self.group_id, sender.id, m.session)
        if not all(self._speaks_for_itself(sender, session, p) for p in m.proposals):
            self._violation(sender, "forward-for-another-session")
            return
        lead = self.lead
        refused = "not-leader" if lead is None else self._refusal(lead)
        if lead is not None and not refused and not self._has_handled(lead, session, m.after):
            refused = "gap"
        cursors: list[tuple[int, Cursor]] = []
        if not refused:
            for proposal in m.proposals:
                cursor = self._propose(session, proposal)
                if cursor is not None and proposal.seq:
                    cursors.append((proposal.seq, cursor))
            if lead is not None:
                lead.awaited = self.log.last().index
        self._send(
            sender,
            ForwardReply(self._cluster, self.term, m.session, tuple(cursors), refused, self.leader),
        )

    def _has_handled(self, lead: Leadership, session: bytes, seq: int) -> bool:
        """Return whether command ``seq`` is in our log in this term, or was answered before."""
        return not seq or (session, seq) in lead.proposed or self.replica.table.is_answered(session, seq)

    def _speaks_for_itself(self, sender: Incarnation, session: bytes, proposal: Proposal) -> bool:
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
    def _entry_applied(self, session: bytes, seq: int, outcome: Outcome) -> None:
        lead: Leadership | None = self.lead
        if not session:
            self._version_changed(seq, outcome)
            return
        if lead is not None:
            lead.proposed.pop((session, seq), None)
        if session != self.box.session:
            return
        pending = self.box.flying.get(seq)
        if pending is None or outcome == NotExecuted("session-expired"):
            return  # expired: _renew_session hands it over again
        self._finish(pending, outcome)
