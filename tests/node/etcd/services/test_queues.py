"""``v3lockpb.Lock`` and ``v3electionpb.Election``, over the real machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from attestation.background import Background
from node.etcd import messages as m
from node.etcd.errors import Code, EtcdError, refused
from node.etcd.services.call import Call
from node.etcd.services.election import ElectionService
from node.etcd.services.lock import LockService
from node.etcd.services.queueing import LEASE_S, SESSION_EXPIRED, Queues
from node.machines.base import ApplyContext, CommandError
from node.machines.kv import KeyValue
from node.system.grants import AccessRole, CredentialKind, Grant
from node.watch.driver import Watching

GRANT = Grant(name="someone", kind=CredentialKind.TOKEN, credential=bytes(32), roles=(AccessRole.ADMIN,))


class Node:
    """Executes at once. ``hold``, if set, is waited for before each answer of a command."""

    def __init__(self) -> None:
        self.background = Background()
        self.machine = KeyValue()
        self.hub = Watching(self.machine, lambda: None)
        self.index = 0
        self.hold: asyncio.Event | None = None
        self.keys_of_idempotency: list[bytes | None] = []
        queues = Queues(self, self.background)
        self.lock = LockService(self, queues)
        self.election = ElectionService(queues)

    def watching(self) -> Watching:
        return self.hub

    def apply(self, *command: Any) -> list[Any]:
        self.index += 1
        self.machine.savepoint()
        context = ApplyContext(1, self.index, 0, 1000, bytes(32), bytes(32), 3)
        try:
            result = self.machine.apply(list(command), context)
        except CommandError as exc:
            raise refused(exc.code, exc.message) from exc
        self.hub.stepped()
        assert isinstance(result, list)
        return result

    async def execute(self, command: list[Any], call: Call) -> tuple[m.ResponseHeader, list[Any]]:
        self.keys_of_idempotency.append(call.idempotency_key)
        revision, *result = self.apply(*command)
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        return m.ResponseHeader(revision=revision), result

    async def query(self, query: list[Any], call: Call) -> tuple[m.ResponseHeader, list[Any]]:
        await asyncio.sleep(0)
        revision, *result = self.machine.query(query)
        return m.ResponseHeader(revision=revision), result

    def keys(self) -> list[bytes]:
        query = ["range", b"\0", b"\0", 0, 0, 0, 0, 0, 0, 0, 0, 0]
        return [row[0] for row in self.machine.query(query)[1]]

    async def settled(self) -> None:
        """Let everything run that can."""
        for _ in range(50):
            await asyncio.sleep(0)


def call(deadline: float | None = None) -> Call:
    return Call(grant=GRANT, deadline=deadline, metadata={}, idempotency_key=bytes(32))


def run(test: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        node = Node()
        for lease in (1, 2, 3):
            node.apply("lease-grant", lease, 60)
        await test(node)
        await node.settled()
        assert node.hub.hub.watches == 0
        await node.background.close()
        assert all(one.failures == 0 for one in node.background.reports())

    asyncio.run(main())


def locking(node: Node, lease: int, deadline: float | None = None) -> "asyncio.Task[m.LockResponse]":
    return asyncio.ensure_future(node.lock.lock(m.LockRequest(name=b"n", lease=lease), call(deadline)))


async def refusal(awaitable: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(EtcdError) as caught:
        await awaitable
    return caught.value.code, caught.value.message


# ---- locks --------------------------------------------------------------------------
def test_lck_01_the_lock_goes_to_one_lease_after_another_in_the_order_of_their_keys() -> None:
    async def test(node: Node) -> None:
        first = await locking(node, 1)
        assert first.key == b"n/1"
        second, third = locking(node, 2), locking(node, 3)
        await node.settled()
        assert not second.done()
        assert not third.done()
        await node.lock.unlock(m.UnlockRequest(key=first.key), call())
        assert (await second).key == b"n/2"
        assert not third.done()
        node.apply("lease-revoke", 2)
        assert (await third).key == b"n/3"

    run(test)


def test_lck_01_a_lease_that_has_the_lock_gets_it_again_and_a_free_key_can_be_unlocked() -> None:
    async def test(node: Node) -> None:
        first, again = await locking(node, 1), await locking(node, 1)
        assert (first.key, again.key) == (b"n/1", b"n/1")
        for _ in range(2):
            await node.lock.unlock(m.UnlockRequest(key=first.key), call())
        assert node.keys() == []

    run(test)


def test_lck_01_the_wait_ends_with_the_deadline_and_the_key_goes() -> None:
    async def test(node: Node) -> None:
        await locking(node, 1)
        soon = asyncio.get_running_loop().time() + 0.05
        assert (await refusal(locking(node, 2, soon)))[0] == Code.DEADLINE_EXCEEDED
        await node.settled()
        assert node.keys() == [b"n/1"]

    run(test)


@pytest.mark.parametrize("when", ["while it waits", "while its key is put"])
def test_lck_01_the_key_goes_when_the_call_is_cancelled(when: str) -> None:
    async def test(node: Node) -> None:
        await locking(node, 1)
        if when == "while its key is put":
            node.hold = asyncio.Event()
        waiting = locking(node, 2)
        await node.settled()
        assert node.keys() == [b"n/1", b"n/2"]
        waiting.cancel()
        if node.hold is not None:
            node.hold.set()
        await node.settled()
        assert waiting.cancelled()
        assert node.keys() == [b"n/1"]

    run(test)


def test_a_cancelled_call_takes_no_lock_from_the_call_that_holds_it() -> None:
    async def test(node: Node) -> None:
        await locking(node, 1)
        node.hold = asyncio.Event()
        again = locking(node, 1)
        await node.settled()
        again.cancel()
        node.hold.set()
        await node.settled()
        assert node.keys() == [b"n/1"]

    run(test)


def test_lck_02_an_unknown_lease_is_refused_with_the_code_that_etcd_has_here() -> None:
    async def test(node: Node) -> None:
        assert await refusal(locking(node, 99)) == (2, "etcdserver: requested lease not found")

    run(test)


def test_lck_03_the_revision_that_created_the_key_grows_with_every_holder() -> None:
    async def test(node: Node) -> None:
        tokens = []
        for lease in (1, 2, 1, 3):
            held = await locking(node, lease)
            row = node.machine.query(["range", held.key, b"", 0, 0, 0, 0, 0, 0, 0, 0, 0])[1][0]
            tokens.append(row[2])
            await node.lock.unlock(m.UnlockRequest(key=held.key), call())
        assert tokens == sorted(set(tokens))

    run(test)


def test_a_waiter_whose_lease_ends_gets_no_lock() -> None:
    async def test(node: Node) -> None:
        first = await locking(node, 1)
        second = locking(node, 2)
        await node.settled()
        node.apply("lease-revoke", 2)
        await node.lock.unlock(m.UnlockRequest(key=first.key), call())
        assert await refusal(second) == SESSION_EXPIRED

    run(test)


def test_a_waiter_that_a_compaction_overtakes_looks_again() -> None:
    async def test(node: Node) -> None:
        first = await locking(node, 1)
        second = locking(node, 2)
        await node.settled()
        node.apply("delete", first.key, b"", 0)
        node.apply("put", b"x", b"", 0, 0)
        node.apply("compact", node.machine.revision)
        assert (await second).key == b"n/2"

    run(test)


def test_a_caller_without_a_lease_gets_one_of_a_minute() -> None:
    async def test(node: Node) -> None:
        held = await locking(node, 0)
        lease = int(held.key.removeprefix(b"n/"), 16)
        assert node.machine.query(["lease-ttl", lease, True])[2:] == [LEASE_S, [held.key]]

    run(test)


def test_no_command_of_a_lock_has_the_idempotency_key_of_its_call() -> None:
    async def test(node: Node) -> None:
        await locking(node, 1)
        assert set(node.keys_of_idempotency) == {None}

    run(test)


# ---- elections ------------------------------------------------------------------------
def campaigning(node: Node, lease: int, value: bytes) -> "asyncio.Task[m.CampaignResponse]":
    request = m.CampaignRequest(name=b"e", lease=lease, value=value)
    return asyncio.ensure_future(node.election.campaign(request, call()))


async def leader(node: Node) -> bytes:
    answer = await node.election.leader(m.LeaderRequest(name=b"e"), call())
    assert answer.kv is not None
    return answer.kv.value


def test_ele_01_one_leads_until_it_resigns_and_proclaims_meanwhile() -> None:
    async def test(node: Node) -> None:
        assert await refusal(leader(node)) == (2, "election: no leader")
        first = (await campaigning(node, 1, b"one")).leader
        second = campaigning(node, 2, b"two")
        await node.settled()
        assert not second.done()
        assert await leader(node) == b"one"
        await node.election.proclaim(m.ProclaimRequest(leader=first, value=b"one again"), call())
        assert await leader(node) == b"one again"
        await node.election.resign(m.ResignRequest(leader=first), call())
        assert (await second).leader == m.LeaderKey(
            name=b"e", key=b"e/2", rev=(await second).leader.rev, lease=2
        )
        assert await leader(node) == b"two"
        late = m.ProclaimRequest(leader=first, value=b"late")
        assert await refusal(node.election.proclaim(late, call())) == (2, "election: not leader")
        await node.election.resign(m.ResignRequest(leader=first), call())
        assert await leader(node) == b"two"
        assert (await refusal(node.election.resign(m.ResignRequest(), call())))[0] == 2

    run(test)


def test_a_leader_that_campaigns_again_replaces_its_value() -> None:
    async def test(node: Node) -> None:
        first = await campaigning(node, 1, b"one")
        again = await campaigning(node, 1, b"other")
        assert again.leader == first.leader
        assert await leader(node) == b"other"

    run(test)


def test_ele_01_an_observer_is_sent_each_leader_and_each_value_that_lasts() -> None:
    async def test(node: Node) -> None:
        seen: list[bytes] = []

        async def observe() -> None:
            async for answer in node.election.observe(m.LeaderRequest(name=b"e"), call()):
                assert answer.kv is not None
                seen.append(answer.kv.value)

        observing = asyncio.ensure_future(observe())
        await node.settled()
        assert seen == []
        first = (await campaigning(node, 1, b"one")).leader
        second = campaigning(node, 2, b"two")
        await node.settled()
        await node.election.proclaim(m.ProclaimRequest(leader=first, value=b"more"), call())
        await node.settled()
        node.apply("lease-revoke", 1)
        await second
        await node.settled()
        assert seen == [b"one", b"more", b"two"]
        observing.cancel()
        await asyncio.gather(observing, return_exceptions=True)

    run(test)
