"""``etcdserverpb.Cluster``: membership follows from attestation, so clients only look, and remove."""

from typing import Final, NoReturn

from node.etcd import messages as m
from node.etcd.errors import MEMBER_NOT_FOUND, TOO_FEW_STARTED, Code, EtcdError, not_executed, unknown
from node.etcd.services.backend import Backend, id_of, require
from node.etcd.services.call import Call
from node.peers import Incarnation
from node.raft.types import NotExecuted, Ok, Unknown
from node.system.grants import AccessRole

_BY_ATTESTATION: Final = "bondstone: members join by attestation; see docs/access.md"
# Of a removal: the group cannot spare this member now.
_NOT_SPARED: Final = frozenset({"below-min-voters", "would-lose-quorum", "too-few-copies"})


class ClusterService:
    """See ``node.etcd.services``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def member_list(self, request: m.MemberListRequest, call: Call) -> m.MemberListResponse:  # noqa: ARG002
        require(call, AccessRole.READ, AccessRole.WRITE)
        return m.MemberListResponse(header=self._backend.head(), members=self.members())

    async def member_add(self, request: m.MemberAddRequest, call: Call) -> m.MemberAddResponse:  # noqa: ARG002
        _refuse(call)

    async def member_update(self, request: m.MemberUpdateRequest, call: Call) -> m.MemberUpdateResponse:  # noqa: ARG002
        _refuse(call)

    async def member_promote(
        self,
        request: m.MemberPromoteRequest,  # noqa: ARG002
        call: Call,
    ) -> m.MemberPromoteResponse:
        _refuse(call)

    async def member_remove(self, request: m.MemberRemoveRequest, call: Call) -> m.MemberRemoveResponse:
        """Remove a member for good; it is the leader that can."""
        require(call, AccessRole.ADMIN)
        status = self._backend.view().status
        known = {id_of(one): one for one in (status.me, *status.voters, *status.learners)}
        member = known.get(request.ID)
        if member is None:
            raise EtcdError(*MEMBER_NOT_FOUND)
        outcome = await self._backend.service.remove_member(member, by=call.grant, timeout_s=call.left_s())
        match outcome:
            case Ok():
                return m.MemberRemoveResponse(header=self._backend.head(), members=self.members())
            case NotExecuted(reason) if reason in _NOT_SPARED:
                raise EtcdError(*TOO_FEW_STARTED)
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a removal")

    def members(self) -> list[m.Member]:
        """Return voters and learners, as this node knows them, with the URLs of those it is connected to."""
        service, status = self._backend.service, self._backend.view().status
        mine = service.addresses()
        urls: dict[Incarnation, tuple[tuple[str, ...], str | None]] = {status.me: (mine.bonds, mine.api_url)}
        for bond in service.bonds():
            urls[bond.peer] = (() if bond.address is None else (bond.address,), bond.api_url)
        learners = [one for one in status.learners if one not in status.voters]
        return [
            *(_member(one, *urls.get(one, ((), None)), learner=False) for one in status.voters),
            *(_member(one, *urls.get(one, ((), None)), learner=True) for one in learners),
        ]


def _member(
    member: Incarnation, bond_addresses: tuple[str, ...], api_url: str | None, *, learner: bool
) -> m.Member:
    return m.Member(
        ID=id_of(member),
        name=member.name,
        peerURLs=[f"bond://{address}" for address in bond_addresses],
        clientURLs=[] if api_url is None else [api_url],
        isLearner=learner,
    )


def _refuse(call: Call) -> NoReturn:
    require(call, AccessRole.ADMIN)
    raise EtcdError(Code.UNIMPLEMENTED, _BY_ATTESTATION)
