"""Queues of keys under a prefix, each with a lease: the oldest has the lock, or leads.

The place in the queue is the revision that created the key. So it is a fencing token too: it grows with every
holder.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

from msgspec import Struct

from attestation.background import Background
from node.etcd.errors import (
    LEASE_NOT_FOUND,
    PERMISSION_DENIED,
    SERVER_STOPPED,
    TOO_MANY_REQUESTS,
    Code,
    EtcdError,
)
from node.etcd.messages import KeyValue, ResponseHeader
from node.etcd.services.call import Call
from node.etcd.services.watch import permits_of
from node.machines.keys import KeyRange
from node.watch.driver import Watching
from node.watch.stream import PERMISSION_DENIED as NOT_PERMITTED
from node.watch.values import WatchAnswer, WatchOrder

SESSION_EXPIRED: Final = (Code.UNKNOWN, "mutex: session is expired")
LEASE_S: Final = 60  # of the lease that is made for a caller without one, as etcd has it
_CREATE: Final = 1  # a compare's target
_EQUAL: Final = 0
_ASCEND: Final = 1
_DESCEND: Final = 2


class QueueNode(Protocol):
    """What queues need of the node; ``node.etcd.services.backend.Backend`` has it."""

    async def execute(self, command: list[Any], call: Call) -> tuple[ResponseHeader, list[Any]]: ...
    async def query(self, query: list[Any], call: Call) -> tuple[ResponseHeader, list[Any]]: ...
    def watching(self) -> Watching: ...


class QueuePlace(Struct, frozen=True):
    """A key in a queue.

    Attributes:
        revision: that created it.
        lease: the key's.
        value: what it held when it was found; None: it was put now, as was wished.
    """

    key: bytes
    revision: int
    lease: int
    value: bytes | None


def prefix_of(name: bytes) -> bytes:
    """Return what every key of this queue begins with."""
    return name + b"/"


class Queues:
    """The queues of a group, for their two services."""

    def __init__(self, node: QueueNode, background: Background) -> None:
        self._node = node
        self._background = background

    async def enter(self, name: bytes, lease: int, value: bytes, call: Call) -> QueuePlace:
        """Take a place in the queue, or find the one that the lease has.

        Without a lease there is a new one, which nobody renews. A call that is cancelled leaves no place.

        Raises:
            EtcdError: UNKNOWN if there is no such lease, as etcd has it here.
        """
        entered: asyncio.Future[QueuePlace] = asyncio.get_running_loop().create_future()
        self._background.once("queue-enter", self._entering(entered, name, lease, value, call))
        try:
            return await entered
        except asyncio.CancelledError:
            if entered.done() and not entered.cancelled() and entered.exception() is None:
                self._background.once("queue-leave", self._leave(entered.result(), call))
            raise

    async def _entering(
        self, entered: "asyncio.Future[QueuePlace]", name: bytes, lease: int, value: bytes, call: Call
    ) -> None:
        try:
            place = await self._enter(name, lease, value, call)
        except EtcdError as exc:
            if not entered.done():
                entered.set_exception(exc)
            return
        if not entered.done():
            entered.set_result(place)
        elif place.value is None:
            await self._leave(place, call)

    async def _enter(self, name: bytes, lease: int, value: bytes, call: Call) -> QueuePlace:
        if lease == 0:
            _, (lease, _) = await self._execute(["lease-grant", 0, LEASE_S], call)
        key = prefix_of(name) + b"%x" % lease
        command = ["txn", [_created(key, 0)], [["put", key, value, lease, 0]], [_range(key)]]
        try:
            header, (entered, responses) = await self._execute(command, call)
        except EtcdError as exc:
            if (exc.code, exc.message) == LEASE_NOT_FOUND:
                raise EtcdError(Code.UNKNOWN, exc.message) from exc
            raise
        if entered:
            return QueuePlace(key, header.revision, lease, None)
        row = responses[0][1][0]
        return QueuePlace(key, row[2], lease, row[1])

    async def _execute(self, command: list[Any], call: Call) -> tuple[ResponseHeader, list[Any]]:
        # One key of idempotency cannot stand for the several commands of a call.
        return await self._node.execute(command, replace(call, idempotency_key=None))

    async def wait(self, name: bytes, place: QueuePlace, call: Call) -> ResponseHeader:
        """Return when every older key is gone. The key goes if the wait ends otherwise.

        Raises:
            EtcdError: the deadline is over, or the key is gone.
        """
        try:
            async with asyncio.timeout_at(call.deadline):
                while True:
                    header, older = await self._newest_before(name, place, call)
                    if older is None:
                        break
                    await self._gone(older, header.revision, call)
                header, (rows, _, _) = await self._node.query(_range(place.key), call)
        except BaseException as exc:
            self._background.once("queue-leave", self._leave(place, call))
            if isinstance(exc, TimeoutError):
                raise EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from exc
            raise
        if not rows or rows[0][2] != place.revision:
            raise EtcdError(*SESSION_EXPIRED)
        return header

    async def put(self, place: QueuePlace, value: bytes, call: Call) -> ResponseHeader | None:
        """Replace what the key holds; None: the key is gone, or another one is there."""
        command = [
            "txn",
            [_created(place.key, place.revision)],
            [["put", place.key, value, place.lease, 0]],
            [],
        ]
        header, (done, _) = await self._execute(command, call)
        return header if done else None

    async def leave(self, place: QueuePlace, call: Call) -> ResponseHeader:
        """Delete the key, unless another one is there by now."""
        command = ["txn", [_created(place.key, place.revision)], [["delete", place.key, b"", 0]], []]
        header, _ = await self._execute(command, call)
        return header

    async def _leave(self, place: QueuePlace, call: Call) -> None:
        await self.leave(place, replace(call, deadline=None))

    async def first(self, name: bytes, call: Call) -> tuple[ResponseHeader, KeyValue | None]:
        """Return the oldest key of the queue."""
        header, (rows, _, _) = await self._node.query(_oldest(name), call)
        return header, _key_value(rows[0]) if rows else None

    async def _newest_before(
        self, name: bytes, place: QueuePlace, call: Call
    ) -> tuple[ResponseHeader, bytes | None]:
        header, (rows, _, _) = await self._node.query(_newest(name, place.revision - 1), call)
        return header, rows[0][0] if rows else None

    async def _gone(self, key: bytes, revision: int, call: Call) -> None:
        """Return when ``key`` was deleted after ``revision``, or must be looked at again."""
        order = WatchOrder(start=key, end=key + b"\x00", first=revision + 1, puts=False)
        async with self.events(order, call) as answers:
            async for answer in answers:
                if answer.changes or answer.canceled:
                    return

    @asynccontextmanager
    async def events(self, order: WatchOrder, call: Call) -> AsyncIterator[AsyncIterator[WatchAnswer]]:
        """Yield the answers of one watch: changes until it ends, and then its end."""
        watching = self._node.watching()
        stream, waker = watching.attach(call.grant.credential, permits_of(call.grant))

        async def answers() -> AsyncGenerator[WatchAnswer, None]:
            now_s = asyncio.get_running_loop().time
            while not stream.lost:
                while stream.ready:
                    answer = stream.take(now_s())
                    if answer is None:
                        await asyncio.sleep(0)
                    elif answer.created and answer.canceled:
                        denied = answer.reason == NOT_PERMITTED
                        raise EtcdError(*(PERMISSION_DENIED if denied else TOO_MANY_REQUESTS))
                    elif not answer.created:
                        yield answer
                waker.clear()
                await waker.wait()
            raise EtcdError(*SERVER_STOPPED)

        try:
            stream.create(order, asyncio.get_running_loop().time())
            async with aclosing(answers()) as received:
                yield received
        finally:
            watching.close(stream)


def _created(key: bytes, revision: int) -> list[Any]:
    return [_CREATE, _EQUAL, key, b"", revision]


def _range(key: bytes) -> list[Any]:
    return ["range", key, b"", 0, 0, 0, 0, 0, 0, 0, 0, 0]


def _oldest(name: bytes) -> list[Any]:
    return _of_prefix(name, _ASCEND, 0)


def _newest(name: bytes, revision_max: int) -> list[Any]:
    return _of_prefix(name, _DESCEND, revision_max)


def _of_prefix(name: bytes, order: int, created_max: int) -> list[Any]:
    keys = KeyRange.of_prefix(prefix_of(name))
    assert keys.end is not None, "it ends with a slash"
    by_create = 2
    return ["range", keys.start, keys.end, 1, 0, order, by_create, 0, 0, 0, 0, created_max]


def _key_value(row: list[Any]) -> KeyValue:
    key, value, created, modified, version, lease = row
    return KeyValue(
        key=key, value=value, create_revision=created, mod_revision=modified, version=version, lease=lease
    )
