"""``etcdserverpb.Watch``, over a small store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from attestation.background import Background
from node.api.problems import ProblemError
from node.etcd import messages as m
from node.etcd.errors import NO_LEADER, PERMISSION_DENIED, SERVER_STOPPED, EtcdError
from node.etcd.services.call import Call
from node.etcd.services.watch import ELECTIONS, WatchService
from node.system.access_list import AccessList
from node.system.grants import AccessRole, CredentialKind, Grant
from node.watch.driver import Watching
from node.watch.stream import WAITING_MAX
from tests.node.watch.histories import SmallStore

ELECTION_S = 0.02


def grant(*roles: AccessRole, prefixes: tuple[bytes, ...] = (), expires_ms: int | None = None) -> Grant:
    return Grant(
        name="someone",
        kind=CredentialKind.TOKEN,
        credential=bytes(32),
        roles=roles,
        prefixes=prefixes,
        expires_ms=expires_ms,
    )


READER = grant(AccessRole.READ)


class Node:
    def __init__(self) -> None:
        self.store = SmallStore()
        self.cluster = "first"
        self.hub = Watching(self.store, lambda: self.cluster)
        self.list = AccessList((READER,))
        self.now = 1000
        self.led = True
        self.current = True

    def watching(self) -> Watching:
        return self.hub

    def grants(self) -> AccessList:
        return self.list

    def now_ms(self) -> int:
        return self.now

    def leaderless(self) -> bool:
        return not self.led

    async def require_current(self) -> None:
        if not self.current:
            raise ProblemError("access-not-current", "no leader")

    def header(self, revision: int) -> m.ResponseHeader:
        return m.ResponseHeader(cluster_id=1, member_id=2, revision=revision, raft_term=3)

    def write(self, *pairs: tuple[bytes, bytes | None]) -> None:
        self.store.write(*pairs)
        self.hub.stepped()


class Client:
    """One stream: ``send`` requests, ``receive`` one answer."""

    def __init__(self, node: Node, background: Background, call: Call) -> None:
        self.requests: asyncio.Queue[m.WatchRequest | None] = asyncio.Queue()
        service = WatchService(node, background, election_timeout_s=ELECTION_S)
        self.answers = service.watch(self._requests(), call)
        self.taken = 0

    async def _requests(self) -> AsyncIterator[m.WatchRequest]:
        while (request := await self.requests.get()) is not None:
            self.taken += 1
            yield request

    def create(self, key: bytes, **options: object) -> None:
        create = m.WatchCreateRequest(key=key, **options)  # type: ignore[arg-type]
        self.requests.put_nowait(m.WatchRequest(create_request=create))

    async def receive(self) -> m.WatchResponse:
        return await asyncio.wait_for(anext(self.answers), 30)


@asynccontextmanager
async def opened(
    node: Node, *, metadata: dict[str, str] | None = None, of: Grant = READER
) -> AsyncIterator[Client]:
    background = Background()
    call = Call(grant=of, deadline=None, metadata=metadata or {}, idempotency_key=None)
    client = Client(node, background, call)
    async with aclosing(client.answers):
        yield client
    await background.close()
    assert all(one.failures == 0 for one in background.reports())


def run(test: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        node = Node()
        await test(node)
        assert (node.hub.hub.watches, node.hub.hub.bytes_used) == (0, 0)

    asyncio.run(main())


def test_wch_06_a_put_is_whole_and_a_deletion_has_key_and_revision() -> None:
    async def test(node: Node) -> None:
        async with opened(node) as client:
            client.create(b"a", prev_kv=True)
            created = await client.receive()
            assert (created.created, created.watch_id, created.header.revision) == (True, 0, 1)
            node.write((b"a", b"1"))
            node.write((b"a", b"2"))
            node.write((b"a", None))
            events = []
            while len(events) < 3:
                events += (await client.receive()).events
        first = m.KeyValue(key=b"a", value=b"1", create_revision=2, mod_revision=2, version=1)
        second = m.KeyValue(key=b"a", value=b"2", create_revision=2, mod_revision=3, version=2)
        assert events == [
            m.Event(type=0, kv=first),
            m.Event(type=0, kv=second, prev_kv=first),
            m.Event(type=1, kv=m.KeyValue(key=b"a", mod_revision=4), prev_kv=second),
        ]

    run(test)


@pytest.mark.parametrize(
    ("key", "range_end", "seen"),
    [
        (b"b", b"", [b"b"]),
        (b"b", b"\0", [b"b", b"c"]),
        (b"b", b"c", [b"b"]),
        (b"", b"\0", [b"a", b"b", b"c"]),
        (b"", b"b", [b"a"]),
    ],
)
def test_wch_10_a_range_is_that_of_a_read(key: bytes, range_end: bytes, seen: list[bytes]) -> None:
    async def test(node: Node) -> None:
        async with opened(node) as client:
            client.create(key, range_end=range_end)
            await client.receive()
            node.write((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
            answer = await client.receive()
            assert [event.kv.key for event in answer.events if event.kv] == seen

    run(test)


def test_wch_05_a_compacted_start_is_answered_with_the_floor_and_no_revision() -> None:
    async def test(node: Node) -> None:
        for number in range(5):
            node.store.write((b"a", b"%d" % number))
        node.store.compact(4)
        async with opened(node) as client:
            client.create(b"a", start_revision=2)
            assert (await client.receive()).created
            cut = await client.receive()
            assert (cut.canceled, cut.compact_revision, cut.header.revision, cut.cancel_reason) == (
                True,
                4,
                0,
                "",
            )

    run(test)


def test_wch_15_a_half_closed_stream_goes_on() -> None:
    async def test(node: Node) -> None:
        async with opened(node) as client:
            client.create(b"a")
            client.requests.put_nowait(None)
            await client.receive()
            node.write((b"a", b"1"))
            assert len((await client.receive()).events) == 1

    run(test)


def test_wch_14_a_client_that_needs_a_leader_is_sent_away_without_one() -> None:
    async def test(node: Node) -> None:
        needs = {"hasleader": "true"}
        async with opened(node, metadata=needs) as needing, opened(node) as patient:
            for client in (needing, patient):
                client.create(b"a")
                assert (await client.receive()).created
            node.led = False
            began = asyncio.get_running_loop().time()
            with pytest.raises(EtcdError) as ended:
                await needing.receive()
            assert (ended.value.code, ended.value.message) == NO_LEADER
            assert asyncio.get_running_loop().time() - began >= ELECTIONS * ELECTION_S
            node.write((b"a", b"1"))
            assert (await patient.receive()).events
        async with opened(node, metadata=needs) as late:
            with pytest.raises(EtcdError):
                await late.receive()

    run(test)


def test_wch_17_a_watch_beyond_the_prefixes_of_its_client_is_refused() -> None:
    async def test(node: Node) -> None:
        of = grant(AccessRole.READ, prefixes=(b"mine/",))
        node.list = AccessList((of,))
        async with opened(node, of=of) as client:
            client.create(b"mine/", range_end=b"mine0")
            client.create(b"mine/", range_end=b"\0")
            client.create(b"mine/", range_end=b"mine1")
            client.create(b"other")
            answers = [await client.receive() for _ in range(4)]
            assert [one.canceled for one in answers] == [False, True, True, True]
            assert {one.cancel_reason for one in answers[1:]} == {"etcdserver: permission denied"}
            assert {one.watch_id for one in answers[1:]} == {-1}

    run(test)


@pytest.mark.parametrize("ending", ["revoked", "narrowed", "expired"])
def test_wch_17_a_watch_ends_when_the_right_ends(ending: str) -> None:
    async def test(node: Node) -> None:
        of = grant(AccessRole.READ, expires_ms=2000)
        node.list = AccessList((of,))
        async with opened(node, of=of) as client:
            client.create(b"a")
            assert (await client.receive()).created
            match ending:
                case "revoked":
                    node.list = AccessList(())
                case "narrowed":
                    node.list = AccessList((grant(AccessRole.READ, prefixes=(b"b",), expires_ms=2000),))
                case "expired":
                    node.now = 2000
            node.write((b"a", b"secret"))
            ended = await client.receive()
            assert (ended.canceled, ended.cancel_reason) == (True, "etcdserver: permission denied")
            assert ended.events == []

    run(test)


def test_wch_17_a_caller_without_the_role_to_read_has_no_stream() -> None:
    async def test(node: Node) -> None:
        of = grant(AccessRole.WRITE)
        node.list = AccessList((of,))
        async with opened(node, of=of) as client:
            with pytest.raises(EtcdError) as refused:
                await client.receive()
            assert (refused.value.code, refused.value.message) == PERMISSION_DENIED

    run(test)


def test_no_watch_begins_while_the_access_list_is_not_current() -> None:
    async def test(node: Node) -> None:
        node.current = False
        async with opened(node) as client:
            client.create(b"a")
            with pytest.raises(EtcdError) as refused:
                await client.receive()
            assert (refused.value.code, refused.value.message) == NO_LEADER

    run(test)


@pytest.mark.parametrize("how", ["another cluster", "an older state"])
def test_a_stream_ends_when_the_history_is_another_one(how: str) -> None:
    async def test(node: Node) -> None:
        node.store.write((b"a", b"1"))
        async with opened(node) as client:
            client.create(b"a")
            await client.receive()
            if how == "another cluster":
                node.cluster = "second"
            else:
                node.store.revision = 1
            node.hub.stepped()
            with pytest.raises(EtcdError) as ended:
                await client.receive()
            assert (ended.value.code, ended.value.message) == SERVER_STOPPED

    run(test)


def test_a_client_that_sends_and_never_reads_is_not_read_from() -> None:
    async def test(node: Node) -> None:
        async with opened(node) as client:
            client.create(b"a")
            await client.receive()
            for _ in range(10 * WAITING_MAX):
                client.create(b"a")
            for _ in range(20 * WAITING_MAX):
                await asyncio.sleep(0)
            assert client.taken <= WAITING_MAX + 2
            answers = [await client.receive() for _ in range(10 * WAITING_MAX)]
            assert [one.watch_id for one in answers] == list(range(1, 10 * WAITING_MAX + 1))

    run(test)


def test_ten_thousand_watches_on_one_stream_are_answered_and_another_stream_meanwhile() -> None:
    async def test(node: Node) -> None:
        async with opened(node) as many, opened(node) as other:
            for number in range(10_000):
                many.create(b"k%d" % number)
            other.create(b"other")
            assert (await other.receive()).created
            for number in range(10_000):
                assert (await many.receive()).watch_id == number
            node.write((b"other", b"1"), (b"k9999", b"1"))
            assert (await other.receive()).events
            assert (await many.receive()).watch_id == 9999

    run(test)
