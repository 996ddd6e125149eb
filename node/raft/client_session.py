"""The session of this member, and the commands of its callers, exactly once (3.8).

A command waits, gets the next sequence number of this member's session, is written by us or forwarded, and is
complete when *its* (session, seq) is applied here: never because some index was committed (C8). The next
leader receives every unanswered command again, in order; the replicated session table makes the copies
harmless.
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Protocol

from node.peers import Incarnation
from node.raft.budget import MemoryReported
from node.raft.entries import (
    KEY_BYTES_MAX,
    SessionChange,
    encode_command_body,
    encode_commands,
    encode_session,
    is_credential,
    is_plain,
    session_id,
)
from node.raft.events import Execute
from node.raft.messages import Forward, ForwardReply, Message, Overloaded, Proposal
from node.raft.tenure import Leadership, Tenure
from node.raft.types import (
    NO_ROOM,
    Cursor,
    EntryKind,
    Key,
    NotExecuted,
    Ok,
    Outcome,
    Settings,
    Unknown,
)

_COMMAND: Final = EntryKind.COMMAND
_SYSTEM: Final = EntryKind.SYSTEM
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
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
        times: how often it was.
    """

    execute: Execute
    body: bytes
    seq: int = 0
    payload: bytes = b""
    key: Key | None = None
    sent_ms: int = 0
    cursor: Cursor | None = None
    left: bool = False
    times: int = 0


class SessionHost(Protocol):
    """What a session needs of the member that it belongs to."""

    @property
    def me(self) -> Incarnation: ...
    @property
    def group_id(self) -> bytes: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def now(self) -> int: ...
    @property
    def peers(self) -> Container[Incarnation]: ...
    @property
    def tenure(self) -> Tenure: ...
    @property
    def _cluster(self) -> bytes: ...

    def _log_time_passed(self) -> int: ...
    def _refusal(self, leadership: Leadership) -> str: ...
    def _propose(self, session: bytes, proposal: Proposal) -> Cursor | None: ...
    def _fullest(self, leadership: Leadership) -> tuple[Incarnation, MemoryReported]: ...
    def _send(self, to: Incarnation, message: Message) -> None: ...
    def _complete(self, token: int, outcome: Outcome) -> None: ...


