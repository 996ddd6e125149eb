"""``etcdserverpb.Watch``."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from attestation.background import Background
from node.api.problems import ProblemError
from node.etcd import messages as m
from node.etcd.errors import NO_LEADER, PERMISSION_DENIED, SERVER_STOPPED, EtcdError
from node.etcd.services.call import Call
from node.machines.base import CommandError
from node.machines.keys import KeyRange
from node.system.access_list import AccessList
from node.system.grants import AccessRole, Grant
from node.watch.driver import Watching
from node.watch.history import WatchedChange, WatchedVersion
from node.watch.values import WatchAnswer, WatchOrder

LOOK_S: Final = 0.5  # how often an idle stream looks at its rights, the leader and the time
ELECTIONS: Final = 3  # without a leader for this many election timeouts, `hasleader` ends the stream
_ANSWERS_PER_TURN: Final = 32  # the event loop serves others after this many
_EVERYTHING: Final = b"\x00"


class WatchedNode(Protocol):
    """What the service needs of the node."""

    def watching(self) -> Watching:
        """Return the node's watches.

        Raises:
            EtcdError: there is no group, or its machine cannot be watched.
        """
        ...

    def grants(self) -> AccessList: ...
    def now_ms(self) -> int: ...
    def leaderless(self) -> bool: ...
    async def require_current(self) -> None:
        """Return if the access list is current enough (``node.api.access.AccessGate.require_current``)."""
        ...

    def header(self, revision: int) -> m.ResponseHeader: ...


class WatchService:
    """See ``node.etcd.services``.

    Args:
        election_timeout_s: of the group.
    """

    def __init__(self, node: WatchedNode, background: Background, *, election_timeout_s: float) -> None:
        self._node = node
        self._background = background
        self._patience_s = ELECTIONS * election_timeout_s

    async def watch(
        self, requests: AsyncIterator[m.WatchRequest], call: Call
    ) -> AsyncIterator[m.WatchResponse]:
        """Answer requests and send events, until the client ends the call. A half-closed one goes on.

        Raises:
            EtcdError: there is no leader and the client needs one, or this node's history is another one now.
        """
        session = _Session(self._node, call, self._patience_s)
        reading = self._background.once("watch-requests", session.read(requests))
        try:
            while True:
                for _ in range(_ANSWERS_PER_TURN):
                    session.require_good()
                    answer = session.take()
                    if answer is None:
                        break
                    yield response_of(answer, self._node.header(answer.revision))
                await session.wait()
        finally:
            reading.cancel()
            session.close()


class _Session:
    """One call of ``watch``."""

    def __init__(self, node: WatchedNode, call: Call, patience_s: float) -> None:
        self._node = node
        self._credential = call.grant.credential
        self._grant: Grant | None = call.grant
        self._patience_s = patience_s
        self._needs_leader = call.metadata.get("hasleader") == "true"
        self._now_s = asyncio.get_running_loop().time
        self._led_s = self._now_s()
        self._failed: EtcdError | None = None
        self._room = asyncio.Event()
        if self._needs_leader and node.leaderless():
            raise EtcdError(*NO_LEADER)
        if not call.grant.carries(AccessRole.READ):
            raise EtcdError(*PERMISSION_DENIED)
        self._watching = node.watching()
        self._stream, self._waker = self._watching.attach(self._credential, permits_of(call.grant))

    # ---- requests -----------------------------------------------------------
    async def read(self, requests: AsyncIterator[m.WatchRequest]) -> None:
        """Take the client's requests, as fast as it takes the answers."""
        try:
            async for request in requests:
                while self._stream.full:
                    self._room.clear()
                    await self._room.wait()
                await self._take(request)
                self._waker.set()
        except EtcdError as exc:
            self._failed = exc
            self._waker.set()

    async def _take(self, request: m.WatchRequest) -> None:
        if request.create_request is not None:
            try:
                await self._node.require_current()
            except ProblemError as exc:
                raise EtcdError(*NO_LEADER) from exc
            self._judge()
            self._watching.look()
            self._stream.create(order_of(request.create_request), self._now_s())
        elif request.cancel_request is not None:
            self._stream.cancel(request.cancel_request.watch_id)
        elif request.progress_request is not None:
            self._stream.ask_progress()

    # ---- answers --------------------------------------------------------------
    def require_good(self) -> None:
        """Return if the stream may go on; watches whose right has ended end here.

        Raises:
            EtcdError: it may not.
        """
        if self._failed is not None:
            raise self._failed
        if self._stream.lost:
            raise EtcdError(*SERVER_STOPPED)
        self._judge()
        if self._needs_leader:
            now_s = self._now_s()
            if not self._node.leaderless():
                self._led_s = now_s
            elif now_s - self._led_s >= self._patience_s:
                raise EtcdError(*NO_LEADER)

    def _judge(self) -> None:
        grant = self._node.grants().of_credential(self._credential)
        if grant is not None and grant.expired(self._node.now_ms()):
            grant = None
        if grant is not self._grant:
            self._grant = grant
            self._stream.judge(permits_of(grant))

    def take(self) -> WatchAnswer | None:
        """Return the next answer, if there is one at once."""
        answer = self._stream.take(self._now_s())
        if not self._stream.full:
            self._room.set()
        return answer

    async def wait(self) -> None:
        """Return when there may be an answer, or when it is time to look."""
        if self._stream.ready or self._failed is not None:
            await asyncio.sleep(0)
            return
        self._waker.clear()
        try:
            async with asyncio.timeout(LOOK_S):
                await self._waker.wait()
        except TimeoutError:
            self._stream.tick(self._now_s())

    def close(self) -> None:
        """End all watches."""
        self._watching.close(self._stream)


