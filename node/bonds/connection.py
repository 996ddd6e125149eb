r"""One TCP connection as asyncio drives it: TLS, then the handshake, then the bond.

The cores decide. This file only moves bytes, carries out the actions that the cores return, and makes sure
that every connection ends once, for one reason, which is in the audit log.

    Opening -> Greeting -> Handshaking -> Bonded -> Closing -> Closed
          \________\____________\___________/^

A dialled connection knows its group, and goes from ``Opening`` to ``Handshaking``. Each stage is a value that
holds what exists in it; no other way than ``_end`` leads to ``Closing``. There the reason has been sent, and
what the peer still sends is read and discarded for a moment. If the node closed at once, the kernel would
reset the connection, and the reason could be lost.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import ClassVar, Final, Protocol, cast

from node.bonds.channel import Channel
from node.bonds.context import BondContext
from node.bonds.core import bond as bonds
from node.bonds.core import handshake as handshakes
from node.bonds.core.bond import Bond, BondAction
from node.bonds.core.handshake import ConnectionRole, Gate, Handshake
from node.bonds.core.send_queue import Lane
from node.bonds.lifecycle import Ending, KnownPeer, Phase
from node.bonds.tickets.admission import Admission
from node.bonds.tickets.jobs import Shown, TicketJobs, TicketParty, refusal_of
from node.bonds.tls import peer_key_untrusted
from node.bonds.wire.addresses import join_address
from node.bonds.wire.frames import FRAME_BYTES_MAX, frame_of
from node.bonds.wire.messages import (
    ITEMS_MAX,
    ClaimsChanged,
    Departure,
    Message,
    PeerEntry,
    Reattest,
    Refuse,
)
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.errors import LocalProtocolError, RemoteProtocolError
from node.features import Build
from node.peers import BondLoss, Incarnation
from node.places import Share

logger = logging.getLogger(__name__)


class ConnectionHost(Protocol):
    """What a connection needs from its process.

    ``share_of`` returns its share of the pools, and whether it is one of the known (``node.places``).
    ``opened`` returns False if there is no place for it. The other methods inform the process.
    """

    def find_group(self, group_id: bytes) -> "ConnectionGroup | None": ...
    def share_of(self, connection: "BondConnection") -> tuple[Share, bool]: ...
    def opened(self, connection: "BondConnection") -> bool: ...
    def proved(self, connection: "BondConnection") -> None: ...
    def handshake_done(self, connection: "BondConnection") -> None: ...
    def ended(self, ending: Ending) -> None: ...
    def closed(self, connection: "BondConnection") -> None: ...


class ConnectionGroup(TicketParty, Protocol):
    """What a connection needs from its group: the gate of its handshake, and to inform it of what happens."""

    def handshaking(self, connection: "BondConnection", peer_id: bytes) -> Gate: ...
    def formed(
        self, connection: "BondConnection", bonded: "Bonded", peers: tuple[PeerEntry, ...]
    ) -> None: ...
    def renewed(self, connection: "BondConnection", bonded: "Bonded") -> None: ...
    def delivered(self, peer: Incarnation, data: bytes) -> None: ...
    def learned(self, entry: PeerEntry) -> None: ...
    def ended(self, connection: "BondConnection", ending: Ending) -> None: ...


# ---- stages -------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opening:
    """TLS is under way. ``group``: the one for which this node dialled; None if the peer dialled."""

    phase: ClassVar = Phase.TLS
    group: ConnectionGroup | None


@dataclass(frozen=True, slots=True)
class Greeting:
    """The peer, which dialled, has proved a key, and not named a group of this node yet."""

    phase: ClassVar = Phase.HANDSHAKE
    peer_id: bytes
    handshake: Handshake


@dataclass(frozen=True, slots=True)
class Handshaking:
    """Both sides know the group; the handshake is not over."""

    phase: ClassVar = Phase.HANDSHAKE
    peer_id: bytes
    handshake: Handshake
    group: ConnectionGroup


@dataclass(slots=True)
class Bonded:
    """The bond stands. ``admission``: the newest verdict on the peer's tickets."""

    phase: ClassVar = Phase.BOND
    group: ConnectionGroup
    bond: Bond
    build: Build
    admission: Admission
    formed_at: datetime
    formed_ms: int

    @property
    def entry(self) -> PeerEntry:
        """The peer's newest entry."""
        return self.bond.entry


