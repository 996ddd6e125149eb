"""The handshake of a bond, without I/O. Every transition is in this file.

The initiator sends first, so a scanner learns nothing of the groups on this node::

    initiator                                   responder
    TLS 1.3, both keys proved
    Hello{network, group, nonce}   ------->     group known? same network? does its software know what
                                   <-------     the group runs at?    Hello{network, group, nonce}
    Prove{proof, entry}            ------->     proof right? (only then may it cost this node a quote)
                                   <-------     Prove{proof, entry}
    Attest{tickets}                <------>     Attest{tickets}          each bound to this TLS connection
    Admit{known peers}             <------>     Admit{known peers}       and to the receiver's nonce

``Refuse`` may come from either side at any time. For each side the bond stands once the side has both sent
and received ``Admit``. In TLS 1.3 a client is done before the server has judged it; therefore admission is
explicit. A side that has only sent its ``Admit`` sends nothing of the group's state.

    state           message -> next state
    AWAIT_HELLO     Hello -> AWAIT_PROVE
    AWAIT_PROVE     Prove -> AWAIT_ATTEST
    AWAIT_ATTEST    Attest -> AWAIT_ADMIT      (its tickets are being judged from here on)
    AWAIT_ADMIT     Admit -> ADMITTED
    any             Refuse -> ENDED
    anything else   refused as unexpected-message

The driver carries out the returned actions in their order, and answers ``Issue`` and ``Judge`` by
``tickets_issued``, ``tickets_accepted`` or ``refuse``. A call after the end returns no actions.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from attestation.encoding import canonical
from attestation.tickets.protocol import binding_of
from node.bonds.wire.frames import FRAME_BYTES_MAX, HELLO_BYTES_MAX, TICKETS_BYTES_MAX
from node.bonds.wire.messages import (
    HELLO_ITEMS_MAX,
    ITEMS_MAX,
    TICKETS_ITEMS_MAX,
    VERSIONS,
    Admit,
    Attest,
    Hello,
    Message,
    PeerEntry,
    Prove,
    Refuse,
)
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.features import Build
from node.peers import Incarnation


class Role(Enum):
    INITIATOR = "initiator"
    RESPONDER = "responder"

    @property
    def other(self) -> "Role":
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


class State(Enum):
    AWAIT_HELLO = "await-hello"
    AWAIT_PROVE = "await-prove"
    AWAIT_ATTEST = "await-attest"
    AWAIT_ADMIT = "await-admit"
    ADMITTED = "admitted"  # by the peer; the bond stands once this node has admitted it too
    ENDED = "ended"


_EXPECTED: Final[dict[State, type[Message]]] = {
    State.AWAIT_HELLO: Hello,
    State.AWAIT_PROVE: Prove,
    State.AWAIT_ATTEST: Attest,
    State.AWAIT_ADMIT: Admit,
}

FRAME_BYTES_MAX_OF: Final[dict[State, int]] = {
    State.AWAIT_HELLO: HELLO_BYTES_MAX,
    State.AWAIT_PROVE: HELLO_BYTES_MAX,
    State.AWAIT_ATTEST: TICKETS_BYTES_MAX,
    State.AWAIT_ADMIT: TICKETS_BYTES_MAX,
    State.ADMITTED: FRAME_BYTES_MAX,
    State.ENDED: HELLO_BYTES_MAX,
}


ITEMS_MAX_OF: Final[dict[State, int]] = {
    State.AWAIT_HELLO: HELLO_ITEMS_MAX,
    State.AWAIT_PROVE: HELLO_ITEMS_MAX,
    State.AWAIT_ATTEST: TICKETS_ITEMS_MAX,
    State.AWAIT_ADMIT: ITEMS_MAX,
    State.ADMITTED: ITEMS_MAX,
    State.ENDED: HELLO_ITEMS_MAX,
}


class Gate(Protocol):
    """The knowledge of the group that the handshake of one connection needs."""

    @property
    def group_id(self) -> bytes: ...

    @property
    def secret(self) -> bytes:
        """The group's secret, 32 bytes."""
        ...

    @property
    def entry(self) -> PeerEntry:
        """This node's own entry."""
        ...

    @property
    def build(self) -> Build:
        """This node's software and the levels that it knows."""
        ...

    def objection_to_build(self, build: Build) -> Refusal | None:
        """Return why a node with this software cannot be in the group, or None."""
        ...

    def objection(self, *, final: bool) -> Refusal | None:
        """Return why no bond should be formed on this connection now, or None.

        Args:
            final: this is the last call, right before admission.
        """
        ...

    def known_peers(self) -> tuple[PeerEntry, ...]: ...


# ---- actions ------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SendMessage:
    message: Message


@dataclass(frozen=True, slots=True)
class Issue:
    """Make this node's tickets, bound to ``binding``."""

    binding: bytes