class ClientSession:
    """This member's session and the commands of its callers.

    Attributes:
        number: of the current session; every expiry makes a new one.
        id: of that session.
        waiting: commands without a sequence number.
        in_flight: sequence number -> command that is numbered and not answered.
        tokens: every unanswered command by its token.
        pending_bytes: the size of their commands.
        was_open: the session was open at some time.
        asked_ms: when we last asked for it to be opened or kept alive, in the term ``asked_in_term``.
        next_seq: for the next command.
        next_send: every command in flight from here on is still to be handed over.
        sent_to: the leader that has been given what lies below ``next_send``.
        sent_in_term: its term.
        used_ms: when we last handed anything over in it.
        is_refused: the leader last did not take a command, for want of memory.
        retry_due: when to look again for commands that no answer came for.
        rewind_due: until then a gap that the leader reports is not new.
    """

    def __init__(self, host: SessionHost, number: int) -> None:
        self.host = host
        self.number = number
        self.id = session_id(host.group_id, host.me.id, number)
        self.waiting: deque[Pending] = deque()
        self.in_flight: dict[int, Pending] = {}
        self.tokens: dict[int, Pending] = {}
        self.pending_bytes = 0
        self.was_open = False
        self.asked_ms: int | None = None
        self.asked_in_term = 0
        self.next_seq = 1
        self.next_send = 1
        self.sent_to: Incarnation | None = None
        self.sent_in_term = 0
        self.used_ms = 0
        self.is_refused = False
        self.retry_due = 0
        self.rewind_due = 0

    # ---- from our callers ---------------------------------------------------
    def submit(self, execute: Execute) -> None:
        host = self.host
        settings = host.settings
        refusal = _objection(execute)
        if refusal:
            host._complete(execute.token, NotExecuted(refusal, host.tenure.leader))
            return
        body = encode_command_body(execute.commands, execute.credential)
        size = len(body)
        if size > settings.command_bytes_max:
            host._complete(execute.token, NotExecuted("command-too-large", host.tenure.leader))
            return
        if len(self.tokens) >= settings.pending_max or self.pending_bytes + size > PENDING_BYTES_MAX:
            host._complete(execute.token, NotExecuted("overloaded", host.tenure.leader))
            return
        pending = Pending(execute, body)
        self.tokens[execute.token] = pending
        self.pending_bytes += size
        self.waiting.append(pending)

    def cancel(self, token: int) -> None:
        """The caller of ``token`` gave up waiting. A command that left this member may still happen."""
        pending = self.tokens.get(token)
        if pending is None:
            return
        outcome: Outcome = Unknown("cancelled")
        if not pending.left:
            outcome = NotExecuted("cancelled", self.host.tenure.leader)
        self._finish(pending, outcome)

    def _finish(self, pending: Pending, outcome: Outcome) -> None:
        token = pending.execute.token
        del self.tokens[token]
        self.pending_bytes -= len(pending.body)
        if pending.seq:
            self.in_flight.pop(pending.seq, None)
        else:
            self.waiting.remove(pending)
        self.host._complete(token, outcome)

    # ---- the session --------------------------------------------------------
    def _is_open(self) -> bool:
        """Open or renew our session as needed; return whether commands can be sent in it."""
        host = self.host
        tenure = host.tenure
        active_ms = tenure.replica.table.active_ms(self.id)
        if active_ms is not None:
            self.was_open = True
            ttl_ms = host.settings.session_ttl_ms
            if host.now - self._used_ms() >= ttl_ms // 3:
                self._ask("keepalive")
            # If the next entry that is applied ends this session, commands that are handed over in it would
            # get a place in the log, and never be executed.
            return host._log_time_passed() - active_ms <= ttl_ms
        if self.was_open:
            self.renew()
        # An open with the time of an old entry would be taken for a late copy, and be void.
        up_to_date = tenure.replica.applied.index == tenure.commit
        if up_to_date and (tenure.leadership is not None or tenure.in_step):
            self._ask("open")
        return False

    def _used_ms(self) -> int:
        """Return when something was last handed over that may be in the log: it keeps the session open."""
        return min(self.used_ms, self.asked_ms or 0) if self.is_refused else self.used_ms

    def renew(self) -> None:
        """Replace our expired session. Unanswered commands were not executed in it, and never will be.

        All of the log up to the expiry is applied here, and every later entry of that session is void: so
        handing the commands over again under a new session executes each at most once.
        """
        self.number += 1
        self.id = session_id(self.host.group_id, self.host.me.id, self.number)
        self.was_open = False
        self.asked_ms = None
        unanswered = list(self.in_flight.values())
        self.in_flight.clear()
        for pending in unanswered:
            pending.seq, pending.payload, pending.cursor = 0, b"", None
        self.waiting.extendleft(reversed(unanswered))
        self.next_seq = self.next_send = 1

    def _ask(self, operation: str) -> None:
        tenure = self.host.tenure
        fresh = self.asked_in_term == tenure.term and self.asked_ms is not None
        if fresh and self.host.now - (self.asked_ms or 0) < self.host.settings.election_timeout_ms:
            return
        change = SessionChange(operation, self.id, self.host.me.id, tenure.replica.applied_ms)
        proposal = Proposal(EntryKind.SESSION, 0, encode_session(change))
        if self._hand_over((proposal,)):
            self.asked_ms = self.host.now
            self.asked_in_term = tenure.term
            self.used_ms = self.host.now

    # ---- to the leader ------------------------------------------------------
    def _hand_over(self, proposals: tuple[Proposal, ...], after: int = 0) -> bool:
        """Write proposals if we lead, otherwise forward them; return whether either was possible."""
        tenure = self.host.tenure
        if tenure.leadership is not None:
            if self.host._refusal(tenure.leadership):
                return False
            for proposal in proposals:
                cursor = self.host._propose(self.id, proposal)
                if cursor is NO_ROOM:
                    member, known = self.host._fullest(tenure.leadership)
                    self._refuse(proposal.seq, no_room(member, known.use, known.budget.size), handed=0)
                else:
                    self._note_cursor(proposal.seq, cursor)
            return True
        if tenure.leader is None or not self._reaches_leader():
            return False
        self.host._send(tenure.leader, Forward(self.host._cluster, self.number, after, proposals))
        return True

    def _reaches_leader(self) -> bool:
        tenure = self.host.tenure
        return tenure.leadership is not None or tenure.leader in self.host.peers

    def flush(self) -> None:
        """Hand over the waiting commands, all in one Forward."""
        if not self._is_open() or not self._reaches_leader():
            return
        tenure = self.host.tenure
        if self.sent_in_term != tenure.term or self.sent_to != tenure.leader:
            self.sent_in_term, self.sent_to = tenure.term, tenure.leader
            for pending in self.in_flight.values():
                pending.cursor = None
            self.next_send = next(iter(self.in_flight), self.next_seq)
        if self.waiting:
            self._number_waiting()
        if self.next_send < self.next_seq:
            self._send_unsent()

    def _number_waiting(self) -> None:
        window = self.host.settings.session_window
        while self.waiting:
            low = next(iter(self.in_flight), self.next_seq)
            if self.next_seq - low >= window:
                return
            pending = self.waiting.popleft()
            pending.seq = self.next_seq
            if pending.execute.key is not None and pending.key is None:
                not_after_ms = (
                    self.host._log_time_passed() + self.host.settings.session_ttl_ms // NOT_AFTER_DIVISOR
                )
                pending.key = Key(pending.execute.key, not_after_ms)
            pending.payload = encode_commands(self.id, pending.seq, low, pending.key, pending.body)
            self.in_flight[pending.seq] = pending
            self.next_seq += 1

    def _send_unsent(self) -> None:
        now, bytes_max = self.host.now, self.host.settings.append_bytes_max
        while self.next_send < self.next_seq:
            batch: list[Proposal] = []
            size = 0
            seq = self.next_send
            while seq < self.next_seq and size < bytes_max:
                pending = self.in_flight.get(seq)
                if pending is not None:
                    kind = _SYSTEM if pending.execute.system else _COMMAND
                    batch.append(Proposal(kind, seq, pending.payload))
                    size += len(pending.payload)
                seq += 1
            if batch and not self._hand_over(tuple(batch), self._before(batch[0].seq)):
                return
            for proposal in batch:
                sent = self.in_flight.get(proposal.seq)
                if sent is not None:
                    sent.sent_ms, sent.left = now, True
                    sent.times += 1
            self.next_send = seq
            self.used_ms = now

    def _before(self, seq: int) -> int:
        """Return the unanswered command before ``seq``; 0 if every earlier command is answered."""
        return next((other for other in reversed(self.in_flight) if other < seq), 0)

    def _note_cursor(self, seq: int, cursor: Cursor | None) -> None:
        pending = self.in_flight.get(seq)
        if pending is None or cursor is None:
            return
        pending.cursor = cursor
        pending.left = True
        self.is_refused = False
        if pending.execute.feed:
            self._finish(pending, Ok((), cursor))

    def retry(self) -> None:
        """Hand over everything again, in order, from the point where a Forward or its answer was lost."""
        if self.host.now < self.retry_due:
            return
        self.retry_due = self.host.now + self.host.settings.election_timeout_ms // 2
        for seq, pending in self.in_flight.items():
            if seq >= self.next_send:
                return
            waited = self.host.now - pending.sent_ms
            if pending.cursor is None and waited >= self.host.settings.election_timeout_ms // 2:
                self.next_send = seq
                return

    def due(self) -> int:
        return max(self.retry_due, self.host.now + 1)

    def on_forward_reply(self, sender: Incarnation, m: ForwardReply) -> None:
        if m.session != self.number or m.term != self.host.tenure.term or sender != self.host.tenure.leader:
            return
        for seq, cursor in m.cursors:
            self._note_cursor(seq, cursor)
        if m.refused == "gap" and self.host.now >= self.rewind_due:
            # Once for all Forwards under way, because each of them is refused for the same gap. Commands that
            # are handed over again may be refused too, until we know that our session expired.
            self.rewind_due = self.host.now + self.host.settings.heartbeat_ms
            unsure = (seq for seq, pending in self.in_flight.items() if pending.cursor is None)
            self.next_send = min(next(unsure, self.next_seq), self.next_send)

    def on_overloaded(self, sender: Incarnation, m: Overloaded) -> None:
        """Answer the commands that the leader did not take.

        It remembers what it refused, so it takes no other copy of the same Forward. A command that we have
        yet to hand over to it in this term is not meant: it may be in the log, as an earlier leader wrote it.
        """
        if m.session != self.number or m.term != self.host.tenure.term or sender != self.host.tenure.leader:
            return
        if (self.sent_to, self.sent_in_term) != (sender, m.term):
            return
        for seq in m.seqs:
            self._refuse(seq, no_room(m.member, m.use, m.budget), handed=1)

    def _refuse(self, seq: int, detail: str, *, handed: int) -> None:
        """Answer command ``seq``, which was not taken when it was handed over for the ``handed``-th time.

        Another copy of a command that was handed over more often may be taken yet. It is not handed over
        again, so no command after it is executed before it.
        """
        pending = self.in_flight.get(seq)
        if pending is None or pending.cursor is not None:
            return
        self.is_refused = True
        if pending.times > handed:
            self._finish(pending, Unknown("overloaded"))
        else:
            self._finish(pending, NotExecuted("overloaded", self.host.tenure.leader, detail))

    # ---- decided ------------------------------------------------------------
    def state_replaced(self) -> None:
        """Answer what was decided in the entries that never came here.

        If this session ended there, nothing remembers which of its commands were executed before. They must
        not be handed over again.
        """
        table = self.host.tenure.replica.table
        gone = self.id not in table
        for seq, pending in list(self.in_flight.items()):
            outcome: Outcome | None = table.outcome_of(self.id, seq)
            if outcome is None and gone and pending.left:
                outcome = Unknown("session-expired")
            if outcome is not None:
                self._finish(pending, outcome)

    def applied(self, seq: int, outcome: Outcome) -> None:
        """Command ``seq`` of this session was decided."""
        pending = self.in_flight.get(seq)
        if pending is None or outcome == NotExecuted("session-expired"):
            return  # expired: ``renew`` hands it over again
        self._finish(pending, outcome)

    def give_up(self, outcome: Outcome) -> None:
        """Answer every command with ``outcome``: this member has stopped."""
        for token in sorted(self.tokens):
            self.host._complete(token, outcome)
        self.tokens.clear()


def no_room(member: Incarnation, use: int, budget: int) -> str:
    """Return for people why a command was not taken, and what helps."""
    return (
        f"the memory of {member.name} is nearly full: it uses {use} of {budget} bytes; try again in a while, "
        "delete what is not needed, or give that node more memory (memory.budget_bytes)"
    )


def _objection(execute: Execute) -> str:
    """Return why these commands can never be executed; empty if they can."""
    if not execute.commands:
        return "no-commands"
    if execute.key is not None and not 1 <= len(execute.key) <= KEY_BYTES_MAX:
        return "bad-idempotency-key"
    if execute.credential is not None and not is_credential(execute.credential):
        return "bad-credential"
    for command in execute.commands:
        if not is_plain(command):
            return "not-plain-data"
    return ""
