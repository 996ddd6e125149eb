r"""One TCP connection as asyncio drives it: TLS, then the handshake, then the bond.

The cores decide. This file only moves bytes, carries out the actions that the cores return, and makes sure
that every connection ends once, for one reason, which is in the audit log.

    TLS -> HANDSHAKE -> BOND -> LINGERING -> CLOSED
      \________\_________\________/^     any end: the reason is sent; then what the peer still sends is
                                         read and discarded for a moment. If the node closed at once, the
                                         kernel would reset the connection, and the reason could be lost.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import cast

from node.bonds.channel import Channel
from node.bonds.core import bond as steady
from node.bonds.core import handshake as shaking
from node.bonds.core.bond import Bond, BondAction
from node.bonds.core.handshake import Gate, Handshake, Role
from node.bonds.core.send_queue import Lane
from node.bonds.lifecycle import Ending, Phase, Presented
from node.bonds.parties import Group, Host
from node.bonds.tickets.admission import Admission
from node.bonds.tickets.jobs import Shown, TicketJobs, refusal_of
from node.bonds.tls import peer_key_untrusted
from node.bonds.wire.addresses import join_address
from node.bonds.wire.frames import FRAME_BYTES_MAX, frame_of
from node.bonds.wire.messages import (
    ITEMS_MAX,
    Admit,
    ClaimsChanged,
    Departure,
    Message,
    PeerEntry,
    Reattest,
    Refuse,
)
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.errors import RemoteProtocolError
from node.features import Build
from node.peers import BondLoss

logger = logging.getLogger(__name__)


class BondConnection(asyncio.Protocol):
    """One connection, from TCP to its end.

    Attributes:
        role: which side opened it.
        group: known from the start if this node dialled, otherwise from ``Hello`` on.
        dialled: the address that this node dialled, or None.
        address: the remote socket address; ``ip`` is the host in it.
        admission: the newest verdict on the peer's tickets.
        admit_sent: this node has admitted the peer.
        gone: set when the socket is closed.
    """

    def __init__(
        self, host: Host["BondConnection"], *, group: Group["BondConnection"] | None, dialled: str | None
    ) -> None:
        self.role = Role.RESPONDER if dialled is None else Role.INITIATOR
        self.group = group
        self.dialled = dialled
        self.address = self.ip = "unknown"
        self.phase = Phase.TLS
        self.peer_id: bytes | None = None
        self.handshake: Handshake | None = None
        self.bond: Bond | None = None
        self.admission: Admission | None = None
        self.admit_sent = False
        self.gone = asyncio.Event()
        self.formed_at: datetime | None = None
        self.formed_ms = 0
        self._opened_ms = host.environment.monotonic_ms()
        self._linger_until_ms = 0
        self._host = host
        self._desk = TicketJobs(
            environment=host.environment,
            network_id=host.network_id,
            issuing=host.issuing,
            judging=host.judging,
            standing=lambda: host.standing_of(self),
        )
        self._channel = Channel(
            host.context,
            server=dialled is None,
            send_buffer_bytes_max=host.settings.send_buffer_bytes_max,
        )

    # ---- for the group and the endpoint ------------------------------------------
    @property
    def presented(self) -> Presented:
        shake = self.handshake
        return Presented(
            peer_id=self.peer_id,
            name=None if shake is None else shake.peer_name,
            address=self.address,
            proved=shake is not None and shake.proved,
            tickets=self._desk.tickets,
        )

    @property
    def entry(self) -> PeerEntry:
        """The peer's entry; only of a formed bond."""
        assert self.bond is not None
        return self.bond.entry

    @property
    def build(self) -> Build:
        """The peer's software and the levels that it knows; only of a formed bond."""
        assert self.handshake is not None
        assert self.handshake.peer_build is not None
        return self.handshake.peer_build

    def send_frames(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """Send over the bond. If the peer is too slow the bond ends soon after, never within this call."""
        if self.phase is not Phase.BOND:
            return
        try:
            self._channel.queue(lane, frames)
        except RemoteProtocolError as exc:
            refusal = Refusal(code=RefusalCode.TIMEOUT, reason=exc.reason, message=str(exc))
            asyncio.get_running_loop().call_soon(self.close_bond, refusal, BondLoss.LOST)

    def close_bond(self, refusal: Refusal, loss: BondLoss) -> None:
        """End the bond for this node's own reason, and send the reason to the peer."""
        if self.phase is Phase.BOND:
            self._end(refusal, by_peer=False, loss=loss)

    def pause_reading(self) -> None:
        """Read nothing more from the peer; it notices only that its messages go out slowly."""
        if self.phase is Phase.BOND:
            assert self.bond is not None
            self.bond.reading = False
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Deliver soon what had arrived when the pause began, and then go on reading."""
        if self.phase is Phase.BOND and self.bond is not None and not self.bond.reading:
            self.bond.reading = True
            self.bond.heard(self._host.environment.monotonic_ms())
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        # Read from the socket only after this: the peer's last messages come before the end of the stream.
        self.data_received(b"")
        if self.phase is Phase.BOND and self.bond is not None and self.bond.reading:
            self._channel.resume_reading()

    def rejudge(self) -> None:
        """Judge the tickets of the admission again: new collateral may change the verdict."""
        judged = self.admission
        if self.phase is not Phase.BOND or judged is None:
            return
        assert self.group is not None
        assert self.peer_id is not None

        def done(future: "asyncio.Future[Admission]") -> None:
            if self.admission is judged:
                self._judged(future)
            else:  # the bond now depends on newer tickets, which the peer has shown meanwhile
                self.rejudge()

        # With the binding that these tickets were made for: newer ones, for another, may be on their way.
        again = Shown(judged.tickets, judged.binding, fresh=False)
        self._desk.judge(self.group, self.peer_id, again, done)

    def tell_claims(self) -> None:
        """Let the peer ask for new tickets if those that it has seen name another cluster than this node."""
        if self.phase is not Phase.BOND or self.group is None:
            return
        if self._desk.shown_cluster != self.group.cluster:
            self._send_control(ClaimsChanged())

    def depart(self) -> None:
        """Send a goodbye and close."""
        if self.phase is Phase.BOND:
            self._channel.send(Departure())
            refusal = Refusal(code=RefusalCode.NOT_ALLOWED, reason="departed")
            self._end(refusal, by_peer=False, loss=BondLoss.DEPARTED, tell=False)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without a message."""
        self._channel.abort()

    def crowded_out(self) -> None:
        """Give the place to another connection, at once: an honest peer dials again."""
        refusal = Refusal(
            code=RefusalCode.TIMEOUT,
            reason="too-many-handshakes",
            message="others needed the place, and this one had waited longest",
        )
        self._end(refusal, by_peer=False, tell=False)
        self.abort()

    def abandon(self) -> None:
        """End a dial that was given up. If its socket was open, uvloop closes it without a callback."""
        if self._channel.attached:
            self.abort()
            self.connection_lost(None)

    def tick(self, now_ms: int) -> None:
        """Handle the timers that are due."""
        match self.phase:
            case Phase.TLS | Phase.HANDSHAKE:
                self._tick_handshake(now_ms)
            case Phase.BOND:
                assert self.bond is not None
                self._act_on_bond(self.bond.tick(now_ms, self._host.environment.now()))
            case Phase.LINGERING:
                if now_ms >= self._linger_until_ms:
                    self.abort()
            case Phase.CLOSED:
                pass

    # ---- asyncio.Protocol --------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peername = transport.get_extra_info("peername")
        if peername:
            self.ip, self.address = peername[0], join_address(peername[0], peername[1])
        # uvloop's transports have the interface, but not the base class.
        self._channel.attach(cast("asyncio.Transport", transport))
        if not self._host.opened(self):
            self.phase = Phase.CLOSED
            self.abort()
        elif self.role is Role.INITIATOR:
            self._channel.start()

    def data_received(self, data: bytes) -> None:
        if not self._is_live():
            return
        try:
            self._channel.receive_data_untrusted(data)
            if self.phase is Phase.TLS and self._channel.tls.established:
                self._begin_handshake()
            if self.bond is not None:
                self.bond.heard(self._host.environment.monotonic_ms())
            self._read_messages()
        except RemoteProtocolError as exc:
            self._violated(exc)
            return
        if self._channel.tls.closed and (self.bond is None or self.bond.reading):
            self._broke("peer-closed")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.gone.is_set():
            return
        self._channel.detach()
        self._broke("connection-lost")
        self.phase = Phase.CLOSED
        self.gone.set()
        self._host.closed(self)

    def pause_writing(self) -> None:
        self._channel.pause()

    def resume_writing(self) -> None:
        self._channel.resume()

    # ---- handshake -------------------------------------------------------------
    def _is_live(self) -> bool:
        return self.phase in {Phase.TLS, Phase.HANDSHAKE, Phase.BOND}

    def _begin_handshake(self) -> None:
        """TLS is established: identify the peer.

        Raises:
            RemoteProtocolError: ``peer-certificate``.
        """
        tls = self._channel.tls
        self.peer_id = peer_key_untrusted(tls.peer_certificate_der()).peer_id
        self.phase = Phase.HANDSHAKE
        self.handshake = Handshake(
            role=self.role,
            me=self._host.me,
            network_id=self._host.network_id,
            peer_id=self.peer_id,
            export=tls.export,
            nonce=self._host.environment.nonce(),
            find_gate=self._find_gate,
            gate=None if self.group is None else self.group.gate_for(self),
        )
        if self.group is not None:
            self.group.shaking(self)
        self._act(self.handshake.start())

    def _find_gate(self, group_id: bytes) -> Gate | None:
        group = self._host.find_group(group_id)
        if group is None:
            return None
        self.group = group
        group.shaking(self)
        return group.gate_for(self)

    def _read_messages(self) -> None:
        """Raises: RemoteProtocolError."""
        while True:
            if self.phase is Phase.BOND:
                assert self.bond is not None
                if not self.bond.reading:
                    return
                message = self._channel.next_message_untrusted(bytes_max=FRAME_BYTES_MAX, items_max=ITEMS_MAX)
                if message is None:
                    return
                self._act_on_bond(self.bond.receive_untrusted(message))
            elif self.phase is Phase.HANDSHAKE:
                assert self.handshake is not None
                message = self._channel.next_message_untrusted(
                    bytes_max=self.handshake.frame_bytes_max, items_max=self.handshake.frame_items_max
                )
                if message is None:
                    return
                self._act(self.handshake.receive(message))
            else:
                return

    def _act(self, actions: Sequence[shaking.Action]) -> None:
        for action in actions:
            match action:
                case shaking.SendMessage(message):
                    self.admit_sent = self.admit_sent or isinstance(message, Admit)
                    self._channel.send(message)
                case shaking.Issue(binding):
                    self._host.proved(self)
                    assert self.group is not None
                    self._desk.issue(self.group, binding, self._issued)
                case shaking.Judge(tickets, binding):
                    self._judge(tickets, binding)
                case shaking.Formed(entry, peers):
                    self._form(entry, peers)
                case shaking.Ended(refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, tell=False)

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
        self.tell_claims()

    def _refuse(self, refusal: Refusal) -> None:
        """End TLS or the handshake for this node's own reason."""
        if self.phase is Phase.HANDSHAKE:
            assert self.handshake is not None
            self._act(self.handshake.refuse(refusal))
        else:
            self._end(refusal, by_peer=False, tell=self._channel.tls.established)

    def _tick_handshake(self, now_ms: int) -> None:
        settings = self._host.settings
        proved = self.handshake is not None and self.handshake.proved
        limit_ms = settings.handshake_timeout_ms if proved else settings.proof_timeout_ms
        if now_ms - self._opened_ms >= limit_ms:
            self._refuse(
                Refusal(
                    code=RefusalCode.TIMEOUT,
                    reason="handshake-timeout",
                    message=f"no admission within {limit_ms} ms",
                )
            )

    # ---- bond ---------------------------------------------------------------------
    def _act_on_bond(self, actions: Sequence[BondAction]) -> None:
        group = self.group
        assert group is not None
        for action in actions:
            match action:
                case steady.Deliver(data):
                    group.delivered(self, data)
                case steady.SendControl(message):
                    self._send_control(message)
                case steady.Learned(entry):
                    group.learned(entry)
                case steady.Renew(nonce, binding):
                    self._renew(nonce, binding)
                case steady.Rejudge(tickets, binding):
                    self._judge(tickets, binding)
                case steady.Closed(loss, refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, loss=loss)

    def _send_control(self, message: Message) -> None:
        self.send_frames(Lane.CONTROL, [frame_of(message)])

    # ---- tickets --------------------------------------------------------------------
    def _issued(self, future: "asyncio.Future[dict[str, bytes]]") -> None:
        assert self.handshake is not None
        failure = future.exception()
        if failure is None:
            self._act(self.handshake.tickets_issued(future.result()))
            return
        logger.warning("cannot make our own ticket: %s", failure)
        self._refuse(
            Refusal(
                code=RefusalCode.TIMEOUT,
                reason="own-ticket-unavailable",
                message=f"our own ticket could not be made: {failure}",
            )
        )

    def _judge(self, tickets: dict[str, bytes], binding: bytes) -> None:
        assert self.group is not None
        assert self.peer_id is not None
        self._desk.judge(self.group, self.peer_id, Shown(tickets, binding, fresh=True), self._judged)

    def _judged(self, future: "asyncio.Future[Admission]") -> None:
        """Handle the verdict on the first tickets of a handshake, or on later ones of a bond."""
        failure = future.exception()
        if self.phase is Phase.BOND:
            self._rejudged(future)
        elif failure is not None:
            self._refuse(refusal_of(failure))
        else:
            assert self.handshake is not None
            self.admission = future.result()
            self._act(self.handshake.tickets_accepted())

    def _rejudged(self, future: "asyncio.Future[Admission]") -> None:
        assert self.bond is not None
        assert self.group is not None
        failure = future.exception()
        if failure is not None:
            self.close_bond(refusal_of(failure), BondLoss.EXPIRED)
            return
        self.admission = future.result()
        environment = self._host.environment
        self.bond.renewed(self.admission.expires_at, environment.monotonic_ms(), environment.now())
        self.group.renewed(self)

    def _renew(self, nonce: bytes, binding: bytes) -> None:
        def issued(tickets: dict[str, bytes]) -> None:
            assert self.bond is not None
            self.bond.answered()
            self._send_control(Reattest(nonce=nonce, tickets=tickets))

        assert self.group is not None
        self._desk.renew(self.group, binding, issued)

    # ---- the end --------------------------------------------------------------------
    def _violated(self, error: RemoteProtocolError) -> None:
        refusal = Refusal(code=RefusalCode.INVALID_HANDSHAKE, reason=error.reason, message=str(error))
        if self.phase is Phase.BOND:
            self.close_bond(refusal, BondLoss.LOST)
        else:
            self._refuse(refusal)

    def _broke(self, reason: str) -> None:
        refusal = Refusal(code=RefusalCode.TIMEOUT, reason=reason, message="the peer did not say why")
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
        """End TLS, HANDSHAKE or BOND; no other way leads out of them."""
        if not self._is_live():
            return
        ending = Ending(phase=self.phase, refusal=refusal, by_peer=by_peer, broke=broke, loss=loss)
        self.phase = Phase.LINGERING
        self._linger_until_ms = self._host.environment.monotonic_ms() + self._host.settings.linger_ms
        if tell and not by_peer:
            self._channel.send(Refuse(code=refusal.code, reason=refusal.reason))
        self._channel.finish()
        self._desk.close()
        self._host.ended(self, ending)
        if self.group is not None:
            self.group.ended(self, ending)
