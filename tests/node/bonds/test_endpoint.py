"""Bonds between whole nodes over loopback: forming, keeping, renewing and ending them."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvloop

from attestation.encoding import canonical
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims
from attestation.tickets.protocol import Cluster as Founded
from enclave.identity import Identity
from node.bonds.connection import BondConnection
from node.bonds.core.handshake import ConnectionRole
from node.bonds.endpoint import BondEndpoint
from node.bonds.settings import BondSettings
from node.errors import ConfigError, LocalProtocolError
from node.peers import BondLoss, Incarnation, Preference
from tests.support.bonds import GROUP, NETWORK, QUICK, BondCluster, FakeIssuer, FakeValidator, Node

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


# ---- forming ----------------------------------------------------------------------
def test_three_nodes_with_one_seed_become_a_full_mesh(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            c = await cluster.start("c", a.address, preference=Preference.OBSERVER)
            await a.until_bonded(b, c)
            await b.until_bonded(a, c)
            await c.until_bonded(a, b)

            info = next(bond for bond in b.group().bonds() if bond.peer == c.me)
            assert info.preference is Preference.OBSERVER
            assert info.addresses == (c.address,)
            assert info.appraisals == {"fake": {"image": "good", "mock": True}}
            assert list(info.tickets) == ["fake"]
            assert info.mock
            assert info.since.tzinfo is not None
            outgoing = {
                (node.me, bond.peer): bond.outgoing for node in (a, b, c) for bond in node.group().bonds()
            }
            assert all(outgoing[one, two] != outgoing[two, one] for one, two in outgoing)

    run(scenario())


def test_admission_is_recorded_on_both_sides(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)

            (at_a,) = a.events("bond-admitted")
            (at_b,) = b.events("bond-admitted")
            assert (at_a["name"], at_a["peer_id"]) == ("b", b.me.id.hex())
            assert (at_b["name"], at_b["peer_id"]) == ("a", a.me.id.hex())
            assert at_a["role"] == "initiator"
            assert at_b["role"] == "responder"
            assert at_a["group_id"] == GROUP.hex()

    run(scenario())


def test_payloads_arrive_whole_and_in_order(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            sent = [bytes([i % 251]) * size for i, size in enumerate([0, 1, 65536, 65537, 3_000_000, 7])]
            for data in sent:
                a.group().send([b.me, a.me], data)  # a has no bond with itself: passed over
            await b.handler.until(lambda: len(b.handler.payloads) == len(sent))

            assert [data for _, data in b.handler.payloads] == sent
            assert {peer for peer, _ in b.handler.payloads} == {a.me}

    run(scenario())


def test_many_small_payloads_over_one_bond(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            for i in range(3000):
                a.group().send([b.me], i.to_bytes(4, "big"))
            await b.handler.until(lambda: len(b.handler.payloads) == 3000)

            assert [int.from_bytes(data, "big") for _, data in b.handler.payloads] == list(range(3000))

    run(scenario())


def test_a_payload_that_no_peer_would_take_is_not_sent() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("a", settings=replace(QUICK, payload_bytes_max=1000))
            with pytest.raises(LocalProtocolError, match="1001 bytes"):
                node.group().send([], b"x" * 1001)

    asyncio.run(scenario())


@pytest.mark.parametrize("attempt", range(5))
def test_two_that_dial_each_other_keep_one_bond(run: Run, attempt: int) -> None:
    """Glare: whatever the timing, both keep the same connection."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, yield_ms=1)
            a, b = Node("a", settings=settings), Node("b", settings=settings)
            cluster.nodes += [a, b]
            await a.endpoint.start()
            await b.endpoint.start()
            first, second = (a, b) if attempt % 2 else (b, a)
            first.join(second.address)
            second.join(first.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            # A message each way, over the bond that each believes in, proves that it is one and the same.
            for _ in range(3):
                a.group().send([b.me], b"ping")
                await b.handler.until(lambda: len(b.handler.payloads) > 0)
                b.handler.payloads.clear()
                b.group().send([a.me], b"pong")
                await a.handler.until(lambda: len(a.handler.payloads) > 0)
                a.handler.payloads.clear()

            (at_a,), (at_b,) = a.group().bonds(), b.group().bonds()
            assert at_a.binding != at_b.binding
            assert at_a.outgoing != at_b.outgoing
            assert len(a.handler.ups) - len(a.handler.downs) == 1
            assert len(b.handler.ups) - len(b.handler.downs) == 1

    run(scenario())


def test_of_two_bonds_under_way_the_one_that_the_smaller_id_opened_stays(run: Run) -> None:
    """The larger one's connection is first, and held right before admission until the other is there."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            judging, go_on = threading.Event(), threading.Event()

            def hold() -> None:
                judging.set()
                assert go_on.wait(5)

            one, two = (Identity.generate(name, datetime.now(UTC)) for name in ("one", "two"))
            low, high = sorted((one, two), key=lambda identity: identity.peer_id)
            smaller = await cluster.start(
                low.name, identity=low, validators=(FakeValidator(on_validate=hold),)
            )
            larger = await cluster.start(high.name, smaller.address, identity=high)
            await asyncio.to_thread(judging.wait, 5)
            smaller.group()._book.resolved([larger.address], 0)
            under_way = smaller.group()._handshaking[larger.me.id]
            while [item.role for item in under_way] != [ConnectionRole.RESPONDER, ConnectionRole.INITIATOR]:
                await asyncio.sleep(0.005)
            go_on.set()
            await smaller.until_bonded(larger)
            await larger.until_bonded(smaller)

            assert [bond.outgoing for bond in smaller.group().bonds()] == [True]
            assert [bond.outgoing for bond in larger.group().bonds()] == [False]
            (event,) = smaller.events("bond-duplicate")
            assert smaller.events("bond-refused") == []
            assert (event["code"], event["reason"]) == (30429, "already-bonded")
            assert smaller.handler.downs == []
            assert larger.handler.downs == []

    run(scenario())


def test_a_group_that_is_joined_later_is_found_by_retrying(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            late = Node("late")
            cluster.nodes.append(late)
            await late.endpoint.start()
            early = await cluster.start("early", late.address)
            await early.until_event("bond-refused-by-peer", reason="group-not-found")
            late.join()
            await late.until_bonded(early)

    run(scenario())


def test_a_seed_with_a_dns_name_is_resolved(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", f"localhost:{a.endpoint.port}")
            await b.until_bonded(a)

    run(scenario())


# ---- ending ------------------------------------------------------------------------
def test_a_departure_is_distinguished_from_a_loss(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            await b.group().depart()
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs == [(b.me, BondLoss.DEPARTED, "departed")]
            assert a.group().bonds() == []
            (event,) = a.events("bond-departed")
            assert event["by_peer"]

    run(scenario())


def test_a_broken_connection_is_noticed_at_once_and_dialled_again(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            for connection in list(b.endpoint._connections):
                connection.abort()
            await a.handler.until(lambda: bool(a.handler.downs))
            await a.handler.until(lambda: len(a.handler.ups) == 2)

            assert a.handler.downs[0][:2] == (b.me, BondLoss.LOST)
            assert [event["reason"] for event in a.events("bond-ended")] == ["connection-lost"]

    run(scenario())


CHILD = """
    import asyncio, sys
    from tests.support.bonds import Node
    async def main():
        node = await Node("child").start(sys.argv[1])
        await asyncio.sleep(60)
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_dead_process_is_noticed(run: Run, how: signal.Signals) -> None:
    """Killed: the kernel closes the socket, so at once. Stopped: only the silence shows it."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a", settings=replace(QUICK, silence_ms=1500))
            child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), a.address])
            try:
                await a.handler.until(lambda: bool(a.handler.ups))
                loop = asyncio.get_running_loop()
                struck = loop.time()
                os.kill(child.pid, how)
                await a.handler.until(lambda: bool(a.handler.downs))
                took = loop.time() - struck

                _, loss, reason = a.handler.downs[0]
                assert loss is BondLoss.LOST
                if how is signal.SIGKILL:
                    assert reason in {"connection-lost", "peer-closed"}  # not silence: at once
                else:
                    assert reason == "silent"
                    assert took >= 1
            finally:
                child.kill()
                child.wait()

    run(scenario())


def test_a_node_that_restarts_at_the_same_address_is_bonded_as_a_new_incarnation(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            old = await cluster.start("b", a.address)
            await a.until_bonded(old)
            port = old.endpoint.port
            for connection in list(old.endpoint._connections):
                connection.abort()  # no goodbye
            await old.endpoint.close()
            # It knows no peer: the others have to find it where the old one was.
            new = await cluster.start("b", port=port)
            await a.until_bonded(new)

            assert a.peers() == {new.me.id}
            assert new.me.id != old.me.id

    run(scenario())


def test_an_idle_bond_lives_on_pings(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, ping_interval_ms=30, silence_ms=120)
            a = await cluster.start("a", settings=settings)
            b = await cluster.start("b", a.address, settings=settings)
            await a.until_bonded(b)
            await asyncio.sleep(0.5)  # four times the silence that would end it

            assert a.handler.downs == []
            assert b.handler.downs == []

    run(scenario())


def test_a_peer_that_does_not_read_loses_its_bond() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a", settings=replace(QUICK, send_buffer_bytes_max=1_000_000))
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            for connection in b.endpoint._connections:
                connection._channel._transport.pause_reading()
            for _ in range(200):
                a.group().send([b.me], b"x" * 100_000)
            # Never within the call, which would surprise its caller.
            assert a.handler.downs == []
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0][1:] == (BondLoss.LOST, "send-buffer-full")

    asyncio.run(scenario())


def test_a_peer_that_is_not_read_for_long_keeps_its_bond_and_is_read_on_in_order(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, ping_interval_ms=50, silence_ms=125)
            a = await cluster.start("a", settings=settings)
            b = await cluster.start("b", a.address, settings=settings)
            await a.until_bonded(b)
            await b.until_bonded(a)
            take = pausing(a, b)
            payloads = [number.to_bytes(2, "big") * 500 for number in range(2000)]
            for payload in payloads:
                b.group().send([a.me], payload)
            await a.handler.until(lambda: bool(a.handler.payloads))
            await asyncio.sleep(0.5)  # four times the silence that would end it
            assert len(a.handler.payloads) == 1

            a.handler.payload = take  # type: ignore[method-assign]
            a.group().resume_reading(b.me)
            assert len(a.handler.payloads) == 1  # never from within a call
            await a.handler.until(lambda: len(a.handler.payloads) == len(payloads))

            assert a.handler.payloads == [(b.me, payload) for payload in payloads]
            assert a.handler.downs == b.handler.downs == []

    run(scenario())


def pausing(node: Node, peer: Node) -> Callable[[Incarnation, bytes], None]:
    """Let ``node`` stop reading ``peer`` at every payload; return what took them before."""
    take = node.handler.payload

    def pause(sender: Incarnation, data: bytes) -> None:
        take(sender, data)
        node.group().pause_reading(peer.me)

    node.handler.payload = pause  # type: ignore[method-assign]
    return take


def test_after_a_pause_a_departure_is_reported_after_all_messages_sent_before_it(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            pausing(a, b)
            for payload in (b"1", b"2", b"3"):
                b.group().send([a.me], payload)
            (connection,) = b.endpoint._connections
            connection.depart()  # a has all of it in one piece: nothing was read meanwhile
            for number in (1, 2, 3):
                await a.handler.until(lambda number=number: len(a.handler.payloads) == number)
                assert a.handler.downs == []
                a.group().resume_reading(b.me)
            await a.handler.until(lambda: bool(a.handler.downs))

            assert [payload for _, payload in a.handler.payloads] == [b"1", b"2", b"3"]
            assert a.handler.downs == [(b.me, BondLoss.DEPARTED, "departed")]

    run(scenario())


def test_a_bond_that_ends_is_read_again_until_the_peer_is_gone(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a", settings=replace(QUICK, linger_ms=60_000))
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            (connection,) = a.endpoint._connections
            a.group().pause_reading(b.me)
            b.group().send([a.me], bytes(8_000_000))
            a.group().close_bond(b.me, 30403, "rival-cluster")
            async with asyncio.timeout(10):
                await connection.gone.wait()

            assert b.handler.downs[0] == (a.me, BondLoss.LOST, "rival-cluster")
            assert a.handler.payloads == []

    run(scenario())


def test_nothing_is_delivered_of_a_bond_that_is_to_end(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            take = a.handler.payload

            def refuse(sender: Incarnation, data: bytes) -> None:
                take(sender, data)
                a.group().close_bond(sender, 30400, "bad")

            a.handler.payload = refuse  # type: ignore[method-assign]
            for _ in range(100):
                b.group().send([a.me], b"x")
            await b.handler.until(lambda: bool(b.handler.downs))

            assert a.handler.payloads == [(b.me, b"x")]

    run(scenario())


def test_the_owner_of_a_bond_can_end_it_and_the_peer_gets_the_reason(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            a.group().close_bond(b.me, 30403, "rival-cluster")
            assert a.handler.downs == []
            await b.handler.until(lambda: bool(b.handler.downs))

            assert b.handler.downs[0] == (a.me, BondLoss.LOST, "rival-cluster")
            assert a.handler.downs[0] == (b.me, BondLoss.LOST, "rival-cluster")

    run(scenario())


def test_a_bond_that_one_side_refuses_is_not_retried_in_a_loop(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, refused_max_ms=60_000)
            a = await cluster.start("a", settings=settings)
            b = await cluster.start("b", a.address, settings=settings)
            await a.until_bonded(b)
            await b.until_bonded(a)
            a.group().close_bond(b.me, 30403, "rival-cluster")
            await b.handler.until(lambda: bool(b.handler.downs))
            await asyncio.sleep(0.4)  # time for many rounds of the shortest back-off

            assert len(a.handler.ups) == 1
            assert len(b.handler.ups) == 1

    run(scenario())


def test_an_admitted_peer_that_breaks_the_protocol_loses_its_bond() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            (connection,) = b.endpoint._connections
            connection._channel._write(b"\x00\x00\x00\x01\xff")
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0] == (b.me, BondLoss.LOST, "malformed-message")

    asyncio.run(scenario())


class Relay:
    """A TCP relay whose one half can be cut, so that only one side learns of it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[asyncio.StreamWriter] = []
        self._targets: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._clients.append(writer)
        self._targets.append(far_writer)
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._copy(reader, far_writer)),
            loop.create_task(self._copy(far_reader, writer)),
        ]

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        # Ends are not passed on: the target goes on believing in its connection.

    def cut_clients(self) -> None:
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for writer in (*self._clients, *self._targets):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("dialling", ["smaller", "larger"])
def test_a_member_that_dials_although_we_hold_an_old_bond_replaces_it(dialling: str) -> None:
    """Half-open: the peer lost the connection, and this node has not noticed. The peer need not wait until it does."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, proof_timeout_ms=900, handshake_timeout_ms=900, silence_ms=60_000)
            identities = sorted(
                (Identity.generate(name, datetime.now(UTC)) for name in ("one", "two")),
                key=lambda identity: identity.peer_id,
            )
            if dialling == "smaller":
                identities.reverse()
            held, lost = identities
            a = await cluster.start(held.name, identity=held, settings=settings)
            relay = Relay(a.endpoint.port)
            cluster.cleanups.append(relay.close)
            b = await cluster.start(lost.name, await relay.start(), identity=lost, settings=settings)
            await a.until_bonded(b)
            await b.until_bonded(a)
            relay.cut_clients()
            await b.handler.until(lambda: bool(b.handler.downs))
            await a.handler.until(lambda: len(a.handler.ups) == 2)
            await b.until_bonded(a)

            assert [down[2] for down in a.handler.downs] == ["replaced"]
            assert a.peers() == {b.me.id}

    asyncio.run(scenario())


def test_a_departing_member_does_not_wait_for_a_peer_that_does_not_listen(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, depart_ms=100)
            a = await cluster.start("a", settings=settings)
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            for connection in b.endpoint._connections:
                connection._channel._transport.pause_reading()
            a.group().send([b.me], b"x" * 10_000_000)  # more than the sockets between them hold
            async with asyncio.timeout(5):
                await a.group().depart()
            await a.group().depart()  # again: nothing happens

            assert a.handler.downs == []  # one's own departure is no news
            assert a.endpoint.find_group(GROUP) is None

    run(scenario())


def test_a_bug_in_one_bonds_timers_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            c = await cluster.start("c", a.address)
            await a.until_bonded(b, c)

            def fail(*_: object) -> None:
                raise RuntimeError("a bug")

            bad = next(x for x in a.endpoint._connections if x.known_peer.peer_id == b.me.id)
            bad.stage.bond.tick = fail
            await a.handler.until(lambda: len(a.handler.ups) == 3)

            assert [down[0] for down in a.handler.downs] == [b.me]
            assert a.peers() == {b.me.id, c.me.id}

    asyncio.run(scenario())
    assert "the timers of a bond failed" in caplog.text


# ---- tickets over time ---------------------------------------------------------------
def short_lived(name: str, lifetime: timedelta) -> dict[str, Any]:
    identity = Identity.generate(name, datetime.now(UTC))
    return {"identity": identity, "issuers": (FakeIssuer(identity, lifetime=lifetime),)}


@dataclass
class FoundsWhileIssuing(FakeIssuer):
    node: Node | None = None

    def issue(self, **arguments: Any) -> bytes:
        ticket = super().issue(**arguments)
        assert self.node is not None
        self.node.cluster = Founded(id=b"c" * 32)
        return ticket


def claims_seen(at: Node) -> list[Any]:
    return [canonical.decode_untrusted(canonical.decode_untrusted(bond.tickets["fake"], bytes_max=4096, items_max=4096)[0],
            bytes_max=4096, items_max=4096)["cluster"] for bond in at.group().bonds()]  # fmt: skip


def test_peers_see_the_cluster_of_a_member_as_soon_as_it_holds_something_of_one(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            assert claims_seen(a) == [None]
            b.cluster = Founded(id=b"c" * 32)
            b.group().cluster_changed()
            await a.until_event("ticket-renewed", name="b")

            assert claims_seen(a) == [[b"c" * 32, 0]]
            assert a.handler.downs == b.handler.downs == []

    run(scenario())


def test_a_cluster_that_is_founded_during_the_handshake_is_attested_right_after_it(run: Run) -> None:
    """The ticket was made before; no judge would ask for another one until two thirds of its life are over."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            identity = Identity.generate("b", datetime.now(UTC))
            issuer = FoundsWhileIssuing(identity)
            b = Node("b", identity=identity, issuers=(issuer,))
            issuer.node = b
            cluster.nodes.append(b)
            await b.start(a.address)
            await a.until_event("ticket-renewed", name="b")

            assert claims_seen(a) == [[b"c" * 32, 0]]

    run(scenario())


