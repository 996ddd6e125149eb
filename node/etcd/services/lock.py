"""``v3lockpb.Lock``."""

from node.etcd import messages as m
from node.etcd.services.call import Call
from node.etcd.services.queueing import QueueNode, Queues


class LockService:
    """See ``node.etcd.services``. The lock's key was created at its fencing token."""

    def __init__(self, node: QueueNode, queues: Queues) -> None:
        self._node = node
        self._queues = queues

    async def lock(self, request: m.LockRequest, call: Call) -> m.LockResponse:
        """Answer when the lease has the lock; a lease that has it gets it again at once."""
        place = await self._queues.enter(request.name, request.lease, b"", call)
        header = await self._queues.wait(request.name, place, call)
        return m.LockResponse(header=header, key=place.key)

    async def unlock(self, request: m.UnlockRequest, call: Call) -> m.UnlockResponse:
        header, _ = await self._node.execute(["delete", request.key, b"", 0], call)
        return m.UnlockResponse(header=header)
