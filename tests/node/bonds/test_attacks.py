"""What is tried on the bond port, and what stops it.

Each attack runs twice: against the node as it is, where it is refused and the audit log shows why; and against
a build with the one check taken out, where it works. So each check is known to be the one that holds.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestation.tickets.ids import network_id_of_name
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims, Expiration
from attestation.tickets.protocol import Cluster as Founded
from enclave.identity import Identity
from node.bonds.core.handshake import Handshake
from node.bonds.tickets.admission import judge
from node.errors import LocalProtocolError
from tests.support.bonds import AUTHORITY, BondCluster, FakeIssuer, FakeValidator, Node


class CredulousValidator(FakeValidator):
    """The attacker's own: it accepts every peer."""

    def validate(self, ticket: bytes, peer: Any, now: datetime) -> Expiration:
        return Expiration(at=None, appraisal={})


@dataclass
class StolenTickets:
    """Shows the newest ticket that another node made."""

    source: FakeIssuer
    ticket_class: str = "fake"

    def issue(
        self,
        *,
        group_id: bytes | None,
        cluster: Founded | None,
        binding: bytes | None,
        now: datetime,
        group_ca: bytes | None = None,
    ) -> bytes:
        return self.source.issued[-1]


def attacker(name: str = "mallory", **changes: Any) -> dict[str, Any]:
    identity = Identity.generate(name, datetime.now(UTC))
    options: dict[str, Any] = {
        "identity": identity,
        "validators": (CredulousValidator(),),
        "issuers": (FakeIssuer(identity),),
    }
    issuer = changes.pop("issuer", None)
    if issuer is not None:
        options["issuers"] = (FakeIssuer(identity, **issuer),)
    return options | changes


PAST = timedelta(seconds=-5)
TICKET_ATTACKS = {
    "other-image": ({"image": "evil"}, "image-mismatch", {"image"}),
    "other-authority": ({"authority": b"x" * 32}, "authority-mismatch", {"authority"}),
    "ticket-for-another-network": ({"network_id": b"n" * 32}, "network-mismatch", {"network"}),
}


@pytest.mark.parametrize("attack", TICKET_ATTACKS)
def test_a_peer_whose_ticket_a_validator_rejects_is_not_admitted(attack: str) -> None:
    issuer, reason, check = TICKET_ATTACKS[attack]

    async def run(without: frozenset[str]) -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(FakeValidator(without=without),))
            mallory = await cluster.start("mallory", victim.address, **attacker(issuer=issuer))
            if without:
                await victim.until_bonded(mallory)
                return
            event = await victim.until_event("bond-refused", reason=reason)
            await mallory.until_event("bond-refused-by-peer", reason=reason)

            assert event["peer_id"] == mallory.me.id.hex()
            assert event["name"] == "mallory"
            assert event["code"] == 30403
            assert event["address"].startswith("127.0.0.1:")
            assert event["tickets"]["fake"]["bytes"] > 0
            assert victim.handler.ups == []
            assert mallory.handler.ups == []

    asyncio.run(run(frozenset()))
    asyncio.run(run(frozenset(check)))


def test_an_expired_ticket_is_refused_even_if_the_validator_lets_it_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(*, ablated: bool) -> None:
        async with BondCluster() as cluster:
            lenient = FakeValidator(without=frozenset({"expiry"}))
            victim = await cluster.start("victim", validators=(lenient,))
            mallory = await cluster.start("mallory", victim.address, **attacker(issuer={"lifetime": PAST}))
            if ablated:
                await victim.until_bonded(mallory)
                return
            await victim.until_event("bond-refused", reason="ticket-expired")

            assert victim.handler.ups == []

    asyncio.run(run(ablated=False))
    # Without the check in judge(), the bond forms (and then lives until its first tick).
    real = FakeValidator.validate
    monkeypatch.setattr(
        FakeValidator,
        "validate",
        lambda *args: Expiration(at=None, appraisal=real(*args).appraisal),
    )
    asyncio.run(run(ablated=True))


@pytest.mark.parametrize(
    ("without", "works"),
    [
        ((), False),
        (("peer",), False),
        (("binding",), False),
        (("peer", "binding"), True),
    ],
)
def test_another_nodes_ticket_cannot_be_replayed(without: tuple[str, ...], works: bool) -> None:
    async def run() -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(FakeValidator(without=frozenset(without)),))
            honest = await cluster.start("honest", victim.address)
            await victim.until_bonded(honest)
            thief = StolenTickets(honest.issuers[0])
            mallory = await cluster.start("mallory", victim.address, **attacker(issuers=(thief,)))
            if works:
                await victim.until_bonded(mallory)
                return
            event = await victim.until_event("bond-refused", name="mallory")

            assert event["reason"] in {"peer-mismatch", "binding-mismatch"}
            assert mallory.me.id not in victim.peers()

    asyncio.run(run())


