"""The audit events of bonds, and a limit on how many of them a hostile scanner may cause.

Any client that can open a TCP connection can cause refusals, so events that strangers cause are rationed. The
events beyond the ration are counted by reason and written as one ``refusals-suppressed`` event.

Kinds: ``bond-admitted``, ``bond-refused`` (by this node), ``bond-refused-by-peer``, ``bond-failed`` (broke
off during the handshake), ``bond-duplicate`` (of two connections of one pair, this one was closed),
``bond-ended``, ``bond-departed``, ``ticket-renewed``, ``ticket-expired``, ``ticket-rejected`` (at renewal),
``refusals-suppressed``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from node.audit import AuditLog
from node.bonds.lifecycle import Ending, KnownPeer, Phase
from node.bonds.tickets.admission import Admission
from node.bonds.tickets.summary import describe_admission, describe_tickets_untrusted
from node.bonds.wire.messages import PeerEntry
from node.bonds.wire.refusals import RefusalCode
from node.peers import BondLoss


class PeerTrust(Enum):
    """How much the node knows of the peer that causes an event."""

    STRANGER = "stranger"  # has not proved the group key
    HOLDER = "holder"  # has proved it
    DUPLICATE = "duplicate"  # two connections of one pair, or one to this node itself: harmless


@dataclass(slots=True)
class _Ration:
    """A token bucket. ``interval_ms``: the time in which one event is earned."""

    burst: int
    interval_ms: int
    tokens: int
    earned_ms: int

    def take(self, now_ms: int) -> bool:
        earned = (now_ms - self.earned_ms) // self.interval_ms
        if earned > 0:
            self.tokens = min(self.tokens + earned, self.burst)
            self.earned_ms += earned * self.interval_ms
        if self.tokens == 0:
            return False
        self.tokens -= 1
        return True


# (burst, milliseconds per event): after the burst, strangers cause at most about 30 kB an hour.
RATIONS: Final = {
    PeerTrust.STRANGER: (50, 30_000),
    PeerTrust.HOLDER: (200, 2_000),
    PeerTrust.DUPLICATE: (20, 60_000),
}
SUMMARY_INTERVAL_MS: Final = 60_000
REASONS_MAX: Final = 32


class BondRecorder:
    """Writes the events of all bonds of a process."""

    def __init__(self, audit: AuditLog, monotonic_ms: Callable[[], int]) -> None:
        self._audit = audit
        self._monotonic_ms = monotonic_ms
        now_ms = monotonic_ms()
        self._rations = {
            trust: _Ration(burst, interval_ms, burst, now_ms)
            for trust, (burst, interval_ms) in RATIONS.items()
        }
        self._suppressed: Counter[str] = Counter()
        self._summary_due_ms = 0

    def admitted(self, peer: KnownPeer, entry: PeerEntry, admission: Admission) -> None:
        self._audit.append(
            "bond-admitted",
            **_party(peer),
            addresses=entry.addresses,
            preference=entry.preference.value,
            expires_at=admission.expires_at,
            tickets=describe_admission(admission),
        )

    def renewed(self, peer: KnownPeer, admission: Admission) -> None:
        self._audit.append(
            "ticket-renewed",
            **_party(peer),
            expires_at=admission.expires_at,
            tickets=describe_admission(admission),
        )

    def dropped(self, address: str, reason: str) -> None:
        """Write that a connection was dropped before a byte was read."""
        self._rationed("bond-refused", PeerTrust.STRANGER, address=address, reason=reason)

    def ended(self, ending: Ending) -> None:
        """Write that a connection ended, in whatever phase."""
        if ending.phase is Phase.BOND:
            self._bond_ended(ending)
            return
        kind = "bond-refused-by-peer" if ending.by_peer else "bond-refused"
        if ending.broke:
            kind = "bond-failed"
        refusal = ending.refusal
        if refusal.code is RefusalCode.ALREADY_BONDED:
            kind = "bond-duplicate"
        self._rationed(
            kind,
            _trust_at(ending),
            **_party(ending.peer),
            phase=ending.phase.value,
            code=int(refusal.code),
            reason=refusal.reason,
            message=refusal.message,
            values=refusal.values,
            tickets=lambda: describe_tickets_untrusted(ending.peer.tickets),
        )

    def _bond_ended(self, ending: Ending) -> None:
        refusal = ending.refusal
        kind = "bond-departed" if ending.loss is BondLoss.DEPARTED else "bond-ended"
        details = {
            "code": int(refusal.code),
            "reason": refusal.reason,
            "message": refusal.message,
        }
        if ending.loss is BondLoss.EXPIRED:
            expired = refusal.reason == "ticket-expired"
            self._audit.append(
                "ticket-expired" if expired else "ticket-rejected",
                **_party(ending.peer),
                **details,
                values=refusal.values,
                tickets=describe_tickets_untrusted(ending.peer.tickets),
            )
        self._audit.append(
            kind, **_party(ending.peer), loss=ending.loss.value, by_peer=ending.by_peer, **details
        )

    def _rationed(self, kind: str, trust: PeerTrust, *, reason: str, **fields: Any) -> None:
        """Write an event that others cause at will, if the ration lasts. Callables are called only then."""
        if self._rations[trust].take(self._monotonic_ms()):
            values = {name: item() if callable(item) else item for name, item in fields.items()}
            self._audit.append(kind, reason=reason, **values)
            return
        if not self._suppressed:
            self._summary_due_ms = self._monotonic_ms() + SUMMARY_INTERVAL_MS
        # A peer chooses the text of the reasons that it sends, so only a limited number of them is counted.
        known = reason in self._suppressed or len(self._suppressed) < REASONS_MAX
        self._suppressed[reason if known else "other"] += 1

    def tick(self) -> None:
        """Write the summary if one is due."""
        if self._suppressed and self._monotonic_ms() >= self._summary_due_ms:
            self.flush()

    def flush(self) -> None:
        """Write how many events were suppressed since the last summary."""
        if not self._suppressed:
            return
        counts = dict(sorted(self._suppressed.items()))
        self._audit.append("refusals-suppressed", counts=counts, total=sum(self._suppressed.values()))
        self._suppressed.clear()


def _party(peer: KnownPeer) -> dict[str, Any]:
    return {
        "peer_id": peer.peer_id,
        "name": peer.name,
        "address": peer.address,
        "role": peer.role,
        "group_id": peer.group_id,
    }


def _trust_at(ending: Ending) -> PeerTrust:
    if ending.refusal.reason in {"already-bonded", "self-connection"}:
        return PeerTrust.DUPLICATE
    return PeerTrust.HOLDER if ending.peer.proved else PeerTrust.STRANGER