def test_a_ticket_is_renewed_on_the_living_bond(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address, **short_lived("b", timedelta(milliseconds=600)))
            await a.until_bonded(b)
            (before,) = a.group().bonds()
            await a.until_event("ticket-renewed")
            await a.until_event("ticket-renewed")
            (after,) = a.group().bonds()

            assert before.expires_at is not None
            assert after.expires_at is not None
            assert after.expires_at > before.expires_at
            assert after.binding != before.binding
            assert after.tickets != before.tickets
            assert a.handler.downs == []

    run(scenario())


def test_an_expired_ticket_ends_the_bond(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            options = short_lived("b", timedelta(milliseconds=300))
            b = await cluster.start("b", a.address, **options)
            await a.until_bonded(b)
            _stop_issuing(b)
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0] == (b.me, BondLoss.EXPIRED, "ticket-expired")
            (event,) = a.events("ticket-expired")
            assert event["name"] == "b"
            (ended,) = a.events("bond-ended")
            assert ended["loss"] == "expired"

    run(scenario())


def _stop_issuing(node: Node) -> None:
    def fail(**_: Any) -> bytes:
        raise OSError("the quoting service is down")

    node.issuers[0].issue = fail


def test_a_clock_set_back_prolongs_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address, **short_lived("b", timedelta(milliseconds=300)))
            await a.until_bonded(b)
            _stop_issuing(b)
            a.clock.shift = timedelta(days=-30)
            await a.handler.until(lambda: bool(a.handler.downs), timeout_s=3)

            assert a.handler.downs[0] == (b.me, BondLoss.EXPIRED, "ticket-expired")

    run(scenario())


