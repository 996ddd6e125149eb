"""An admitted bond, without I/O: heartbeats, gossip, renewal and expiry of the peer's tickets.

A bond has two clocks. ``now_ms`` is monotonic and drives heartbeats. ``now`` is the host's wall clock, which
the host may set wrongly. A ticket therefore ends when the wall clock passes its expiry, or when as much
monotonic time has passed as its life had left at the judgement, whichever is first. Setting the clock back
prolongs nothing.

Renewal: when two thirds of a ticket's life are over the verifier sends ``ReattestRequest`` with a fresh
nonce, once. The stream loses nothing, and the peer tries to get its quote for as long as the bond lives.
The verifier asks earlier if the peer reports that the claims of its tickets have changed. Because a quote
costs both sides, the verifier does not ask again within ``claims_interval_ms``, nor while it waits for an
answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.tickets.protocol import binding_of
from node.bonds.settings import BondSettings
from node.bonds.wire.frames import Reassembler
from node.bonds.wire.messages import (
    BondFormed,
    ClaimsChanged,
    Departure,
    Fragment,
    LaterMessage,
    Message,
    Payload,
    PeerEntry,
    PeerEntryUpdate,
    Ping,
    Pong,
    Reattest,
    ReattestRequest,
    Refuse,
)
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.errors import RemoteProtocolError
from node.peers import BondLoss


# ---- actions ------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SendControl:
    message: Message


@dataclass(frozen=True, slots=True)
class Deliver:
    data: bytes


@dataclass(frozen=True, slots=True)
class Learned:
    """A peer reports the addresses of a member: another one's, or its own new ones."""

    entry: PeerEntry


@dataclass(frozen=True, slots=True)
class Renew:
    """Make this node's tickets anew, bound to ``binding``, and answer with ``nonce``."""

    nonce: bytes
    binding: bytes


@dataclass(frozen=True, slots=True)
class Rejudge:
    """Run every validator on the peer's new tickets."""

    tickets: dict[str, bytes]
    binding: bytes


@dataclass(frozen=True, slots=True)
class BondEnded:
    """The bond is over.

    Attributes:
        by_peer: the peer ended it; otherwise this node ends it, and informs the peer.
    """

    loss: BondLoss
    refusal: Refusal
    by_peer: bool


BondAction = SendControl | Deliver | Learned | Renew | Rejudge | BondEnded


