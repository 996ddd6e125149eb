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
    AwaitHello      Hello -> AwaitProve
    AwaitProve      Prove -> AwaitAttest
    AwaitAttest     Attest -> AwaitAdmit      (its tickets are being judged from here on)
    AwaitAdmit      Admit -> Admitted
    any             Refuse -> Over
    anything else   refused as unexpected-message

Each state is a value that holds what is known in it, and has the limits of the next message.

The driver carries out the returned actions in their order, and answers ``Issue`` and ``Judge`` by
``tickets_issued``, ``tickets_accepted`` or ``refuse``. A call after the end returns no actions.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from attestation.encoding import canonical
from attestation.tickets.protocol import binding_of
from node.bonds.tickets.admission import Admission
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


class ConnectionRole(Enum):
    INITIATOR = "initiator"
    RESPONDER = "responder"

    @property
    def other(self) -> "ConnectionRole":
        return ConnectionRole.RESPONDER if self is ConnectionRole.INITIATOR else ConnectionRole.INITIATOR


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


# ---- states -------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Greeted:
    """What is known once the peer's Hello was accepted.

    Attributes:
        gate: of the group that both sides named.
        exporter: the exporter value of this connection for that group.
        peer: the id is TLS's, the name is Hello's.
        nonce: the peer's, which this node's tickets are bound to.
    """

    gate: Gate
    exporter: bytes
    peer: Incarnation
    build: Build
    nonce: bytes


@dataclass(frozen=True, slots=True)
class AwaitHello:
    name: ClassVar[str] = "await-hello"
    bytes_max: ClassVar[int] = HELLO_BYTES_MAX
    items_max: ClassVar[int] = HELLO_ITEMS_MAX


@dataclass(frozen=True, slots=True)
class AwaitProve:
    name: ClassVar[str] = "await-prove"
    bytes_max: ClassVar[int] = HELLO_BYTES_MAX
    items_max: ClassVar[int] = HELLO_ITEMS_MAX
    greeted: Greeted


@dataclass(frozen=True, slots=True)
class AwaitAttest:
    """The peer has proved that it has the group key; ``entry`` is its own."""

    name: ClassVar[str] = "await-attest"
    bytes_max: ClassVar[int] = TICKETS_BYTES_MAX
    items_max: ClassVar[int] = TICKETS_ITEMS_MAX
    greeted: Greeted
    entry: PeerEntry


@dataclass(frozen=True, slots=True)
class AwaitAdmit:
    name: ClassVar[str] = "await-admit"
    bytes_max: ClassVar[int] = TICKETS_BYTES_MAX
    items_max: ClassVar[int] = ITEMS_MAX
    greeted: Greeted
    entry: PeerEntry


@dataclass(frozen=True, slots=True)
class Admitted:
    """The peer has admitted this node; the bond stands once this node has admitted the peer too."""

    name: ClassVar[str] = "admitted"
    bytes_max: ClassVar[int] = FRAME_BYTES_MAX
    items_max: ClassVar[int] = ITEMS_MAX
    greeted: Greeted
    entry: PeerEntry
    peers: tuple[PeerEntry, ...]


@dataclass(frozen=True, slots=True)
class Over:
    """A side has refused."""

    name: ClassVar[str] = "over"
    bytes_max: ClassVar[int] = HELLO_BYTES_MAX
    items_max: ClassVar[int] = HELLO_ITEMS_MAX