def test_a_clock_set_forward_ends_the_bond_early(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address, **short_lived("b", timedelta(hours=1)))
            await a.until_bonded(b)
            a.clock.shift = timedelta(hours=2)
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0][1] is BondLoss.EXPIRED

    run(scenario())


def test_a_peer_whose_new_ticket_is_rejected_loses_its_bond(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            options = short_lived("b", timedelta(milliseconds=600))
            b = await cluster.start("b", a.address, **options)
            await a.until_bonded(b)
            options["issuers"][0].image = "evil"
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0] == (b.me, BondLoss.EXPIRED, "image-mismatch")
            (event,) = a.events("ticket-rejected")
            assert event["reason"] == "image-mismatch"

    run(scenario())


def test_a_new_verdict_ends_the_bond(run: Run) -> None:
    """New collateral, or a policy that no longer accepts an image: judged again without a new ticket."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            validator = FakeValidator(images={"good", "old"})
            a = await cluster.start("a", validators=(validator,))
            identity = Identity.generate("b", datetime.now(UTC))
            b = await cluster.start(
                "b", a.address, identity=identity, issuers=(FakeIssuer(identity, image="old"),)
            )
            c = await cluster.start("c", a.address)
            await a.until_bonded(b, c)
            validator.images.discard("old")
            a.group().rejudge()
            await a.handler.until(lambda: bool(a.handler.downs))
            await a.until_event("ticket-renewed", name="c")

            assert a.handler.downs == [(b.me, BondLoss.EXPIRED, "image-mismatch")]
            assert c.me.id in a.peers()

    run(scenario())


def test_judging_again_while_newer_tickets_are_judged_expels_no_honest_member(run: Run) -> None:
    """The old tickets are judged with the binding that they were made for, not with the newest one."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            judging, go_on = threading.Event(), threading.Event()
            validator = FakeValidator()
            a = await cluster.start("a", validators=(validator,))
            b = await cluster.start("b", a.address, **short_lived("b", timedelta(seconds=3)))
            await a.until_bonded(b)

            def hold() -> None:
                judging.set()
                assert go_on.wait(10)

            validator.on_validate = hold
            assert await asyncio.to_thread(judging.wait, 10)
            a.group().rejudge()
            go_on.set()
            async with asyncio.timeout(10):
                while len(a.events("ticket-renewed")) < 2:
                    await asyncio.sleep(0.005)

            assert a.handler.downs == []
            (bond,) = a.group().bonds()
            # The old tickets were judged last; the newer ones are what the bond stands on all the same.
            assert bond.tickets["fake"] in b.issuers[0].issued[1:]
            expected = ExpectedClaims(
                peer_id=b.me.id,
                network_id=NETWORK,
                group_id=GROUP,
                binding=bond.binding,
                cluster=ANY_CLUSTER,
            )
            assert FakeValidator().validate(bond.tickets["fake"], expected, datetime.now(UTC)).at

    run(scenario())