class Bond:
    """One admitted bond.

    Args:
        entry: the peer's.
        exporter: of the connection, 32 bytes.
        expires_at: when the tickets that were judged end; None if never.
        nonce: makes 32 fresh bytes.
        now_ms, now: the time of admission.

    Attributes:
        reading: whether the peer's messages are read. While they are not, its silence is no sign that it
            failed, and this node's pings still show the peer that this node lives.
    """

    def __init__(
        self,
        *,
        settings: BondSettings,
        entry: PeerEntry,
        exporter: bytes,
        expires_at: datetime | None,
        nonce: Callable[[], bytes],
        now_ms: int,
        now: datetime,
    ) -> None:
        self.entry = entry
        self.expires_at = expires_at
        self.reading = True
        self._settings = settings
        self._exporter = exporter
        self._new_nonce = nonce
        self._received_ms = now_ms
        self._pinged_ms = now_ms
        self._ticked_ms = now_ms
        self._asked_nonce: bytes | None = None
        self._answering = False
        self._asked_ms: int | None = None
        self._claims_changed = False
        self._renew_at_ms: int | None = None
        self._end_at_ms: int | None = None
        self._streams = tuple(Reassembler(settings.payload_bytes_max) for _ in range(2))
        self._set_expiry(expires_at, now_ms, now)

    def bytes_arrived(self, now_ms: int) -> None:
        """Bytes arrived from the peer."""
        self._received_ms = now_ms

    def receive_untrusted(self, message: Message) -> list[BondAction]:
        """Handle ``message``, which the peer sent.

        Raises:
            RemoteProtocolError: ``unexpected-message``, ``malformed-message``, ``payload-too-large``.
        """
        match message:
            case Payload(data):
                if self._streams[0].pending:
                    raise RemoteProtocolError("unexpected-message", "a payload inside another")
                return [Deliver(data)]
            case Fragment():
                payload = self._streams[message.stream].add_untrusted(message)
                return [] if payload is None else [Deliver(payload)]
            case _:
                return self._receive_control_untrusted(message)

    def _receive_control_untrusted(self, message: Message) -> list[BondAction]:
        """Handle a message about the bond itself.

        Raises:
            RemoteProtocolError: ``unexpected-message``.
        """
        match message:
            case Ping():
                return [SendControl(Pong())]
            case Pong() | LaterMessage():
                return []
            case Departure():
                refusal = Refusal(code=RefusalCode.NOT_ALLOWED, reason="departed")
                return [BondEnded(BondLoss.DEPARTED, refusal, by_peer=True)]
            case Refuse():
                return [self._closed_by_peer(message)]
            case BondFormed(entry=entry):
                return [Learned(entry)]
            case PeerEntryUpdate(entry=entry):
                return [self._entry_changed(entry)]
            case ReattestRequest(nonce=nonce):
                return [self._renew(nonce)]
            case Reattest():
                return [self._rejudge(message)]
            case ClaimsChanged():
                self._claims_changed = True
                return []
            case _:
                raise RemoteProtocolError(
                    "unexpected-message", f"{type(message).__name__} on an admitted bond"
                )

    def tick(self, now_ms: int, now: datetime) -> list[BondAction]:
        """Handle the passing of time; to be called every ``tick_ms``."""
        self._forgive_own_pause(now_ms)
        if self._is_expired(now_ms, now):
            refusal = Refusal(
                code=RefusalCode.NOT_ALLOWED,
                reason="ticket-expired",
                message=f"the peer's ticket expired at {self.expires_at}",
            )
            return [BondEnded(BondLoss.EXPIRED, refusal, by_peer=False)]
        if self.reading and now_ms - self._received_ms >= self._settings.silence_ms:
            refusal = Refusal(
                code=RefusalCode.TIMEOUT,
                reason="silent",
                message=f"nothing arrived for {now_ms - self._received_ms} ms",
            )
            return [BondEnded(BondLoss.LOST, refusal, by_peer=False)]
        actions: list[BondAction] = []
        interval_ms = self._settings.ping_interval_ms
        if now_ms - self._received_ms >= interval_ms and now_ms - self._pinged_ms >= interval_ms:
            self._pinged_ms = now_ms
            actions.append(SendControl(Ping()))
        if self._is_renewal_due(now_ms):
            self._renew_at_ms = None
            self._claims_changed = False
            self._asked_ms = now_ms
            self._asked_nonce = self._new_nonce()
            actions.append(SendControl(ReattestRequest(nonce=self._asked_nonce)))
        return actions

    def _is_renewal_due(self, now_ms: int) -> bool:
        if self._renew_at_ms is not None and now_ms >= self._renew_at_ms:
            return True
        if not self._claims_changed or self._asked_nonce is not None:
            return False
        return self._asked_ms is None or now_ms - self._asked_ms >= self._settings.claims_interval_ms

    def answered(self) -> None:
        """Note that ``Renew`` is done."""
        self._answering = False

    def renewed(self, expires_at: datetime | None, now_ms: int, now: datetime) -> None:
        """Note that ``Rejudge`` is done, and every validator accepted."""
        self._set_expiry(expires_at, now_ms, now)

    def _set_expiry(self, expires_at: datetime | None, now_ms: int, now: datetime) -> None:
        self.expires_at = expires_at
        if expires_at is None:
            self._renew_at_ms = self._end_at_ms = None
            return
        left_ms = max(int((expires_at - now).total_seconds() * 1000), 0)
        self._renew_at_ms = now_ms + left_ms * 2 // 3
        self._end_at_ms = now_ms + left_ms

    def _is_expired(self, now_ms: int, now: datetime) -> bool:
        if self.expires_at is None or self._end_at_ms is None:
            return False
        return now >= self.expires_at or now_ms >= self._end_at_ms

    def _forgive_own_pause(self, now_ms: int) -> None:
        """Discount a late tick: this node did not run, and has not read yet what the peer sent meanwhile."""
        pause_ms = now_ms - self._ticked_ms - 2 * self._settings.tick_ms
        if pause_ms > 0:
            self._received_ms = min(self._received_ms + pause_ms, now_ms)
        self._ticked_ms = now_ms

    def _renew(self, nonce: bytes) -> Renew:
        # A quote is expensive, and a verifier needs only one at a time.
        if self._answering:
            raise RemoteProtocolError("unexpected-message", "a request before the last one was answered")
        self._answering = True
        return Renew(nonce, binding_of(self._exporter, nonce))

    def _rejudge(self, message: Reattest) -> Rejudge:
        if self._asked_nonce is None or message.nonce != self._asked_nonce:
            raise RemoteProtocolError("unexpected-message", "tickets that were not asked for")
        self._asked_nonce = None
        return Rejudge(message.tickets, binding_of(self._exporter, message.nonce))

    def _entry_changed(self, entry: PeerEntry) -> Learned:
        # The peer's identity, and whether it votes, are fixed for the life of the incarnation.
        if entry.peer != self.entry.peer or entry.preference is not self.entry.preference:
            raise RemoteProtocolError("unexpected-message", "an entry of another member")
        self.entry = entry
        return Learned(entry)

    def _closed_by_peer(self, message: Refuse) -> BondEnded:
        known: dict[int, Any] = {item.value: item for item in RefusalCode}
        code = known.get(message.code, RefusalCode.INVALID_HANDSHAKE)
        refusal = Refusal(code=code, reason=message.reason)
        return BondEnded(BondLoss.LOST, refusal, by_peer=True)
