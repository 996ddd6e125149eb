"""``etcdserverpb.Maintenance``."""

from collections.abc import AsyncIterator
from typing import Final

from node.etcd import messages as m
from node.etcd.errors import BAD_TRANSFEREE, NO_LEADER, NOT_LEADER, Code, EtcdError, not_executed, unknown
from node.etcd.services.backend import Backend, id_of, require
from node.etcd.services.call import Call
from node.raft.types import NotExecuted, Ok, Unknown
from node.system.grants import AccessRole

# The release of etcd whose contract this is. Kubernetes asks for 3.5.13 at least.
VERSION: Final = "3.5.21"
_ONLY_ENCRYPTED: Final = "bondstone: the state leaves only encrypted, and not by this method"


class MaintenanceService:
    """See ``node.etcd.services``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def status(self, request: m.StatusRequest, call: Call) -> m.StatusResponse:  # noqa: ARG002
        require(call, AccessRole.READ, AccessRole.METRICS)
        status = self._backend.view().status
        size, in_use, full = self._size()
        errors = [str(NO_LEADER[1])] if status.leader is None else []
        if full:
            errors.append(f"memberID:{id_of(status.me)} alarm:NOSPACE ")
        return m.StatusResponse(
            header=self._backend.head(),
            version=VERSION,
            dbSize=size,
            dbSizeInUse=in_use,
            leader=0 if status.leader is None else id_of(status.leader),
            raftIndex=status.commit.index,
            raftTerm=status.term,
            raftAppliedIndex=status.applied,
            errors=errors,
            isLearner=status.me not in status.voters,
        )

    async def hash(self, request: m.HashRequest, call: Call) -> m.HashResponse:  # noqa: ARG002
        header, (digest, _) = await self._backend.query(["hashkv", 0], call)
        return m.HashResponse(header=header, hash=digest)

    async def hash_kv(self, request: m.HashKVRequest, call: Call) -> m.HashKVResponse:
        header, (digest, floor) = await self._backend.query(["hashkv", request.revision], call)
        return m.HashKVResponse(header=header, hash=digest, compact_revision=floor)

    async def alarm(self, request: m.AlarmRequest, call: Call) -> m.AlarmResponse:
        """List the alarms. A request to end one is taken: NOSPACE ends by itself when there is room."""
        if request.action == m.AlarmAction.GET:
            require(call, AccessRole.READ)
            status = self._backend.view().status
            full = request.alarm in (m.AlarmType.NONE, m.AlarmType.NOSPACE) and self._size()[2]
            alarms = [m.AlarmMember(memberID=id_of(status.me), alarm=m.AlarmType.NOSPACE)] if full else []
            return m.AlarmResponse(header=self._backend.head(), alarms=alarms)
        require(call, AccessRole.ADMIN)
        if request.action != m.AlarmAction.DEACTIVATE:
            raise EtcdError(Code.UNIMPLEMENTED, "bondstone: alarms begin and end with their cause")
        return m.AlarmResponse(header=self._backend.head())

    async def defragment(self, request: m.DefragmentRequest, call: Call) -> m.DefragmentResponse:  # noqa: ARG002
        """Answer at once: there is no file to make smaller."""
        require(call, AccessRole.ADMIN)
        return m.DefragmentResponse(header=self._backend.head())

    async def move_leader(self, request: m.MoveLeaderRequest, call: Call) -> m.MoveLeaderResponse:
        require(call, AccessRole.ADMIN)
        view = self._backend.view()
        if view.leading is None:
            raise EtcdError(*NOT_LEADER)
        voters = {id_of(one): one for one in view.status.voters if one != view.status.me}
        target = voters.get(request.targetID)
        if target is None:
            raise EtcdError(*BAD_TRANSFEREE)
        outcome = await self._backend.service.transfer_leadership(target, by=call.grant)
        match outcome:
            case Ok():
                return m.MoveLeaderResponse(header=self._backend.head())
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a transfer")

    def snapshot(self, request: m.SnapshotRequest, call: Call) -> AsyncIterator[m.SnapshotResponse]:  # noqa: ARG002
        """Refuse every caller: the answer would be the whole state in clear."""
        raise EtcdError(Code.PERMISSION_DENIED, _ONLY_ENCRYPTED)

    async def downgrade(self, request: m.DowngradeRequest, call: Call) -> m.DowngradeResponse:  # noqa: ARG002
        require(call, AccessRole.ADMIN)
        raise EtcdError(
            Code.UNIMPLEMENTED,
            "bondstone: a group does not go back to an older release; see docs/features.md",
        )

    def _size(self) -> tuple[int, int, bool]:
        """Return the bytes of the store, those in use, and whether it is full."""
        match self._backend.machine().query(["store"]):
            case [_, _, _, int() as size, int() as in_use, bool() as full]:
                return size, in_use, full
            case other:
                raise AssertionError(f"{other!r} is not the machine's answer")