State = AwaitHello | AwaitProve | AwaitAttest | AwaitAdmit | Admitted | Over


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
    """The bond stands.

    Attributes:
        entry: the peer's own.
        build: the peer's software and the levels that it knows.
        exporter: the exporter value of this connection for the group.
        admission: the verdict on which this node has admitted the peer.
        peers: the members that the peer knows.
    """

    entry: PeerEntry
    build: Build
    exporter: bytes
    admission: Admission
    peers: tuple[PeerEntry, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """No bond. ``by_peer``: the peer refused; otherwise this node did, and the messages have ``Refuse``."""

    refusal: Refusal
    by_peer: bool


Action = SendMessage | Issue | Judge | Formed | Ended


def proof_of(secret: bytes, *, exporter: bytes, role: ConnectionRole, peer_id: bytes) -> bytes:
    """Return the proof by which ``peer_id`` in ``role`` shows that it has the group's secret.

    HMAC-SHA256 over deterministic CBOR of ``["bondstone/bond-proof/v1", exporter, role, peer id]``. The
    exporter makes it worthless on any other connection; role and id prevent the peer from echoing it.
    """
    data = canonical.encode(["bondstone/bond-proof/v1", exporter, role.value, peer_id])
    return hmac.digest(secret, data, "sha256")


class Handshake:
    """One handshake, from established TLS to a formed bond or a refusal.

    Args:
        me: this node's own incarnation.
        network_id: 32 bytes.
        peer_id: id of the key that the peer proved in TLS.
        export: exporter of the TLS connection for a context.
        nonce: 32 fresh unpredictable bytes.
        find_gate: the group with an id, or None; asked by a responder.
        gate: of the group for which this node has dialled; None makes this node the responder.

    Attributes:
        peer_name: from the peer's Hello, whether it was accepted or not.
        proved: the peer has the group key.
    """

    def __init__(
        self,
        *,
        me: Incarnation,
        network_id: bytes,
        peer_id: bytes,
        export: Callable[[bytes], bytes],
        nonce: bytes,
        find_gate: Callable[[bytes], Gate | None],
        gate: Gate | None = None,
    ) -> None:
        self.state: State = AwaitHello()
        self.role = ConnectionRole.RESPONDER if gate is None else ConnectionRole.INITIATOR
        self.peer_id = peer_id
        self.peer_name: str | None = None
        self.proved = False
        self._me = me
        self._network_id = network_id
        self._export = export
        self._nonce = nonce
        self._find_gate = find_gate
        self._gate = gate
        self._attested = False
        self._accepted: Admission | None = None
        self._admitted: Admission | None = None

    @property
    def ended(self) -> bool:
        return isinstance(self.state, Over)

    @property
    def admit_sent(self) -> bool:
        """This node has admitted the peer."""
        return self._admitted is not None

    def start(self) -> list[Action]:
        """Begin, once TLS is established."""
        if self.peer_id == self._me.id:
            return self._refuse(RefusalCode.INVALID_HANDSHAKE, "self-connection", "dialled itself")
        if self._gate is None:
            return []
        objection = self._gate.objection(final=False)
        if objection is not None:
            return self.refuse(objection)
        return [SendMessage(self._hello(self._gate))]

    def receive(self, message: Message) -> list[Action]:
        """Handle ``message``, which the peer sent."""
        match self.state, message:
            case Over(), _:
                return []
            case _, Refuse():
                return self._refused(message)
            case AwaitHello(), Hello():
                return self._on_hello(message)
            case AwaitProve(greeted), Prove():
                return self._on_prove(greeted, message)
            case AwaitAttest(greeted, entry), Attest(tickets=tickets):
                self.state = AwaitAdmit(greeted, entry)
                return [Judge(tickets, binding_of(greeted.exporter, self._nonce))]
            case AwaitAdmit(greeted, entry), Admit(peers=peers) if self._attested:
                self.state = Admitted(greeted, entry, peers)
                return self._form_if_due()
            case _:
                return self._unexpected(message)

    def tickets_issued(self, tickets: dict[str, bytes]) -> list[Action]:
        """Note that ``Issue`` is done."""
        if self.ended:
            return []
        self._attested = True
        return [SendMessage(Attest(tickets=tickets)), *self._admit_if_due()]

    def tickets_accepted(self, admission: Admission) -> list[Action]:
        """Note that ``Judge`` is done, and every validator accepted."""
        if self.ended:
            return []
        self._accepted = admission
        return self._admit_if_due()

    def refuse(self, refusal: Refusal) -> list[Action]:
        """End the handshake for this node's reason: a validator's refusal, a deadline, a bond that stands."""
        if self.ended:
            return []
        self.state = Over()
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
        self.peer_name = hello.name
        # Every check comes before this node sends anything about itself.
        gate = self._gate_for(hello)
        if isinstance(gate, Refusal):
            return self.refuse(gate)
        peer = Incarnation(hello.name, self.peer_id)
        greeted = Greeted(gate, self._export(gate.group_id), peer, hello.build, hello.nonce)
        self.state = AwaitProve(greeted)
        initiates = self.role is ConnectionRole.INITIATOR
        return [self._prove(greeted) if initiates else SendMessage(self._hello(gate))]

    def _gate_for(self, hello: Hello) -> Gate | Refusal:
        """Return the gate of the group that ``hello`` names, or why the peer cannot be in it."""
        gate = self._gate if self._gate is not None else self._find_gate(hello.group_id)
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
        return gate.objection_to_build(hello.build) or gate.objection(final=False) or gate

    def _prove(self, greeted: Greeted) -> SendMessage:
        gate = greeted.gate
        proof = proof_of(gate.secret, exporter=greeted.exporter, role=self.role, peer_id=self._me.id)
        return SendMessage(Prove(proof=proof, entry=gate.entry))

    def _on_prove(self, greeted: Greeted, prove: Prove) -> list[Action]:
        if not self._is_proof_right(greeted, prove):
            return self._refuse(
                RefusalCode.INVALID_PROOF, "invalid-proof", "the peer does not have the group key"
            )
        self.proved = True
        # R2: no peer may act for another one. The id comes from TLS, the name from Hello.
        if prove.entry.peer != greeted.peer:
            return self._refuse(RefusalCode.INVALID_HANDSHAKE, "entry-mismatch", "an entry of another member")
        self.state = AwaitAttest(greeted, prove.entry)
        # A quote is expensive: it is made only now, for a peer that has the group's key.
        issue = Issue(binding_of(greeted.exporter, greeted.nonce))
        return [issue] if self.role is ConnectionRole.INITIATOR else [self._prove(greeted), issue]

    def _is_proof_right(self, greeted: Greeted, prove: Prove) -> bool:
        expected = proof_of(
            greeted.gate.secret, exporter=greeted.exporter, role=self.role.other, peer_id=self.peer_id
        )
        return hmac.compare_digest(expected, prove.proof)

    def _admit_if_due(self) -> list[Action]:
        match self.state:
            case AwaitAdmit(greeted) | Admitted(greeted) if self._attested and self._accepted is not None:
                # Checked again: another connection to the same peer may have been admitted meanwhile.
                objection = greeted.gate.objection(final=True)
                if objection is not None:
                    return self.refuse(objection)
                self._admitted = self._accepted
                return [SendMessage(Admit(peers=greeted.gate.known_peers())), *self._form_if_due()]
            case _:
                return []

    def _form_if_due(self) -> list[Action]:
        match self.state:
            case Admitted(greeted, entry, peers) if self._admitted is not None:
                return [Formed(entry, greeted.build, greeted.exporter, self._admitted, peers)]
            case _:
                return []

    def _refuse(self, code: RefusalCode, reason: str, message: str) -> list[Action]:
        return self.refuse(Refusal(code=code, reason=reason, message=message))

    def _unexpected(self, message: Message) -> list[Action]:
        return self._refuse(
            RefusalCode.INVALID_HANDSHAKE,
            "unexpected-message",
            f"{type(message).__name__} in state {self.state.name}",
        )

    def _refused(self, refuse: Refuse) -> list[Action]:
        self.state = Over()
        known = {item.value for item in RefusalCode}
        code = refuse.code if refuse.code in known else RefusalCode.INVALID_HANDSHAKE
        refusal = Refusal(code=RefusalCode(code), reason=refuse.reason)
        return [Ended(refusal, by_peer=True)]
