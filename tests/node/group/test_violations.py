"""A message that an admitted peer must not send costs it its bond, is in the audit log, and has no other effect."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest
import uvloop

from node.bonds.wire.refusals import RefusalCode
from node.features import Levels
from node.group.group import Group
from node.peers import BondLoss, Incarnation, Preference
from node.raft.entries import (
    Config,
    Signatures,
    encode_command_body,
    encode_commands,
    encode_config,
    make_entry,
    session_id,
)
from node.raft.messages import (
    Append,
    AppendReply,
    Forward,
    Genesis,
    GenesisProposal,
    Message,
    Presence,
    Proposal,
    TimeoutNow,
    Verdict,
    VoteRequest,
)
from node.raft.types import (
    LOG_START,
    Bootstrap,
    Cursor,
    Entry,
    EntryKind,
    Founding,
    MemberStatus,
    Position,
    Role,
)
from node.raft.wire import MESSAGE_BYTES_MAX, encode
from tests.support.bonds import Node
from tests.support.groups import GET, Site, add, counter, events, until, until_voters, within


@dataclass(frozen=True)
class Scene:
    """A leader, its follower and an admitted intruder, which sends something to ``target``."""

    leader: Group
    follower: Group
    intruder: Node
    target: Group

    @property
    def status(self) -> MemberStatus:
        return self.target.status

    @property
    def cluster(self) -> bytes:
        assert self.status.cluster_id is not None
        return self.status.cluster_id


def forward(scene: Scene, owner: bytes, *sizes: int) -> bytes:
    """Commands for the session of ``owner``, in the intruder's name."""
    session = session_id(scene.target.id, owner, 0)
    proposals = [
        Proposal(
            EntryKind.COMMAND,
            seq,
            encode_commands(session, seq, 1, None, encode_command_body((add(100), bytes(size)))),
        )
        for seq, size in enumerate(sizes, 1)
    ]
    return encode(Forward(scene.cluster, 0, 0, tuple(proposals)))


def malformed(_: Scene) -> bytes:
    return b"\xff"


def oversized(scene: Scene) -> bytes:
    data = forward(scene, scene.intruder.me.id, *[900_000] * 5)
    assert len(data) > MESSAGE_BYTES_MAX
    return data


def of_anothers_session(scene: Scene) -> bytes:
    session = scene.follower._driver.member.session
    assert session.id == session_id(scene.target.id, scene.follower.me.id, 0)
    return forward(scene, scene.follower.me.id, 1)


def reply_beyond_log(scene: Scene) -> bytes:
    last = scene.status.last
    beyond = Cursor(last.term, last.index + 1)
    return encode(AppendReply(scene.cluster, scene.status.term, Verdict.ACK, beyond.index, 0, beyond))


LEVELS = Levels(1, "bondstone/counter", 1)


def forged_genesis(founder: Incarnation) -> Entry:
    config = Config(epoch=1, voters=(founder,), tie=None, reason="genesis")
    payload = encode_config(config, Signatures(nonce=bytes(16), signatures=(b"s",), levels=LEVELS))
    return make_entry(LOG_START, term=1, kind=EntryKind.CONFIG, time_ms=0, payload=payload)


def other_genesis(scene: Scene) -> bytes:
    entry = forged_genesis(scene.intruder.me)
    return encode(Append(scene.cluster, scene.status.term + 1, LOG_START, (entry,), 1, 1))


def second_leader(scene: Scene) -> bytes:
    return encode(Append(scene.cluster, scene.status.term, LOG_START, (), 0, 1))


def next_leader(scene: Scene) -> bytes:
    return encode(Append(scene.cluster, scene.status.term + 1, LOG_START, (), 0, 1))


def handing_over(scene: Scene) -> bytes:
    return encode(TimeoutNow(scene.cluster, scene.status.term))


def end_of_our_cluster(scene: Scene) -> bytes:
    return encode(Presence(None, 0, 0, Bootstrap.AUTO, (), (scene.cluster,), 0))


