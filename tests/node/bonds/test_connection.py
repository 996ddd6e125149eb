"""A connection carries out what its cores decide, and nothing that makes no sense where it is."""

import asyncio
from collections.abc import Sequence

import pytest

from node.bonds.connection import BondConnection, Greeting
from node.bonds.core.handshake import Action, Formed, Handshake, Issue, Judge
from node.bonds.tickets.admission import Admission
from node.bonds.wire.messages import PeerEntry
from node.bonds.wire.refusals import Refusal
from node.errors import LocalProtocolError
from node.peers import Incarnation, Preference
from tests.support.bonds import BUILD, NETWORK, QUICK, FakeValidator, Node

PEER = Incarnation("peer", b"\x07" * 32)
TICKETS = {"fake": b"ticket"}
FORMED = Formed(
    entry=PeerEntry(peer=PEER, preference=Preference.NORMAL, addresses=("h:1",), api_url=None),
    build=BUILD,
    exporter=bytes(32),
    admission=Admission(expires_at=None, tickets=TICKETS, binding=bytes(32), appraisals={}, presented={}),
    peers=(),
)


class Astray(Handshake):
    """A handshake whose core has a defect: when the time is over it asks for what needs a group."""

    def __init__(self, action: Action) -> None:
        super().__init__(
            me=Incarnation("me", b"\x01" * 32),
            network_id=NETWORK,
            peer_id=PEER.id,
            export=lambda context: context,
            nonce=bytes(32),
            find_gate=lambda _: None,
        )
        self.action = action

    def refuse(self, refusal: Refusal) -> Sequence[Action]:
        return [self.action]


@pytest.mark.parametrize(
    "action",
    [Issue(bytes(32)), Judge(TICKETS, bytes(32)), FORMED],
    ids=lambda action: type(action).__name__,
)
def test_no_ticket_is_made_or_judged_and_no_bond_formed_without_a_group(action: Action) -> None:
    async def scenario() -> None:
        judged: list[object] = []
        node = Node("a", validators=(FakeValidator(on_validate=lambda: judged.append(1)),))
        await node.start()
        connection = BondConnection(node.endpoint.context, node.endpoint, group=None, dialled=None)
        connection.stage = greeting = Greeting(PEER.id, Astray(action))
        try:
            with pytest.raises(
                LocalProtocolError, match=f"{type(action).__name__} of a handshake without a group"
            ):
                connection.tick(node.clock.environment().monotonic_ms() + QUICK.handshake_timeout_ms)
            await asyncio.sleep(0)

            assert connection.stage is greeting
            assert judged == []
            assert node.issuers[0].issued == []
            assert node.group().bonds() == []
        finally:
            await node.endpoint.close()

    asyncio.run(scenario())
