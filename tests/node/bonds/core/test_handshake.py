"""The handshake's core: the whole table, without a socket."""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.tickets.protocol import binding_of
from node.bonds.core.handshake import (
    Action,
    Admitted,
    AwaitAdmit,
    AwaitAttest,
    AwaitHello,
    AwaitProve,
    ConnectionRole,
    Ended,
    Formed,
    Handshake,
    Issue,
    Judge,
    Over,
    SendMessage,
    State,
    proof_of,
)
from node.bonds.tickets.admission import Admission
from node.bonds.wire.messages import (
    Admit,
    Attest,
    BondFormed,
    Departure,
    Fragment,
    Hello,
    Message,
    Payload,
    PeerEntry,
    PeerEntryUpdate,
    Ping,
    Pong,
    Prove,
    Reattest,
    ReattestRequest,
    Refuse,
)
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.features import Build
from node.peers import Incarnation, Preference
from tests.support.bonds import BUILD

NETWORK, GROUP, SECRET = b"n" * 32, b"g" * 32, b"s" * 32
ALICE, BOB = Incarnation("alice", b"\x01" * 32), Incarnation("bob", b"\x02" * 32)
TICKETS = {"fake": b"ticket"}
ADMISSION = Admission(expires_at=None, tickets=TICKETS, binding=b"b" * 32, appraisals={}, presented={})


def entry_of(peer: Incarnation) -> PeerEntry:
    return PeerEntry(peer=peer, preference=Preference.NORMAL, addresses=("h:1",), api_url=None)


HELLO = Hello(versions=(2,), network_id=NETWORK, group_id=GROUP, nonce=b"x" * 32, name="bob", build=BUILD)


def export(context: bytes) -> bytes:
    """Both ends of one connection export the same."""
    return bytes(byte ^ 0x55 for byte in context)


@dataclass
class FakeGate:
    entry: PeerEntry
    group_id: bytes = GROUP
    secret: bytes = SECRET
    objections: list[Refusal | None] = field(default_factory=list)
    build: Build = BUILD
    to_build: Refusal | None = None
    asked: list[bool] = field(default_factory=list)

    def objection_to_build(self, build: Build) -> Refusal | None:
        return self.to_build

    def objection(self, *, final: bool) -> Refusal | None:
        self.asked.append(final)
        return self.objections.pop(0) if self.objections else None

    def known_peers(self) -> tuple[PeerEntry, ...]:
        return (entry_of(Incarnation("carol", b"\x03" * 32)),)


def initiator(gate: FakeGate | None = None, **changes: Any) -> Handshake:
    gate = gate or FakeGate(entry_of(ALICE))
    options: dict[str, Any] = {
        "me": ALICE,
        "network_id": NETWORK,
        "peer_id": BOB.id,
        "export": export,
        "nonce": b"a" * 32,
        "find_gate": lambda _: None,
        "gate": gate,
    }
    return Handshake(**(options | changes))


def responder(gate: FakeGate | None = None, **changes: Any) -> Handshake:
    known = gate or FakeGate(entry_of(BOB))
    options: dict[str, Any] = {
        "me": BOB,
        "network_id": NETWORK,
        "peer_id": ALICE.id,
        "export": export,
        "nonce": b"b" * 32,
        "find_gate": lambda group_id: known if group_id == GROUP else None,
    }
    return Handshake(**(options | changes))


def sent(actions: list[Action]) -> list[Message]:
    return [action.message for action in actions if isinstance(action, SendMessage)]


class Pair:
    """Runs two handshakes against each other; tickets are issued and accepted when a test wants it."""

    def __init__(self, a: Handshake, b: Handshake) -> None:
        self.sides = {"a": a, "b": b}
        self.actions: dict[str, list[Action]] = {"a": [], "b": []}
        self._take("b", b.start())
        self._take("a", a.start())

    def _take(self, side: str, actions: list[Action]) -> None:
        self.actions[side] += actions
        other = "b" if side == "a" else "a"
        for message in sent(actions):
            self._take(other, self.sides[other].receive(message))

    def issue(self, side: str) -> None:
        self._take(side, self.sides[side].tickets_issued(TICKETS))

    def accept(self, side: str) -> None:
        self._take(side, self.sides[side].tickets_accepted(ADMISSION))

    def of(self, side: str, kind: type[Any]) -> list[Any]:
        return [action for action in self.actions[side] if isinstance(action, kind)]