@dataclass(frozen=True, slots=True)
class Judge:
    """Run every validator on the peer's tickets; they must be bound to ``binding``."""

    tickets: dict[str, bytes]
    binding: bytes


@dataclass(frozen=True, slots=True)
class Formed:
    """The bond stands."""

    entry: PeerEntry
    peers: tuple[PeerEntry, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """No bond. ``by_peer``: the peer refused; otherwise this node did, and the messages have ``Refuse``."""

    refusal: Refusal
    by_peer: bool


Action = SendMessage | Issue | Judge | Formed | Ended


def proof_of(secret: bytes, *, exporter: bytes, role: Role, peer_id: bytes) -> bytes:
    """Return the proof by which ``peer_id`` in ``role`` shows that it has the group's secret.

    HMAC-SHA256 over deterministic CBOR of ``["bondstone/bond-proof/v1", exporter, role, peer id]``. The
    exporter makes it worthless on any other connection; role and id prevent the peer from echoing it.
    """
    data = canonical.encode(["bondstone/bond-proof/v1", exporter, role.value, peer_id])
    return hmac.digest(secret, data, "sha256")


class Handshake:
    """One handshake, from established TLS to a formed bond or a refusal.

    Args:
        role: which side of the connection this node is.
        me: this node's own incarnation.
        network_id: 32 bytes.
        peer_id: id of the key that the peer proved in TLS.
        export: exporter of the TLS connection for a context.
        nonce: 32 fresh unpredictable bytes.
        find_gate: the group with an id, or None. An initiator's group is ``gate``.
    """

    def __init__(
        self,
        *,
        role: Role,
        me: Incarnation,
        network_id: bytes,
        peer_id: bytes,
        export: Callable[[bytes], bytes],
        nonce: bytes,
        find_gate: Callable[[bytes], Gate | None],
        gate: Gate | None = None,
    ) -> None:
        assert (gate is not None) == (role is Role.INITIATOR)
        self.state = State.AWAIT_HELLO
        self.role = role
        self.peer_id = peer_id
        self.gate = gate
        self.peer_name: str | None = None
        self.peer_build: Build | None = None
        self.peer_entry: PeerEntry | None = None
        self.proved = False
        self._me = me
        self._network_id = network_id
        self._export = export
        self._nonce = nonce
        self._find_gate = find_gate
        self._exporter = b""
        self._peer_nonce = b""
        self._attested = False
        self._accepted = False
        self._admit_sent = False
        self._peers: tuple[PeerEntry, ...] = ()

    @property
    def exporter(self) -> bytes:
        """The exporter value of this connection for this group; empty before ``Hello``."""
        return self._exporter

    @property
    def frame_bytes_max(self) -> int:
        return FRAME_BYTES_MAX_OF[self.state]

    @property
    def frame_items_max(self) -> int:
        return ITEMS_MAX_OF[self.state]

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    def start(self) -> list[Action]:
        """Begin, once TLS is established."""
        if self.peer_id == self._me.id:
            return self._refuse(RefusalCode.INVALID_HANDSHAKE, "self-connection", "dialled itself")
        if self.gate is None:
            return []
        objection = self.gate.objection(final=False)
        if objection is not None:
            return self.refuse(objection)
        self._exporter = self._export(self.gate.group_id)
        return [SendMessage(self._hello(self.gate))]

    def receive(self, message: Message) -> list[Action]:
        """Handle ``message``, which the peer sent."""
        if self.ended:
            return []
        if isinstance(message, Refuse):
            return self._refused(message)
        expected = _EXPECTED.get(self.state)
        if expected is None or not isinstance(message, expected):
            return self._unexpected(message)
        match message:
            case Hello():
                return self._on_hello(message)
            case Prove():
                return self._on_prove(message)
            case Attest():
                self.state = State.AWAIT_ADMIT
                return [Judge(message.tickets, binding_of(self._exporter, self._nonce))]
            case Admit():
                return self._on_admit(message)
            case _:
                return self._unexpected(message)

    def tickets_issued(self, tickets: dict[str, bytes]) -> list[Action]:
        """Note that ``Issue`` is done."""
        if self.ended:
            return []
        self._attested = True
        return [SendMessage(Attest(tickets=tickets)), *self._admit_if_due()]

    def tickets_accepted(self) -> list[Action]:
        """Note that ``Judge`` is done, and every validator accepted."""
        if self.ended:
            return []
        self._accepted = True
        return self._admit_if_due()

    def refuse(self, refusal: Refusal) -> list[Action]:
        """End the handshake for this node's reason: a validator's refusal, a deadline, a bond that stands."""
        if self.ended:
            return []
        self.state = State.ENDED
        return [
            SendMessage(Refuse(code=refusal.code, reason=refusal.reason)),
            Ended(refusal, by_peer=False),
        ]

    def _hello(self, gate: Gate) -> Hello:
        return Hello(
            versions=VERSIONS,
            network_id=self._network_id,
            group_id=gate.group_id,
            nonce=self._nonce,
            name=self._me.name,
            build=gate.build,
        )

    def _on_hello(self, hello: Hello) -> list[Action]:
        self.peer_name, self.peer_build = hello.name, hello.build
        # Every check comes before this node sends anything about itself.
        gate = self.gate if self.gate is not None else self._find_gate(hello.group_id)
        refusal = self._refusal_of_hello(hello, gate)
        if refusal is not None:
            return self.refuse(refusal)
        assert gate is not None
        self._peer_nonce = hello.nonce
        self.state = State.AWAIT_PROVE
        if self.role is Role.INITIATOR:
            return [self._prove(gate)]
        self.gate = gate
        self._exporter = self._export(gate.group_id)
        return [SendMessage(self._hello(gate))]

    def _refusal_of_hello(self, hello: Hello, gate: Gate | None) -> Refusal | None:
        if hello.network_id != self._network_id:
            return Refusal(
                code=RefusalCode.INVALID_HANDSHAKE,
                reason="network-mismatch",
                message="the peer is of another network",
                values={"expected": self._network_id.hex(), "found": hello.network_id.hex()},
            )
        if gate is None or gate.group_id != hello.group_id:
            return Refusal(
                code=RefusalCode.GROUP_NOT_FOUND,
                reason="group-not-found",
                message="no such group here: another key, policy or setting, or not provisioned yet",
                values={"found": hello.group_id.hex()},
            )
        return gate.objection_to_build(hello.build) or gate.objection(final=False)

    def _prove(self, gate: Gate) -> SendMessage:
        proof = proof_of(gate.secret, exporter=self._exporter, role=self.role, peer_id=self._me.id)
        return SendMessage(Prove(proof=proof, entry=gate.entry))

    def _on_prove(self, prove: Prove) -> list[Action]:
        gate = self.gate
        assert gate is not None
        if not self._is_proof_right(gate, prove):
            return self._refuse(
                RefusalCode.INVALID_PROOF, "invalid-proof", "the peer does not have the group key"
            )
        self.proved = True
        # R2: no peer may act for another one. The id comes from TLS, the name from Hello.
        if prove.entry.peer != Incarnation(self.peer_name or "", self.peer_id):
            return self._refuse(RefusalCode.INVALID_HANDSHAKE, "entry-mismatch", "an entry of somebody else")
        self.peer_entry = prove.entry
        self.state = State.AWAIT_ATTEST
        # A quote is expensive: it is made only now, for a peer that has the group's key.
        issue = Issue(binding_of(self._exporter, self._peer_nonce))
        return [issue] if self.role is Role.INITIATOR else [self._prove(gate), issue]

    def _is_proof_right(self, gate: Gate, prove: Prove) -> bool:
        expected = proof_of(gate.secret, exporter=self._exporter, role=self.role.other, peer_id=self.peer_id)
        return hmac.compare_digest(expected, prove.proof)

    def _on_admit(self, admit: Admit) -> list[Action]:
        if not self._attested:
            return self._unexpected(admit)
        self.state = State.ADMITTED
        self._peers = admit.peers
        return self._form_if_due()

    def _admit_if_due(self) -> list[Action]:
        if not (self._attested and self._accepted):
            return []
        gate = self.gate
        assert gate is not None
        # Checked again: another connection to the same peer may have been admitted meanwhile.
        objection = gate.objection(final=True)
        if objection is not None:
            return self.refuse(objection)
        self._admit_sent = True
        return [SendMessage(Admit(peers=gate.known_peers())), *self._form_if_due()]

    def _form_if_due(self) -> list[Action]:
        if self.state is not State.ADMITTED or not self._admit_sent:
            return []
        assert self.peer_entry is not None
        return [Formed(self.peer_entry, self._peers)]

    def _refuse(self, code: RefusalCode, reason: str, message: str) -> list[Action]:
        return self.refuse(Refusal(code=code, reason=reason, message=message))

    def _unexpected(self, message: Any) -> list[Action]:
        return self._refuse(
            RefusalCode.INVALID_HANDSHAKE,
            "unexpected-message",
            f"{type(message).__name__} in state {self.state.value}",
        )

    def _refused(self, refuse: Refuse) -> list[Action]:
        self.state = State.ENDED
        known = {item.value for item in RefusalCode}
        code = refuse.code if refuse.code in known else RefusalCode.INVALID_HANDSHAKE
        refusal = Refusal(code=RefusalCode(code), reason=refuse.reason)
        return [Ended(refusal, by_peer=True)]
