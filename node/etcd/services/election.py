"""``v3electionpb.Election``."""

from collections.abc import AsyncIterator
from typing import Final

from node.etcd import messages as m
from node.etcd.errors import Code, EtcdError
from node.etcd.services.call import Call
from node.etcd.services.queueing import QueuePlace, Queues, prefix_of
from node.machines.keys import KeyRange
from node.watch.values import WatchOrder

_NO_LEADER: Final = (Code.UNKNOWN, "election: no leader")
_NOT_LEADER: Final = (Code.UNKNOWN, "election: not leader")
_NO_KEY: Final = (Code.UNKNOWN, '"leader" field must be provided')


class ElectionService:
    """See ``node.etcd.services``."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def campaign(self, request: m.CampaignRequest, call: Call) -> m.CampaignResponse:
        """Answer when the lease leads."""
        place = await self._queues.enter(request.name, request.lease, request.value, call)
        if place.value not in (None, request.value):
            await self._replace(place, request.value, call)
        header = await self._queues.wait(request.name, place, call)
        leader = m.LeaderKey(name=request.name, key=place.key, rev=place.revision, lease=place.lease)
        return m.CampaignResponse(header=header, leader=leader)

    async def proclaim(self, request: m.ProclaimRequest, call: Call) -> m.ProclaimResponse:
        """Replace the leader's value, if it still leads."""
        header = await self._replace(_place_of(request.leader), request.value, call)
        return m.ProclaimResponse(header=header)

    async def _replace(self, place: QueuePlace, value: bytes, call: Call) -> m.ResponseHeader:
        header = await self._queues.put(place, value, call)
        if header is None:
            raise EtcdError(*_NOT_LEADER)
        return header

    async def leader(self, request: m.LeaderRequest, call: Call) -> m.LeaderResponse:
        header, leader = await self._queues.first(request.name, call)
        if leader is None:
            raise EtcdError(*_NO_LEADER)
        return m.LeaderResponse(header=header, kv=leader)

    async def resign(self, request: m.ResignRequest, call: Call) -> m.ResignResponse:
        header = await self._queues.leave(_place_of(request.leader), call)
        return m.ResignResponse(header=header)

    async def observe(self, request: m.LeaderRequest, call: Call) -> AsyncIterator[m.LeaderResponse]:
        """Send the leader with its value, and again whenever one of them has changed."""
        keys = KeyRange.of_prefix(prefix_of(request.name))
        sent: tuple[bytes, int] | None = None
        while True:
            header, leader = await self._queues.first(request.name, call)
            if leader is not None and sent != (leader.key, leader.mod_revision):
                sent = (leader.key, leader.mod_revision)
                yield m.LeaderResponse(header=header, kv=leader)
            order = WatchOrder(start=keys.start, end=keys.end, first=header.revision + 1)
            async with self._queues.events(order, call) as answers:
                async for _ in answers:
                    break  # something changed: look again


def _place_of(leader: m.LeaderKey | None) -> QueuePlace:
    if leader is None:
        raise EtcdError(*_NO_KEY)
    return QueuePlace(leader.key, leader.rev, leader.lease, None)