def standing_for_office(scene: Scene) -> bytes:
    last = scene.status.last
    mine = Position(last.term, last.index, bytes(32))
    return encode(VoteRequest(scene.cluster, scene.status.term + 5, False, mine, scene.status.voters, False))


def of_another_cluster(scene: Scene) -> bytes:
    """As a peer that has named this cluster as its own."""
    ours = Presence(scene.cluster, 0, 0, Bootstrap.JOIN, (), (), 0)
    scene.intruder.group().send([scene.target.me], encode(ours))
    return encode(Append(b"o" * 32, scene.status.term + 1, LOG_START, (), 0, 1))


def run(
    scenario: Callable[[Scene, Site], Coroutine[Any, Any, None]],
    to: Role,
    preference: Preference = Preference.NORMAL,
) -> None:
    async def main() -> None:
        async with Site() as site:
            leader, follower = await site.counters(2)
            for group in (leader, follower):
                await within(group.execute(add(1)))
            async with site.intruder(leader, preference) as intruder:
                target = leader if to is Role.LEADER else follower
                await scenario(Scene(leader, follower, intruder, target), site)

    uvloop.run(main())


def bonds_of(group: Group, *, without: Node) -> list[object]:
    return [(bond.peer, bond.since) for bond in group.bonds if bond.peer != without.me]


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", None) or getattr(value, "value", value))


async def loses_its_bond_and_nothing_else_happens(scene: Scene, data: bytes, reason: str) -> None:
    groups, intruder = (scene.leader, scene.follower), scene.intruder
    await until(lambda: scene.leader.status.commit == scene.follower.status.commit)
    before = [group.status for group in groups]
    bonds = [bonds_of(group, without=intruder) for group in groups]

    intruder.group().send([scene.target.me], data)
    await intruder.handler.until(lambda: bool(intruder.handler.downs))

    assert intruder.handler.downs == [(scene.target.me, BondLoss.LOST, reason)]
    for group, was in zip(groups, before, strict=True):
        was_then = replace(was, match={}, learners=(), electable=())
        assert replace(group.status, match={}, learners=(), electable=()) == was_then
    assert [bonds_of(group, without=intruder) for group in groups] == bonds
    for group in groups:
        assert (await within(group.query(GET))).value == {"value": 2}
    assert (await within(scene.follower.execute(add(1)))).at == Cursor(
        before[0].term, before[0].last.index + 1
    )


@pytest.mark.parametrize(
    ("to", "message", "reason"),
    [
        (Role.LEADER, malformed, "malformed-message"),
        (Role.LEADER, oversized, "malformed-message"),
        (Role.LEADER, of_anothers_session, "forward-for-another-session"),
        (Role.LEADER, reply_beyond_log, "reply-beyond-log"),
        (Role.LEADER, second_leader, "second-leader-in-term"),
        (Role.LEADER, other_genesis, "wrong-genesis"),
        (Role.FOLLOWER, other_genesis, "wrong-genesis"),
        (Role.FOLLOWER, second_leader, "second-leader-in-term"),
        (Role.FOLLOWER, handing_over, "transfer-by-non-leader"),
        (Role.LEADER, end_of_our_cluster, "false-dissolution"),
        (Role.FOLLOWER, end_of_our_cluster, "false-dissolution"),
        (Role.LEADER, of_another_cluster, "wrong-cluster"),
        (Role.FOLLOWER, of_another_cluster, "wrong-cluster"),
    ],
    ids=name_of,
)
def test_a_message_that_breaks_the_protocol_costs_the_bond(
    to: Role, message: Callable[[Scene], bytes], reason: str
) -> None:
    breaks_the_protocol(to, message, reason, Preference.NORMAL)