STEPS = [("issue", "a"), ("issue", "b"), ("accept", "a"), ("accept", "b")]
ORDERS = [
    order
    for order in itertools.permutations(STEPS)
    # A side can only accept what the other has issued.
    if order.index(("issue", "b")) < order.index(("accept", "a"))
    and order.index(("issue", "a")) < order.index(("accept", "b"))
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(f"{w}{s}" for w, s in order))
def test_whatever_the_order_of_the_ticket_work_both_form_the_bond_after_both_admits(
    order: tuple[tuple[str, str], ...],
) -> None:
    pair = Pair(initiator(), responder())
    for step, side in order:
        assert pair.of("a", Formed) == []
        assert pair.of("b", Formed) == []
        getattr(pair, step)(side)

    (at_a,), (at_b,) = pair.of("a", Formed), pair.of("b", Formed)
    assert at_a.entry == entry_of(BOB)
    assert at_b.entry == entry_of(ALICE)
    assert [peer.peer.name for peer in at_a.peers] == ["carol"]
    # A formed bond holds the verdict on which the peer was admitted.
    assert at_a.admission is at_b.admission is ADMISSION


def test_each_side_binds_its_ticket_to_the_connection_and_the_others_nonce() -> None:
    pair = Pair(initiator(), responder())
    pair.issue("a")
    pair.issue("b")

    assert pair.of("a", Issue) == [Issue(binding_of(export(GROUP), b"b" * 32))]
    assert pair.of("b", Judge) == [Judge(TICKETS, binding_of(export(GROUP), b"b" * 32))]
    assert pair.of("b", Issue) == [Issue(binding_of(export(GROUP), b"a" * 32))]
    assert pair.of("a", Judge) == [Judge(TICKETS, binding_of(export(GROUP), b"a" * 32))]


def test_nothing_about_the_group_is_sent_before_the_peer_was_judged() -> None:
    pair = Pair(initiator(), responder())
    pair.issue("a")
    pair.issue("b")

    for side in "ab":
        assert not any(isinstance(message, Admit) for message in sent(pair.actions[side]))


def test_a_responder_sends_nothing_before_it_knows_the_group() -> None:
    assert responder().start() == []


def test_a_proof_holds_for_one_role_peer_connection_and_key_only() -> None:
    base: dict[str, Any] = {"exporter": b"e" * 32, "role": ConnectionRole.INITIATOR, "peer_id": ALICE.id}
    proofs = {
        proof_of(SECRET, **base),
        proof_of(b"t" * 32, **base),
        proof_of(SECRET, **(base | {"exporter": b"f" * 32})),
        proof_of(SECRET, **(base | {"role": ConnectionRole.RESPONDER})),
        proof_of(SECRET, **(base | {"peer_id": BOB.id})),
    }

    assert len(proofs) == 5
    assert proof_of(SECRET, **base) in proofs


def test_an_echoed_proof_is_refused() -> None:
    a = initiator()
    a.start()
    hello = HELLO
    (prove,) = sent(a.receive(hello))
    assert isinstance(prove, Prove)
    actions = a.receive(replace(prove, entry=entry_of(BOB)))

    assert sent(actions) == [Refuse(code=30405, reason="invalid-proof")]


ALREADY = Refusal(code=RefusalCode.ALREADY_BONDED, reason="already-bonded")


def test_an_objection_is_asked_for_again_right_before_admission() -> None:
    gate = FakeGate(entry_of(ALICE), objections=[None, None, ALREADY])
    pair = Pair(initiator(gate), responder())
    for step, side in STEPS:
        getattr(pair, step)(side)

    assert gate.asked == [False, False, True]
    assert pair.of("a", Ended) == [Ended(ALREADY, by_peer=False)]
    assert pair.of("a", Formed) == []
    assert pair.of("b", Formed) == []
    (ended,) = pair.of("b", Ended)
    assert ended.by_peer
    assert ended.refusal.reason == "already-bonded"