def test_a_peers_own_older_ticket_cannot_be_replayed() -> None:
    """Freshness: a key that was stolen later cannot live on the quotes that were made before."""

    async def run(without: frozenset[str]) -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(FakeValidator(without=without),))
            identity = Identity.generate("mallory", datetime.now(UTC))
            old = FakeIssuer(identity)
            old.issue(group_id=victim.group_id, cluster=None, binding=b"b" * 32, now=datetime.now(UTC))
            options = attacker(identity=identity, issuers=(StolenTickets(old),))
            mallory = await cluster.start("mallory", victim.address, **options)
            if without:
                await victim.until_bonded(mallory)
                return
            await victim.until_event("bond-refused", reason="binding-mismatch")

            assert victim.handler.ups == []

    asyncio.run(run(frozenset()))
    asyncio.run(run(frozenset({"binding"})))


def _without_proof(_self: Handshake, _gate: object, _prove: object) -> bool:
    return True


def _without_network(self: Any, hello: Any) -> Any:
    gate = self._gate or self._find_gate(hello.group_id)
    return gate.objection(final=False) or gate


HANDSHAKE_ATTACKS: dict[str, tuple[dict[str, Any], int, str, str, Callable[..., Any]]] = {
    "no-group-key": ({"secret": b"x" * 32}, 30405, "invalid-proof", "_is_proof_right", _without_proof),
    "other-network": (
        {"network_id": network_id_of_name("other")},
        30400,
        "network-mismatch",
        "_gate_for",
        _without_network,
    ),
}


@pytest.mark.parametrize("attack", HANDSHAKE_ATTACKS)
def test_a_peer_with_another_key_or_network_is_refused(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, code, reason, check, ablation = HANDSHAKE_ATTACKS[attack]
    # In the ablated run tickets name another network too; that check is not the one under test.
    lenient = FakeValidator(without=frozenset({"network"}))

    async def run(*, ablated: bool) -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(lenient,))
            mallory = await cluster.start("mallory", victim.address, **attacker(**changes))
            if ablated:
                await victim.until_bonded(mallory)
                return
            event = await victim.until_event("bond-refused", reason=reason)

            assert event["code"] == code
            assert event["peer_id"] == mallory.me.id.hex()
            # It never came to tickets: a stranger does not make the victim fetch a quote.
            assert victim.issuers[0].issued == []
            assert victim.handler.ups == []

    asyncio.run(run(ablated=False))
    monkeypatch.setattr(Handshake, check, ablation)
    asyncio.run(run(ablated=True))


def test_a_peer_of_another_group_finds_no_group_and_learns_nothing_about_ours() -> None:
    async def run() -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim")
            mallory = await cluster.start("mallory", victim.address, **attacker(group_id=b"g" * 32))
            event = await victim.until_event("bond-refused", reason="group-not-found")
            refused = await mallory.until_event("bond-refused-by-peer", reason="group-not-found")

            assert event["code"] == 30404
            assert refused["name"] is None

    asyncio.run(run())


def test_a_member_without_a_ticket_of_the_required_class_is_refused() -> None:
    async def run() -> None:
        async with BondCluster() as cluster:
            both = (FakeValidator(), FakeValidator(ticket_class="second"))
            victim_identity = Identity.generate("victim", datetime.now(UTC))
            issuers = (FakeIssuer(victim_identity), FakeIssuer(victim_identity, ticket_class="second"))
            victim = await cluster.start("victim", identity=victim_identity, validators=both, issuers=issuers)
            await cluster.start("mallory", victim.address, **attacker())
            event = await victim.until_event("bond-refused", reason="ticket-missing")

            assert event["code"] == 30403
            assert "second" in event["message"]

    asyncio.run(run())


def test_a_validator_that_fails_admits_no_peer(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(FakeValidator(on_validate=fail),))
            await cluster.start("mallory", victim.address, **attacker())
            await victim.until_event("bond-refused", reason="validator-failed")

            assert victim.handler.ups == []

    asyncio.run(run())
    assert "a ticket validator failed" in caplog.text


def test_connecting_to_oneself_is_refused() -> None:
    async def run() -> None:
        async with BondCluster() as cluster:
            node = Node("narcissus")
            cluster.nodes.append(node)
            await node.endpoint.start()
            node.join(node.address)
            event = await node.until_event("bond-refused", reason="self-connection")

            assert event["code"] == 30400
            assert node.handler.ups == []

    asyncio.run(run())


def test_the_fake_authority_is_what_the_fakes_trust() -> None:
    """Guards the tests above: with everything right, the attacker's own set-up is admitted."""

    async def run() -> None:
        async with BondCluster() as cluster:
            victim = await cluster.start("victim", validators=(FakeValidator(authority=AUTHORITY),))
            friend = await cluster.start("friend", victim.address, **attacker("friend"))
            await victim.until_bonded(friend)

            assert friend.me.id in victim.peers()

    asyncio.run(run())


def test_a_verdict_on_tickets_that_need_no_connection_admits_no_peer() -> None:
    identity = Identity.generate("mallory", datetime.now(UTC))
    issuer, now = FakeIssuer(identity), datetime.now(UTC)
    ticket = issuer.issue(group_id=None, cluster=None, binding=None, now=now)
    unbound = ExpectedClaims(
        peer_id=identity.peer_id, network_id=bytes(32), group_id=None, binding=None, cluster=ANY_CLUSTER
    )

    with pytest.raises(LocalProtocolError):
        judge((CredulousValidator(),), {"fake": ticket}, unbound, now)