@pytest.mark.parametrize("to", [Role.LEADER, Role.FOLLOWER], ids=name_of)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (next_leader, "observer-leads"),
        (standing_for_office, "observer-stands"),
    ],
    ids=name_of,
)
def test_an_observer_that_wants_to_lead_loses_its_bond(
    to: Role, message: Callable[[Scene], bytes], reason: str
) -> None:
    breaks_the_protocol(to, message, reason, Preference.OBSERVER)


def breaks_the_protocol(
    to: Role, message: Callable[[Scene], bytes], reason: str, preference: Preference
) -> None:
    async def scenario(scene: Scene, site: Site) -> None:
        await loses_its_bond_and_nothing_else_happens(scene, message(scene), reason)
        (network,) = [network for network in site.networks if network.me == scene.target.me]
        assert len(events(network, "protocol-violation", name="intruder", reason=reason)) == 1
        ends = events(network, "bond-ended", name="intruder", reason=reason, by_peer=False)
        assert [end["code"] for end in ends] == [RefusalCode.INVALID_HANDSHAKE]

    run(scenario, to, preference)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda intruder, _: Genesis(forged_genesis(intruder)), "bad-genesis"),
        (lambda _, founder: GenesisProposal(1, bytes(16), (founder,), LEVELS), "bad-genesis-proposal"),
        (lambda intruder, _: GenesisProposal(1, bytes(16), (intruder,), LEVELS), "bad-genesis-proposal"),
    ],
    ids=["forged", "for another", "without this node"],
)
def test_a_founder_is_not_misled(message: Callable[[Incarnation, Incarnation], Message], reason: str) -> None:
    founding = Founding(bootstrap=Bootstrap.EXPECT, expect=2)

    async def main() -> None:
        async with Site() as site:
            network = await site.network("a")
            waiting = counter(network, founding).join()
            async with site.intruder(waiting) as intruder:
                intruder.group().send([network.me], encode(message(intruder.me, network.me)))
                await intruder.handler.until(lambda: bool(intruder.handler.downs))

                assert intruder.handler.downs == [(network.me, BondLoss.LOST, reason)]
                assert waiting.status.cluster_id is None
            assert len(events(network, "protocol-violation", name="intruder", reason=reason)) == 1

            other = counter(await site.network("b", network), founding).join()
            await until_voters([waiting, other], 2)
            assert set(waiting.status.voters) == {waiting.me, other.me}

    uvloop.run(main())


@pytest.mark.parametrize("to", [Role.LEADER, Role.FOLLOWER], ids=name_of)
def test_a_peer_of_another_cluster_loses_its_bond(to: Role) -> None:
    async def scenario(scene: Scene, site: Site) -> None:
        presence = Presence(b"r" * 32, 99, 99, Bootstrap.JOIN, (), (), 0)
        await loses_its_bond_and_nothing_else_happens(scene, encode(presence), "rival-cluster")
        (network,) = [network for network in site.networks if network.me == scene.target.me]
        rivals = events(network, "rival-cluster", name="intruder")
        assert [event["cluster_id"] for event in rivals] == [(b"r" * 32).hex()]
        ends = events(network, "bond-ended", name="intruder", reason="rival-cluster", by_peer=False)
        assert [end["code"] for end in ends] == [RefusalCode.NOT_ALLOWED]

    run(scenario, to)


@pytest.mark.parametrize("message", [malformed, second_leader])
def test_many_violations_of_one_bond_are_one_event(message: Callable[[Scene], bytes]) -> None:
    """Or a peer could push everything else out of an audit log of bounded size."""

    async def scenario(scene: Scene, site: Site) -> None:
        data = message(scene)
        for times in (1, 2):
            await until(lambda: scene.leader.me.id in scene.intruder.peers())
            for _ in range(200):
                scene.intruder.group().send([scene.leader.me], data)
            await scene.intruder.handler.until(lambda times=times: len(scene.intruder.handler.downs) == times)

            assert len(events(site.networks[0], "protocol-violation")) == times

    run(scenario, Role.LEADER)