@pytest.mark.parametrize("asked", [0, 1])
def test_an_early_objection_spares_the_quote(asked: int) -> None:
    gate = FakeGate(entry_of(ALICE), objections=[None] * asked + [ALREADY])
    pair = Pair(initiator(gate), responder())

    assert pair.of("a", Issue) == []
    assert pair.of("b", Issue) == []
    assert pair.of("a", Ended) == [Ended(ALREADY, by_peer=False)]


def test_an_admit_before_our_own_ticket_was_shown_is_refused() -> None:
    a = initiator()
    pair = Pair(a, responder())
    pair.issue("b")
    actions = a.receive(Admit(peers=()))

    assert sent(actions) == [Refuse(code=30400, reason="unexpected-message")]


def test_a_refusal_code_of_the_future_is_still_a_refusal() -> None:
    a = initiator()
    a.start()

    assert a.receive(Refuse(code=39999, reason="new-reason")) == [
        Ended(Refusal(code=RefusalCode.INVALID_HANDSHAKE, reason="new-reason"), by_peer=True)
    ]


SAMPLES: list[Message] = [
    HELLO,
    Prove(
        proof=proof_of(SECRET, exporter=export(GROUP), role=ConnectionRole.RESPONDER, peer_id=BOB.id),
        entry=entry_of(BOB),
    ),
    Attest(tickets=TICKETS),
    Admit(peers=()),
    Refuse(code=30403, reason="no"),
    Ping(),
    Pong(),
    Departure(),
    PeerEntryUpdate(entry=entry_of(BOB)),
    BondFormed(entry=entry_of(BOB)),
    ReattestRequest(nonce=b"x" * 32),
    Reattest(nonce=b"x" * 32, tickets=TICKETS),
    Payload(b"data"),
    Fragment(0, last=True, data=b"data"),
]
NEXT = {
    (AwaitHello, Hello): AwaitProve,
    (AwaitProve, Prove): AwaitAttest,
    (AwaitAttest, Attest): AwaitAdmit,
    (AwaitAdmit, Admit): Admitted,
}


def reach(state: type[State]) -> Handshake:
    handshake = initiator()
    handshake.start()
    handshake._attested = True
    for message in SAMPLES[:4]:
        if isinstance(handshake.state, state):
            return handshake
        handshake.receive(message)
    if state is Over:
        handshake.refuse(ALREADY)
    assert isinstance(handshake.state, state)
    return handshake


@pytest.mark.parametrize("state", get_args(State), ids=lambda state: state.name)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_in_every_state_has_one_outcome(state: type[State], message: Message) -> None:
    handshake = reach(state)
    actions = handshake.receive(message)

    if state is Over:
        assert actions == []
    elif isinstance(message, Refuse):
        assert handshake.ended
    elif (state, type(message)) in NEXT:
        assert isinstance(handshake.state, NEXT[state, type(message)])
    else:
        assert sent(actions) == [Refuse(code=30400, reason="unexpected-message")]
        assert handshake.ended


@given(st.lists(st.one_of(st.sampled_from(SAMPLES), st.sampled_from(["issued", "accepted", "refuse"]))))
def test_no_sequence_forms_a_bond_without_both_admits(steps: list[Any]) -> None:
    handshake = initiator()
    actions = handshake.start()
    for step in steps:
        if isinstance(step, str):
            actions += {
                "issued": lambda: handshake.tickets_issued(TICKETS),
                "accepted": lambda: handshake.tickets_accepted(ADMISSION),
                "refuse": lambda: handshake.refuse(ALREADY),
            }[step]()
        else:
            actions += handshake.receive(step)

    formed = [action for action in actions if isinstance(action, Formed)]
    if formed:
        kinds = [type(message) for message in sent(actions)]
        assert kinds[:4] == [Hello, Prove, Attest, Admit]
        assert "accepted" in steps
        assert any(isinstance(step, Admit) for step in steps)
    assert sum(isinstance(action, Ended) for action in actions) <= 1
