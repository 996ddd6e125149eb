r"""One TCP connection as asyncio drives it: TLS, then the handshake, then the bond.

The cores decide; this file only moves bytes, runs what they ask for, and makes sure that every connection
ends once, for one reason, which is in the audit log.

    TLS -> HANDSHAKE -> BOND -> LINGERING -> CLOSED
      \________\_________\________/^     any end: the reason is sent, then what the peer still sends is
                                         read and thrown away for a moment. Closing at once would make
                                         the kernel reset the connection, and the reason could be lost.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Protocol, cast

from OpenSSL import SSL

from attestation.errors import AttestationError
from attestation.tickets import ExpectedClaims, TicketIssuer, TicketValidator
from node.bonds import bond as steady
from node.bonds import handshake as shaking
from node.bonds.admission import Admission, judge
from node.bonds.bond import Bond, BondAction
from node.bonds.certificate import peer_key_untrusted
from node.bonds.discovery import join_address
from node.bonds.frames import FRAME_BYTES_MAX, HELLO_BYTES_MAX, FrameReader, frame_of
from node.bonds.handshake import Gate, Handshake, Role
from node.bonds.messages import (
    Admit,
    Departure,
    Message,
    PeerEntry,
    Reattest,
    Refuse,
    decode_untrusted,
)
from node.bonds.outbox import Lane, Outbox
from node.bonds.refusals import Refusal, RefusalCode
from node.bonds.settings import BondSettings, Environment
from node.bonds.tls import TLSSession
from node.errors import RemoteProtocolError
from node.raft.events import BondLoss
from node.raft.types import Incarnation

logger = logging.getLogger(__name__)

# Above it the outbox keeps frames back, so that urgent ones can still overtake.
WRITE_BUFFER_BYTES: Final = 256 * 1024
RENEW_RETRY_S: Final = 1.0


class Phase(Enum):
    TLS = "tls"
    HANDSHAKE = "handshake"
    BOND = "bond"
    LINGERING = "lingering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What the one on the other side has shown of itself by the time of an event."""

    peer_id: bytes | None
    name: str | None
    address: str
    proved: bool
    tickets: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a connection ended.

    Attributes:
        phase: how far it had come.
        by_peer: the peer's doing, not ours.
        broke: nobody said why; ``refusal`` only names what was seen.
        loss: for consensus; meaningful if it had come to ``BOND``.
    """

    phase: Phase
    refusal: Refusal
    by_peer: bool
    broke: bool
    loss: BondLoss


class Group(Protocol):
    """What a connection asks of its group."""

    @property
    def group_id(self) -> bytes: ...
    @property
    def validators(self) -> Sequence[TicketValidator]: ...
    @property
    def issuers(self) -> Sequence[TicketIssuer]: ...
    def gate_for(self, connection: "BondConnection") -> Gate: ...
    def shaking(self, connection: "BondConnection") -> None: ...
    def formed(self, connection: "BondConnection", peers: tuple[PeerEntry, ...]) -> None: ...
    def renewed(self, connection: "BondConnection") -> None: ...
    def delivered(self, connection: "BondConnection", data: bytes) -> None: ...
    def learned(self, entry: PeerEntry) -> None: ...
    def entry_changed(self, connection: "BondConnection") -> None: ...
    def ended(self, connection: "BondConnection", ending: Ending) -> None: ...


class Host(Protocol):
    """What a connection asks of its process."""

    @property
    def settings(self) -> BondSettings: ...
    @property
    def environment(self) -> Environment: ...
    @property
    def context(self) -> SSL.Context: ...
    @property
    def me(self) -> Incarnation: ...
    @property
    def network_id(self) -> bytes: ...
    @property
    def issuing(self) -> Executor: ...
    @property
    def judging(self) -> Executor: ...
    def find_group(self, group_id: bytes) -> Group | None: ...
    def opened(self, connection: "BondConnection") -> bool: ...
    def let_in(self, connection: "BondConnection") -> None: ...
    def ended(self, connection: "BondConnection", ending: Ending) -> None: ...
    def closed(self, connection: "BondConnection") -> None: ...


class BondConnection(asyncio.Protocol):
    """One connection, from TCP to its end.

    Attributes:
        role: who opened it.
        group: known from the start when we dialled, from ``Hello`` on otherwise.
        dialled: the address that we dialled, or None.
        address: the remote socket address; ``ip`` is the host in it.
        admission: the newest verdict on the peer's tickets.
        admit_sent: we have admitted the peer.
        gone: set when the socket is closed.
    """

    def __init__(self, host: Host, *, group: Group | None, dialled: str | None) -> None:
        self.role = Role.RESPONDER if dialled is None else Role.INITIATOR
        self.group = group
        self.dialled = dialled
        self.address = "unknown"
        self.ip = "unknown"
        self.phase = Phase.TLS
        self.peer_id: bytes | None = None
        self.bond: Bond | None = None
        self.admission: Admission | None = None
        self.handshake: Handshake | None = None
        self.admit_sent = False
        self.gone = asyncio.Event()
        self.formed_at: datetime | None = None
        self.opened_ms = host.environment.monotonic_ms()
        self.formed_ms = 0
        self._host = host
        self._binding = b""
        self._tickets: dict[str, bytes] = {}
        self._tls = TLSSession(host.context, server=dialled is None)
        self._reader = FrameReader(HELLO_BYTES_MAX)
        self._outbox = Outbox(host.settings.send_buffer_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._jobs: set[asyncio.Future[Any]] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._linger_until_ms = 0

    # ---- what others may ask -------------------------------------------------
    @property
    def presented(self) -> Presented:
        shake = self.handshake
        return Presented(
            peer_id=self.peer_id,
            name=None if shake is None else shake.peer_name,
            address=self.address,
            proved=shake is not None and shake.proved,
            tickets=self._tickets,
        )

    @property
    def entry(self) -> PeerEntry:
        """The peer's entry; only of a formed bond."""
        assert self.bond is not None
        return self.bond.entry

    @property
    def binding(self) -> bytes:
        """What the tickets that were judged last are bound to."""
        return self._binding

    def send_frames(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """Send over the bond. A peer that is too slow loses it, soon, never within this call."""
        if self.phase is not Phase.BOND:
            return
        try:
            self._outbox.put(lane, frames)
        except RemoteProtocolError as exc:
            refusal = Refusal(code=RefusalCode.TIMEOUT, reason=exc.reason, message=str(exc))
            loop = asyncio.get_running_loop()
            loop.call_soon(self.close_bond, refusal, BondLoss.LOST)
            return
        self._pump()

    def send_message(self, message: Message) -> None:
        """Send a control message over the bond."""
        self.send_frames(Lane.CONTROL, [frame_of(message)])

    def close_bond(self, refusal: Refusal, loss: BondLoss) -> None:
        """End the bond for our own reason; the peer is told."""
        if self.phase is Phase.BOND:
            self._end(refusal, by_peer=False, loss=loss)

    def depart(self) -> None:
        """Say goodbye and close."""
        if self.phase is Phase.BOND:
            self._write_plain(frame_of(Departure()))
            refusal = Refusal(code=RefusalCode.NOT_ALLOWED, reason="departed")
            self._end(refusal, by_peer=False, loss=BondLoss.DEPARTED, tell=False)
        elif self.phase is not Phase.CLOSED:
            self.abort()

    def abort(self) -> None:
        """Close at once, without a word."""
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, refusal: Refusal) -> None:
        """End the handshake for a reason of ours."""
        if self.phase is Phase.HANDSHAKE and self.handshake is not None:
            self._act(self.handshake.refuse(refusal))
        elif self.phase is Phase.TLS:
            self._end(refusal, by_peer=False, tell=False)

    def tick(self, now_ms: int) -> None:
        """Look at the timers."""
        settings = self._host.settings
        match self.phase:
            case Phase.TLS | Phase.HANDSHAKE:
                proved = self.handshake is not None and self.handshake.proved
                limit_ms = settings.handshake_timeout_ms if proved else settings.proof_timeout_ms
                if now_ms - self.opened_ms >= limit_ms:
                    message = f"no admission within {limit_ms} ms"
                    self.refuse(
                        Refusal(code=RefusalCode.TIMEOUT, reason="handshake-timeout", message=message)
                    )
            case Phase.BOND:
                assert self.bond is not None
                self._act_on_bond(self.bond.tick(now_ms, self._host.environment.now()))
            case Phase.LINGERING:
                if now_ms >= self._linger_until_ms:
                    self.abort()
            case Phase.CLOSED:
                pass

    # ---- asyncio.Protocol -----------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface, not the base class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        peername = transport.get_extra_info("peername")
        if peername:
            self.ip = peername[0]
            self.address = join_address(peername[0], peername[1])
        if not self._host.opened(self):
            self.phase = Phase.CLOSED
            transport.abort()
            return
        if self.role is Role.INITIATOR:
            self._tls.start()
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self.phase is Phase.LINGERING or self.phase is Phase.CLOSED:
            return
        try:
            plaintext = self._tls.receive_data_untrusted(data)
            if self.phase is Phase.TLS and self._tls.established:
                self._begin_handshake()
            self._flush()
            if self.bond is not None:
                self.bond.heard(self._host.environment.monotonic_ms())
            if plaintext:
                self._reader.receive_data(plaintext)
                self._read_frames()
        except RemoteProtocolError as exc:
            self._violated(exc)
            return
        if self._tls.closed and self._is_live():
            self._broke("peer-closed")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._is_live():
            self._broke("connection-lost")
        self.phase = Phase.CLOSED
        self._transport = None
        self.gone.set()
        self._host.closed(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    # ---- inside --------------------------------------------------------------
    def _is_live(self) -> bool:
        return self.phase in {Phase.TLS, Phase.HANDSHAKE, Phase.BOND}

    def _begin_handshake(self) -> None:
        """TLS is established: see who it is.

        Raises:
            RemoteProtocolError: ``peer-certificate``.
        """
        self.peer_id = peer_key_untrusted(self._tls.peer_certificate_der()).peer_id
        self.phase = Phase.HANDSHAKE
        self.handshake = Handshake(
            role=self.role,
            me=self._host.me,
            network_id=self._host.network_id,
            peer_id=self.peer_id,
            export=self._tls.export,
            nonce=self._host.environment.nonce(),
            find_gate=self._find_gate,
            gate=None if self.group is None else self.group.gate_for(self),
        )
        self._act(self.handshake.start())
        if self.group is not None and self.phase is Phase.HANDSHAKE:
            self.group.shaking(self)

    def _find_gate(self, group_id: bytes) -> Gate | None:
        group = self._host.find_group(group_id)
        if group is None:
            return None
        self.group = group
        group.shaking(self)
        return group.gate_for(self)

    def _read_frames(self) -> None:
        """Raises: RemoteProtocolError."""
        reader = self._reader
        while True:
            if self.phase is Phase.HANDSHAKE:
                assert self.handshake is not None
                reader.bytes_max = self.handshake.frame_bytes_max
            elif self.phase is Phase.BOND:
                reader.bytes_max = FRAME_BYTES_MAX
            else:
                return
            body = reader.next_frame_untrusted()
            if body is None:
                return
            message = decode_untrusted(body)
            if self.phase is Phase.BOND:
                assert self.bond is not None
                self._act_on_bond(self.bond.receive_untrusted(message))
            else:
                assert self.handshake is not None
                self._act(self.handshake.receive(message))

    def _act(self, actions: Sequence[shaking.Action]) -> None:
        for action in actions:
            match action:
                case shaking.SendMessage(message):
                    self.admit_sent = self.admit_sent or isinstance(message, Admit)
                    self._write_plain(frame_of(message))
                case shaking.Issue(binding):
                    self._issue(binding, self._issued)
                case shaking.Judge(tickets, binding):
                    self._judge(tickets, binding, self._judged)
                case shaking.Formed(entry, peers):
                    self._form(entry, peers)
                case shaking.Ended(refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, tell=False)

    def _act_on_bond(self, actions: Sequence[BondAction]) -> None:
        group = self.group
        assert group is not None
        for action in actions:
            match action:
                case steady.Deliver(data):
                    group.delivered(self, data)
                case steady.SendControl(message):
                    self.send_message(message)
                case steady.Learned(entry):
                    group.learned(entry)
                case steady.EntryChanged():
                    group.entry_changed(self)
                case steady.Renew(nonce, binding):
                    self._renew(nonce, binding)
                case steady.Rejudge(tickets, binding):
                    self._judge(tickets, binding, self._rejudged)
                case steady.Closed(loss, refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, loss=loss)

    def _form(self, entry: PeerEntry, peers: tuple[PeerEntry, ...]) -> None:
        assert self.handshake is not None
        assert self.admission is not None
        assert self.group is not None
        environment = self._host.environment
        self.formed_ms, self.formed_at = environment.monotonic_ms(), environment.now()
        self.bond = Bond(
            settings=self._host.settings,
            entry=entry,
            exporter=self.handshake.exporter,
            expires_at=self.admission.expires_at,
            nonce=environment.nonce,
            now_ms=self.formed_ms,
            now=self.formed_at,
        )
        self.phase = Phase.BOND
        self._host.let_in(self)
        self.group.formed(self, peers)

    # ---- tickets ----------------------------------------------------------------
    def _issue(self, binding: bytes, done: Callable[["asyncio.Future[dict[str, bytes]]"], None]) -> None:
        group = self.group
        assert group is not None
        issuers, group_id, now = group.issuers, group.group_id, self._host.environment.now()

        def work() -> dict[str, bytes]:
            return {
                issuer.ticket_class: issuer.issue(group_id=group_id, binding=binding, now=now)
                for issuer in issuers
            }

        self._run(self._host.issuing, work, done)

    def _judge(
        self,
        tickets: dict[str, bytes],
        binding: bytes,
        done: Callable[["asyncio.Future[Admission]"], None],
    ) -> None:
        group = self.group
        assert group is not None
        assert self.peer_id is not None
        self._tickets, self._binding = tickets, binding
        expected = ExpectedClaims(
            peer_id=self.peer_id,
            network_id=self._host.network_id,
            group_id=group.group_id,
            binding=binding,
        )
        validators, now = group.validators, self._host.environment.now()
        self._run(self._host.judging, lambda: judge(validators, tickets, expected, now), done)

    def _run(
        self,
        executor: Executor,
        work: Callable[[], Any],
        done: Callable[["asyncio.Future[Any]"], None],
    ) -> None:
        """Run ``work`` in a thread; ``done`` gets the future unless the connection ended before."""
        job = asyncio.get_running_loop().run_in_executor(executor, work)
        self._jobs.add(job)

        def finish(future: "asyncio.Future[Any]") -> None:
            self._jobs.discard(future)
            if not future.cancelled():
                failure = future.exception()
                if self._is_live():
                    done(future)
                elif failure is not None:
                    logger.debug("work for an ended connection failed: %s", failure)

        job.add_done_callback(finish)

    def _issued(self, future: "asyncio.Future[dict[str, bytes]]") -> None:
        assert self.handshake is not None
        failure = future.exception()
        if failure is None:
            self._act(self.handshake.tickets_issued(future.result()))
            return
        logger.warning("cannot make our own ticket: %s", failure)
        message = f"our own ticket could not be made: {failure}"
        self.refuse(Refusal(code=RefusalCode.TIMEOUT, reason="own-ticket-unavailable", message=message))

    def _judged(self, future: "asyncio.Future[Admission]") -> None:
        assert self.handshake is not None
        failure = future.exception()
        if failure is not None:
            self.refuse(_refusal_of(failure))
            return
        self.admission = future.result()
        self._act(self.handshake.tickets_accepted())

    def _rejudged(self, future: "asyncio.Future[Admission]") -> None:
        assert self.bond is not None
        assert self.group is not None
        failure = future.exception()
        if failure is not None:
            self.close_bond(_refusal_of(failure), BondLoss.EXPIRED)
            return
        self.admission = future.result()
        environment = self._host.environment
        self.bond.renewed(self.admission.expires_at, environment.monotonic_ms(), environment.now())
        self.group.renewed(self)

    def rejudge(self) -> None:
        """Judge the newest tickets again: new collateral or a new policy may change the verdict."""
        if self.phase is Phase.BOND and self.admission is not None:
            self._judge(self.admission.tickets, self._binding, self._rejudged)

    def _renew(self, nonce: bytes, binding: bytes) -> None:
        def issued(future: "asyncio.Future[dict[str, bytes]]") -> None:
            failure = future.exception()
            if failure is None:
                self.send_message(Reattest(nonce=nonce, tickets=future.result()))
                return
            logger.warning("cannot renew our own ticket, will try again: %s", failure)
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(RENEW_RETRY_S, self._renew, nonce, binding)

        # Only the newest request is answered.
        if self._renewal is not None:
            self._renewal.cancel()
        self._issue(binding, issued)

    # ---- bytes --------------------------------------------------------------------
    def _pump(self) -> None:
        """Give the transport as much as it takes without hiding it from the lanes."""
        while not self._paused and self.phase is Phase.BOND:
            frame = self._outbox.next_frame()
            if frame is None:
                return
            self._write_plain(frame)

    def _write_plain(self, frame: bytes) -> None:
        self._tls.send_data(frame)
        self._flush()

    def _flush(self) -> None:
        data = self._tls.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    # ---- the end -------------------------------------------------------------------
    def _violated(self, error: RemoteProtocolError) -> None:
        refusal = Refusal(code=RefusalCode.INVALID_HANDSHAKE, reason=error.reason, message=str(error))
        if self.phase is Phase.HANDSHAKE:
            self.refuse(refusal)
        else:
            self._end(refusal, by_peer=False, tell=self._tls.established)

    def _broke(self, reason: str) -> None:
        message = "the connection broke" if reason == "connection-lost" else "the peer closed"
        refusal = Refusal(code=RefusalCode.TIMEOUT, reason=reason, message=message)
        self._end(refusal, by_peer=True, broke=True)

    def _end(
        self,
        refusal: Refusal,
        *,
        by_peer: bool,
        loss: BondLoss = BondLoss.LOST,
        tell: bool = True,
        broke: bool = False,
    ) -> None:
        """The one way out of TLS, HANDSHAKE and BOND."""
        if not self._is_live():
            return
        phase = self.phase
        if tell and not by_peer:
            message = Refuse(code=refusal.code, reason=refusal.reason)
            self._write_plain(frame_of(message))
        self.phase = Phase.LINGERING
        self._linger_until_ms = self._host.environment.monotonic_ms() + self._host.settings.linger_ms
        for job in self._jobs:
            job.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        self._tls.send_close()
        self._flush()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        ending = Ending(phase=phase, refusal=refusal, by_peer=by_peer, broke=broke, loss=loss)
        self._host.ended(self, ending)
        if self.group is not None:
            self.group.ended(self, ending)


def _refusal_of(failure: BaseException) -> Refusal:
    """Return the refusal for a verdict that is not a yes."""
    if isinstance(failure, AttestationError):
        return Refusal(
            code=RefusalCode.NOT_ALLOWED,
            reason=failure.reason,
            message=failure.message,
            values=dict(failure.values),
        )
    # A validator with a bug admits nobody.
    logger.error("a ticket validator failed", exc_info=failure)
    return Refusal(
        code=RefusalCode.NOT_ALLOWED,
        reason="validator-failed",
        message=f"a ticket validator failed: {type(failure).__name__}",
    )
