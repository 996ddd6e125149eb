"""Which software may bond, and what it has to know: checked before anything that costs."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from attestation.encoding import canonical
from node.bonds.core.send_queue import Lane
from node.bonds.wire.frames import frame_of
from node.bonds.wire.messages import (
    VERSIONS,
    Hello,
    LaterMessage,
    Ping,
    Refuse,
    decode_untrusted,
    encode,
)
from node.errors import RemoteProtocolError
from node.features import Build, Levels, Span
from tests.support.bonds import GROUP, NETWORK, BondCluster, Node, RawPeer

LEVELS = Levels(2, "test", 3)
FITS = Build("bondstone test", Span(1, 2), "test", Span(1, 3))
UNFIT = [
    ({"features": Span(1, 1)}, "feature-level-too-low"),
    ({"features": Span(3, 9)}, "feature-level-too-high"),
    ({"versions": Span(1, 2)}, "machine-version-too-low"),
    ({"versions": Span(4, 4)}, "machine-version-too-high"),
    ({"family": "other"}, "machine-family-differs"),
]


def changed(build: Build, **fields: Any) -> Build:
    known = {name: getattr(build, name) for name in build.__struct_fields__}
    return Build(**(known | fields))


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    uvloop.run(bounded())


def hello(build: Build = FITS) -> Hello:
    return Hello(
        versions=VERSIONS, network_id=NETWORK, group_id=GROUP, nonce=b"n" * 32, name="raw", build=build
    )


async def node_at(cluster: BondCluster, name: str, *seeds: str, build: Build = FITS, **options: Any) -> Node:
    node = Node(name, **options)
    cluster.nodes.append(node)
    node.build, node.levels = build, LEVELS
    return await node.start(*seeds)


@pytest.mark.parametrize(("fields", "reason"), UNFIT, ids=[reason for _, reason in UNFIT])
def test_a_peer_that_does_not_know_the_groups_feature_level_is_refused_at_its_hello(
    fields: dict[str, Any], reason: str
) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await node_at(cluster, "node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(hello(changed(FITS, **fields)))

            assert await raw.receive() == Refuse(code=30403, reason=reason)
            event = await node.until_event("bond-refused", reason=reason)
            await raw.close()

            assert event["values"]["group"] == {"level": 2, "machine": "test", "version": 3}
            assert event["values"]["peer"]["image"] == "bondstone test"
            assert node.issuers[0].issued == []

    run(scenario())


def test_the_initiator_is_as_strict_as_the_responder_and_makes_no_quote_for_a_refused_peer() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            old = await node_at(cluster, "old", build=changed(FITS, features=Span(1, 1)))
            old.levels = Levels(1, "test", 3)  # another cluster, or one that it had left
            node = await node_at(cluster, "node", old.address)
            await node.until_event("bond-refused", reason="feature-level-too-low")

            assert node.issuers[0].issued == old.issuers[0].issued == []

    run(scenario())


def test_before_a_genesis_two_nodes_bond_if_they_could_be_in_one_group() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await node_at(cluster, "a")
            a.levels = None
            b = await node_at(cluster, "b", a.address, build=changed(FITS, features=Span(2, 5)))
            b.levels = None
            await a.until_bonded(b)
            (bond,) = a.group().bonds()
            assert bond.build == b.build

            c = await node_at(cluster, "c", a.address, build=changed(FITS, versions=Span(7, 8)))
            c.levels = None
            await a.until_event("bond-refused", reason="machine-version-too-high")

    run(scenario())


def test_a_hello_of_a_release_before_feature_levels_is_refused_by_its_version() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await node_at(cluster, "node")
            raw = await RawPeer.connect(node.endpoint.port)
            body = canonical.encode([1, "bondstone/bond", [1], NETWORK, GROUP, b"n" * 32, "old"])
            raw.send_bytes(len(body).to_bytes(4, "big") + body)

            assert await raw.receive() == Refuse(code=30400, reason="version-mismatch")
            event = await node.until_event("bond-refused", reason="version-mismatch")
            await raw.close()
            assert "before feature levels" in event["message"]

    run(scenario())


def test_what_a_later_release_adds_to_a_hello_is_ignored() -> None:
    value = canonical.decode_untrusted(encode(hello()), bytes_max=4096, items_max=100)
    value[2] = [2, 3]
    value[-1] |= {"svn": 12, "machine": [*value[-1]["machine"], "more"], "features": [1, 2, 9]}
    decoded = decode_untrusted(canonical.encode([*value, "more"]))

    assert decoded == replace(hello(), versions=(2, 3))


GOOD: dict[str, Any] = {"image": "x", "features": [1, 1], "machine": ["m", 1, 1]}


@pytest.mark.parametrize(
    "build",
    [
        None,
        [],
        {},
        GOOD | {"image": ""},
        GOOD | {"image": "x" * 129},
        GOOD | {"image": "a\nb"},
        GOOD | {"features": [1]},
        GOOD | {"features": [0, 1]},
        GOOD | {"features": [2, 1]},
        GOOD | {"features": [1, 65_536]},
        GOOD | {"features": [True, 1]},
        GOOD | {"machine": ["m", 1]},
        GOOD | {"machine": ["", 1, 1]},
        GOOD | {"machine": ["m" * 201, 1, 1]},
        GOOD | {"machine": [b"m", 1, 1]},
        GOOD | {str(number): 1 for number in range(70)},
    ],
    ids=lambda build: str(build)[:60],
)
def test_a_build_is_checked_field_by_field(build: Any) -> None:
    def encoded(build: Any) -> bytes:
        return canonical.encode([1, "bondstone/bond", [2], NETWORK, GROUP, b"n" * 32, "b", build])

    decode_untrusted(encoded(GOOD))
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(encoded(build))


@pytest.mark.parametrize("tag", [16, 2, 3, 22])
def test_messages_may_grow_at_their_end(tag: int) -> None:
    entry = [b"i" * 32, "bob", "normal", ["h:1"], None]
    fields = {16: [], 2: [b"p" * 32, entry], 3: [{"fake": b"t"}], 22: [b"n" * 32, {"fake": b"t"}]}[tag]
    plain = decode_untrusted(canonical.encode([tag, *fields]))
    assert decode_untrusted(canonical.encode([tag, *fields, 1, {"a": None}])) == plain


def test_an_entry_may_grow_at_its_end() -> None:
    entry: list[Any] = [b"i" * 32, "bob", "normal", ["h:1"], None]
    assert decode_untrusted(canonical.encode([20, [*entry, 7]])) == decode_untrusted(
        canonical.encode([20, entry])
    )


def test_an_unknown_message_is_refused_or_ignored_by_its_tag() -> None:
    assert decode_untrusted(canonical.encode([64, "x"])) == LaterMessage(64)
    for tag in (0, 6, 63, -1):
        with pytest.raises(RemoteProtocolError, match="unknown tag"):
            decode_untrusted(canonical.encode([tag, "x"]))


def test_a_bond_outlives_a_message_that_only_a_later_release_knows() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            (held,) = b.group()._bonds.values()
            body = canonical.encode([64, "news"])
            later = len(body).to_bytes(4, "big") + body
            held.connection.send_frames(Lane.CONTROL, [later, frame_of(Ping())])
            b.group().send([a.me], b"after it")
            await a.handler.until(lambda: (b.me, b"after it") in a.handler.payloads)

            assert a.peers() == {b.me.id}

    run(scenario())


def test_no_such_message_is_taken_before_admission() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            body = canonical.encode([64, "news"])
            raw.send_bytes(len(body).to_bytes(4, "big") + body)

            assert await raw.receive() == Refuse(code=30400, reason="unexpected-message")
            await raw.close()

    run(scenario())