def test_a_node_that_cannot_make_its_ticket_reports_it(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = Node("b")
            cluster.nodes.append(b)
            _stop_issuing(b)
            await b.start(a.address)
            event = await b.until_event("bond-refused", reason="own-ticket-unavailable")
            await a.until_event("bond-refused-by-peer", reason="own-ticket-unavailable")

            assert "the quoting service is down" in event["message"]

    run(scenario())


def test_a_peer_can_announce_its_new_address(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            b = await cluster.start("b", a.address)
            await a.until_bonded(b)
            await b.until_bonded(a)
            b.group().update_entry(addresses=("192.0.2.7:7443",), api_url="https://b.example:8443")
            b.group().send([a.me], b"after the update")
            await a.handler.until(lambda: bool(a.handler.payloads))

            (info,) = a.group().bonds()
            assert info.addresses == ("192.0.2.7:7443",)
            assert info.api_url == "https://b.example:8443"

    run(scenario())


# ---- configuration ---------------------------------------------------------------------
def endpoint_of(node: Node, **changes: Any) -> BondEndpoint:
    options: dict[str, Any] = {
        "identity": node.identity,
        "network_id": NETWORK,
        "listen": ("127.0.0.1", 0),
        "advertise": (),
        "audit": node.audit,
    }
    return BondEndpoint(**(options | changes))


def test_a_port_in_use_is_named_with_its_key(run: Run) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("a")
            other = endpoint_of(Node("b"), listen=("127.0.0.1", node.endpoint.port))
            with pytest.raises(
                ConfigError, match=rf"127\.0\.0\.1:{node.endpoint.port} is in use.*bond\.listen"
            ):
                await other.start()
            await other.close()

    run(scenario())


def test_an_endpoint_that_no_peer_could_reach_is_not_started(run: Run) -> None:
    async def scenario() -> None:
        endpoint = endpoint_of(Node("a"), listen=("0.0.0.0", 0))
        with pytest.raises(ConfigError, match=r"bond\.advertise"):
            await endpoint.start()

    run(scenario())


@pytest.mark.parametrize("address", ["no-port", "host:0", "host:65536", "a b:1", ":7000"])
def test_a_wrong_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        endpoint_of(Node("a"), advertise=(address,))


def test_a_name_that_peers_would_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot name a member"):
        Node("node one")


def test_no_more_addresses_are_advertised_than_peers_take() -> None:
    with pytest.raises(ConfigError, match="at most 8"):
        endpoint_of(Node("a"), advertise=tuple(f"h:{port}" for port in range(1, 10)))


def test_a_wrong_seed_is_named() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            with pytest.raises(ConfigError, match=r"'nonsense' is not host:port .key bond\.seeds"):
                await cluster.start("a", "nonsense")

    asyncio.run(scenario())


def test_a_group_is_joined_once_and_after_the_start() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = Node("a")
            cluster.nodes.append(node)
            with pytest.raises(LocalProtocolError, match="not started"):
                node.join()
            await node.start()
            with pytest.raises(LocalProtocolError, match="joined already"):
                node.join()

    asyncio.run(scenario())


def test_a_group_whose_tickets_we_cannot_make_is_not_joined() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            with pytest.raises(ConfigError, match="cannot make: tdx"):
                await cluster.start("a", validators=(FakeValidator(ticket_class="tdx"),))

    asyncio.run(scenario())


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="silence_ms"):
        BondSettings(ping_interval_ms=1000, silence_ms=1500)
    with pytest.raises(ConfigError, match=r"bonds\.tick_ms must be positive"):
        BondSettings(tick_ms=0)


def test_closing_does_not_wait_for_a_dial_that_was_cancelled_when_its_socket_was_open(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop then closes the socket without telling the protocol."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            a = await cluster.start("a")
            opened = BondEndpoint.opened
            cancelled: list[bool] = []

            def open_and_cancel(endpoint: BondEndpoint, connection: BondConnection) -> bool:
                if connection.role is ConnectionRole.INITIATOR:
                    for task in b.group()._tasks:
                        cancelled.append(task.cancel())
                return opened(endpoint, connection)

            monkeypatch.setattr(BondEndpoint, "opened", open_and_cancel)
            b = await cluster.start("b", a.address)
            async with asyncio.timeout(10):
                while not cancelled:
                    await asyncio.sleep(0.005)
                await b.endpoint.close()

    run(scenario())