@dataclass(frozen=True, slots=True)
class Closing:
    """It has ended. The socket stays open until ``until_ms``, so that the peer gets the reason."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The socket is closed, or about to be."""


Stage = Opening | Greeting | Handshaking | Bonded | Closing | Closed
_ENDED: Final = (Closing, Closed)


class BondConnection(asyncio.Protocol):
    """One connection, from TCP to its end.

    Args:
        context: of the process.
        host: the process.
        group: for which this node dials; None if the peer dialled.
        dialled: the address that this node dials; None if the peer dialled.

    Attributes:
        role: which side this node is.
        stage: how far the connection has come, with what there is by then.
        address: the remote socket address; ``ip`` is the host in it.
        gone: set when the socket is closed.
    """

    def __init__(
        self,
        context: BondContext,
        host: ConnectionHost,
        *,
        group: ConnectionGroup | None,
        dialled: str | None,
    ) -> None:
        self.role = ConnectionRole.RESPONDER if dialled is None else ConnectionRole.INITIATOR
        self.dialled = dialled
        self.address = self.ip = "unknown"
        self.stage: Stage = Opening(group)
        self.gone = asyncio.Event()
        self._context = context
        self._host = host
        self._opened_ms = context.environment.monotonic_ms()
        self._tickets = TicketJobs(
            environment=context.environment,
            network_id=context.network_id,
            issuing=context.issuing,
            judging=context.judging,
            share=lambda: host.share_of(self),
        )
        self._channel = Channel(
            context.tls, server=dialled is None, send_buffer_bytes_max=context.settings.send_buffer_bytes_max
        )
        self.waiting_bytes = self._channel.waiting_bytes

    # ---- for the group and the endpoint ------------------------------------------
    @property
    def known_peer(self) -> KnownPeer:
        peer_id: bytes | None = None
        name: str | None = None
        proved = False
        match self.stage:
            case Greeting(peer_id, handshake) | Handshaking(peer_id, handshake):
                name, proved = handshake.peer_name, handshake.proved
            case Bonded(bond=bond):
                peer_id, name, proved = bond.entry.peer.id, bond.entry.peer.name, True
            case Opening() | Closing() | Closed():
                pass
        group = self._group
        return KnownPeer(
            peer_id=peer_id,
            name=name,
            address=self.address,
            role=self.role.other.value,
            group_id=None if group is None else group.group_id,
            proved=proved,
            tickets=self._tickets.peer_tickets,
        )

    @property
    def admit_sent(self) -> bool:
        """This node has admitted the peer, and waits for the peer to do the same."""
        return isinstance(self.stage, Handshaking) and self.stage.handshake.admit_sent

    @property
    def _group(self) -> ConnectionGroup | None:
        match self.stage:
            case Opening(group) | Handshaking(group=group) | Bonded(group):
                return group
            case Greeting() | Closing() | Closed():
                return None

    def send_frames(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """Send over the bond. If the peer is too slow the bond ends soon after, never within this call."""
        if not isinstance(self.stage, Bonded):
            return
        try:
            self._channel.queue(lane, frames)
        except RemoteProtocolError as exc:
            refusal = Refusal(code=RefusalCode.TIMEOUT, reason=exc.reason, message=str(exc))
            asyncio.get_running_loop().call_soon(self.close_bond, refusal, BondLoss.LOST)

    def close_bond(self, refusal: Refusal, loss: BondLoss) -> None:
        """End the bond for this node's own reason, and send the reason to the peer."""
        if isinstance(self.stage, Bonded):
            self._end(refusal, by_peer=False, loss=loss)

    def pause_reading(self) -> None:
        """Read nothing more from the peer; it notices only that its messages go out slowly."""
        if isinstance(self.stage, Bonded):
            self.stage.bond.reading = False
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Deliver soon what had arrived when the pause began, and then go on reading."""
        if isinstance(self.stage, Bonded) and not self.stage.bond.reading:
            self.stage.bond.reading = True
            self.stage.bond.bytes_arrived(self._context.environment.monotonic_ms())
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        # Read from the socket only after this: the peer's last messages come before the end of the stream.
        self.data_received(b"")
        if isinstance(self.stage, Bonded) and self.stage.bond.reading:
            self._channel.resume_reading()

    def rejudge(self) -> None:
        """Judge the tickets of the admission again: new collateral may change the verdict."""
        if isinstance(self.stage, Bonded):
            self._rejudge(self.stage)

    def announce_claims(self) -> None:
        """Let the peer ask for new tickets if those that it has seen name another cluster than this node."""
        if isinstance(self.stage, Bonded) and self._tickets.shown_cluster != self.stage.group.cluster:
            self._send_control(ClaimsChanged())

    def depart(self) -> None:
        """Send a goodbye and close."""
        if isinstance(self.stage, Bonded):
            self._channel.send(Departure())
            refusal = Refusal(code=RefusalCode.NOT_ALLOWED, reason="departed")
            self._end(refusal, by_peer=False, loss=BondLoss.DEPARTED, send_reason=False)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without a message."""
        self._channel.abort()

    def give_up_place(self) -> None:
        """Make room for another connection, at once: an honest peer dials again."""
        refusal = Refusal(
            code=RefusalCode.TIMEOUT,
            reason="too-many-handshakes",
            message="others needed the place, and this one had waited longest",
        )
        self._end(refusal, by_peer=False, send_reason=False)
        self.abort()

    def abandon(self) -> None:
        """End a dial that was given up. If its socket was open, uvloop closes it without a callback."""
        if self._channel.attached:
            self.abort()
            self.connection_lost(None)

    def tick(self, now_ms: int) -> None:
        """Handle the timers that are due."""
        match self.stage:
            case Opening():
                self._require_progress(now_ms, self._context.settings.proof_timeout_ms)
            case Greeting(handshake=handshake) | Handshaking(handshake=handshake):
                settings = self._context.settings
                proved = handshake.proved
                limit_ms = settings.handshake_timeout_ms if proved else settings.proof_timeout_ms
                self._require_progress(now_ms, limit_ms)
            case Bonded(bond=bond) as bonded:
                self._act_on_bond(bonded, bond.tick(now_ms, self._context.environment.now()))
            case Closing(until_ms):
                if now_ms >= until_ms:
                    self.abort()
            case Closed():
                pass

    # ---- asyncio.Protocol --------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peername = transport.get_extra_info("peername")
        if peername:
            self.ip, self.address = peername[0], join_address(peername[0], peername[1])
        # uvloop's transports have the interface, but not the base class.
        self._channel.attach(cast("asyncio.Transport", transport))
        if not self._host.opened(self):
            self.stage = Closed()
            self.abort()
        elif self.role is ConnectionRole.INITIATOR:
            self._channel.start()

    def data_received(self, data: bytes) -> None:
        stage = self.stage
        if isinstance(stage, _ENDED):
            return
        try:
            self._channel.receive_data_untrusted(data)
            if isinstance(stage, Bonded):
                stage.bond.bytes_arrived(self._context.environment.monotonic_ms())
            elif isinstance(stage, Opening) and self._channel.tls.established:
                self._begin_handshake(stage)
            self._read_messages()
        except RemoteProtocolError as exc:
            self._violated(exc)
            return
        if self._channel.tls.closed and not self._is_paused():
            self._broke("peer-closed")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.gone.is_set():
            return
        self._channel.detach()
        self._broke("connection-lost")
        self.stage = Closed()
        self.gone.set()
        self._host.closed(self)

    def pause_writing(self) -> None:
        self._channel.pause()

    def resume_writing(self) -> None:
        self._channel.resume()

    # ---- handshake -------------------------------------------------------------
    def _is_paused(self) -> bool:
        return isinstance(self.stage, Bonded) and not self.stage.bond.reading

    def _begin_handshake(self, opening: Opening) -> None:
        """TLS is established: identify the peer.

        Raises:
            RemoteProtocolError: ``peer-certificate``.
        """
        tls, group = self._channel.tls, opening.group
        peer_id = peer_key_untrusted(tls.peer_certificate_der()).peer_id
        handshake = Handshake(
            me=self._context.me,
            network_id=self._context.network_id,
            peer_id=peer_id,
            export=tls.export,
            nonce=self._context.environment.nonce(),
            find_gate=self._find_gate,
            gate=None if group is None else group.handshaking(self, peer_id),
        )
        if group is None:
            self.stage = Greeting(peer_id, handshake)
        else:
            self.stage = Handshaking(peer_id, handshake, group)
        self._act(handshake.start())

    def _find_gate(self, group_id: bytes) -> Gate | None:
        group = self._host.find_group(group_id)
        match self.stage:
            case Greeting(peer_id, handshake) if group is not None:
                self.stage = Handshaking(peer_id, handshake, group)
                return group.handshaking(self, peer_id)
            case _:
                return None

    def _read_messages(self) -> None:
        """Raises: RemoteProtocolError."""
        while True:
            match self.stage:
                case Bonded(bond=bond) as bonded:
                    if not bond.reading:
                        return
                    message = self._channel.next_message_untrusted(
                        bytes_max=FRAME_BYTES_MAX, items_max=ITEMS_MAX
                    )
                    if message is None:
                        return
                    self._act_on_bond(bonded, bond.receive_untrusted(message))
                case Greeting(handshake=handshake) | Handshaking(handshake=handshake):
                    message = self._channel.next_message_untrusted(
                        bytes_max=handshake.state.bytes_max, items_max=handshake.state.items_max
                    )
                    if message is None:
                        return
                    self._act(handshake.receive(message))
                case Opening() | Closing() | Closed():
                    return

    def _act(self, actions: Sequence[handshakes.Action]) -> None:
        for action in actions:
            match action:
                case handshakes.SendMessage(message):
                    self._channel.send(message)
                case handshakes.Ended(refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, send_reason=False)
                case handshakes.Issue() | handshakes.Judge() | handshakes.Formed():
                    if not isinstance(self.stage, Handshaking):
                        raise LocalProtocolError(f"{type(action).__name__} of a handshake without a group")
                    self._act_in_group(self.stage, action)

    def _act_in_group(
        self, stage: Handshaking, action: handshakes.Issue | handshakes.Judge | handshakes.Formed
    ) -> None:
        match action:
            case handshakes.Issue(binding):
                self._host.proved(self)
                self._tickets.issue(stage.group, binding, partial(self._issued, stage.handshake))
            case handshakes.Judge(tickets, binding):
                shown = Shown(tickets, binding, fresh=True)
                judged = partial(self._judged, stage.handshake)
                self._tickets.judge(stage.group, stage.peer_id, shown, judged)
            case handshakes.Formed():
                self._form(stage.group, action)

    def _form(self, group: ConnectionGroup, formed: handshakes.Formed) -> None:
        environment = self._context.environment
        now_ms, now = environment.monotonic_ms(), environment.now()
        bond = Bond(
            settings=self._context.settings,
            entry=formed.entry,
            exporter=formed.exporter,
            expires_at=formed.admission.expires_at,
            nonce=environment.nonce,
            now_ms=now_ms,
            now=now,
        )
        self.stage = bonded = Bonded(group, bond, formed.build, formed.admission, now, now_ms)
        self._host.handshake_done(self)
        group.formed(self, bonded, formed.peers)
        self.announce_claims()

    def _refuse(self, refusal: Refusal) -> None:
        """End TLS or the handshake for this node's own reason."""
        match self.stage:
            case Greeting(handshake=handshake) | Handshaking(handshake=handshake):
                self._act(handshake.refuse(refusal))
            case _:
                self._end(refusal, by_peer=False, send_reason=self._channel.tls.established)

    def _require_progress(self, now_ms: int, limit_ms: int) -> None:
        if now_ms - self._opened_ms >= limit_ms:
            self._refuse(
                Refusal(
                    code=RefusalCode.TIMEOUT,
                    reason="handshake-timeout",
                    message=f"no admission within {limit_ms} ms",
                )
            )

    def _issued(self, handshake: Handshake, future: "asyncio.Future[dict[str, bytes]]") -> None:
        failure = future.exception()
        if failure is None:
            self._act(handshake.tickets_issued(future.result()))
            return
        logger.warning("cannot make this node's own ticket: %s", failure)
        self._refuse(
            Refusal(
                code=RefusalCode.TIMEOUT,
                reason="own-ticket-unavailable",
                message=f"this node's own ticket could not be made: {failure}",
            )
        )

    def _judged(self, handshake: Handshake, future: "asyncio.Future[Admission]") -> None:
        failure = future.exception()
        if failure is None:
            self._act(handshake.tickets_accepted(future.result()))
        else:
            self._refuse(refusal_of(failure))

    # ---- bond ---------------------------------------------------------------------
    def _act_on_bond(self, bonded: Bonded, actions: Sequence[BondAction]) -> None:
        group = bonded.group
        for action in actions:
            match action:
                case bonds.Deliver(data):
                    group.delivered(bonded.entry.peer, data)
                case bonds.SendControl(message):
                    self._send_control(message)
                case bonds.Learned(entry):
                    group.learned(entry)
                case bonds.Renew(nonce, binding):
                    self._tickets.renew(group, binding, partial(self._reattest, bonded, nonce))
                case bonds.Rejudge(tickets, binding):
                    shown = Shown(tickets, binding, fresh=True)
                    judged = partial(self._rejudged, bonded)
                    self._tickets.judge(group, bonded.entry.peer.id, shown, judged)
                case bonds.BondEnded(loss, refusal, by_peer):
                    self._end(refusal, by_peer=by_peer, loss=loss)

    def _send_control(self, message: Message) -> None:
        self.send_frames(Lane.CONTROL, [frame_of(message)])

    def _reattest(self, bonded: Bonded, nonce: bytes, tickets: dict[str, bytes]) -> None:
        bonded.bond.answered()
        self._send_control(Reattest(nonce=nonce, tickets=tickets))

    def _rejudge(self, bonded: Bonded) -> None:
        judged = bonded.admission

        def done(future: "asyncio.Future[Admission]") -> None:
            if bonded.admission is judged:
                self._rejudged(bonded, future)
            else:  # the bond now depends on newer tickets, which the peer has shown meanwhile
                self._rejudge(bonded)

        # With the binding that these tickets were made for: newer ones, for another, may be on their way.
        again = Shown(judged.tickets, judged.binding, fresh=False)
        self._tickets.judge(bonded.group, bonded.entry.peer.id, again, done)

    def _rejudged(self, bonded: Bonded, future: "asyncio.Future[Admission]") -> None:
        failure = future.exception()
        if failure is not None:
            self.close_bond(refusal_of(failure), BondLoss.EXPIRED)
            return
        bonded.admission = admission = future.result()
        environment = self._context.environment
        bonded.bond.renewed(admission.expires_at, environment.monotonic_ms(), environment.now())
        bonded.group.renewed(self, bonded)

    # ---- the end --------------------------------------------------------------------
    def _violated(self, error: RemoteProtocolError) -> None:
        refusal = Refusal(code=RefusalCode.INVALID_HANDSHAKE, reason=error.reason, message=str(error))
        if isinstance(self.stage, Bonded):
            self.close_bond(refusal, BondLoss.LOST)
        else:
            self._refuse(refusal)

    def _broke(self, reason: str) -> None:
        refusal = Refusal(code=RefusalCode.TIMEOUT, reason=reason, message="the peer sent no reason")
        self._end(refusal, by_peer=True, broke=True)

    def _end(
        self,
        refusal: Refusal,
        *,
        by_peer: bool,
        loss: BondLoss = BondLoss.LOST,
        send_reason: bool = True,
        broke: bool = False,
    ) -> None:
        """End TLS, the handshake or the bond; no other way leads out of them."""
        stage, group, peer = self.stage, self._group, self.known_peer
        if isinstance(stage, _ENDED):
            return
        ending = Ending(
            phase=stage.phase, peer=peer, refusal=refusal, by_peer=by_peer, broke=broke, loss=loss
        )
        now_ms = self._context.environment.monotonic_ms()
        self.stage = Closing(until_ms=now_ms + self._context.settings.linger_ms)
        if send_reason and not by_peer:
            self._channel.send(Refuse(code=refusal.code, reason=refusal.reason))
        self._channel.finish()
        self._tickets.close()
        self._host.ended(ending)
        if group is not None:
            group.ended(self, ending)