def permits_of(grant: Grant | None) -> Callable[[bytes, bytes | None], bool]:
    """Return what judges whether a caller with this grant may read a whole range; None permits nothing."""

    def permits(start: bytes, end: bytes | None) -> bool:
        if grant is None:
            return False
        try:
            grant.permit_reading(KeyRange(start, end))
        except CommandError:
            return False
        return True

    return permits


def order_of(request: m.WatchCreateRequest) -> WatchOrder:
    """Return what is asked for, with the range as the store has ranges."""
    start = request.key or _EVERYTHING
    end: bytes | None = request.range_end or start + b"\x00"
    if request.range_end == _EVERYTHING:
        end = None
    return WatchOrder(
        start=start,
        end=end,
        first=request.start_revision,
        watch_id=request.watch_id,
        puts=m.WatchFilter.NOPUT not in request.filters,
        deletes=m.WatchFilter.NODELETE not in request.filters,
        before=request.prev_kv,
        notify=request.progress_notify,
        fragment=request.fragment,
    )


def response_of(answer: WatchAnswer, header: m.ResponseHeader) -> m.WatchResponse:
    """Return an answer as etcd's clients know it."""
    return m.WatchResponse(
        header=header,
        watch_id=answer.watch_id,
        created=answer.created,
        canceled=answer.canceled,
        compact_revision=answer.compact_revision,
        cancel_reason=answer.reason,
        fragment=answer.more,
        events=[_event_of(change, before=answer.before) for change in answer.changes],
    )


def _event_of(change: WatchedChange, *, before: bool) -> m.Event:
    version = change.version
    previous = _key_value(change.key, change.before) if before and change.before is not None else None
    if version is None:
        kv = m.KeyValue(key=change.key, mod_revision=change.revision)
        return m.Event(type=m.EventType.DELETE, kv=kv, prev_kv=previous)
    return m.Event(kv=_key_value(change.key, version), prev_kv=previous)


def _key_value(key: bytes, held: WatchedVersion) -> m.KeyValue:
    return m.KeyValue(
        key=key,
        create_revision=held.create_revision,
        mod_revision=held.mod_revision,
        version=held.version,
        value=held.value,
        lease=held.lease,
    )
