"""``etcdserverpb.Lease``."""

from node.etcd import messages as m
from node.etcd.services.backend import Backend
from node.etcd.services.call import Call


class LeaseService:
    """See ``node.etcd.services``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def grant(self, request: m.LeaseGrantRequest, call: Call) -> m.LeaseGrantResponse:
        header, (lease_id, ttl_s) = await self._backend.execute(
            ["lease-grant", request.ID, request.TTL], call
        )
        return m.LeaseGrantResponse(header=header, ID=lease_id, TTL=ttl_s)

    async def revoke(self, request: m.LeaseRevokeRequest, call: Call) -> m.LeaseRevokeResponse:
        header, _ = await self._backend.execute(["lease-revoke", request.ID], call)
        return m.LeaseRevokeResponse(header=header)

    async def time_to_live(self, request: m.LeaseTimeToLiveRequest, call: Call) -> m.LeaseTimeToLiveResponse:
        query = ["lease-ttl", request.ID, request.keys]
        header, (remaining_s, granted_s, keys) = await self._backend.query(query, call)
        return m.LeaseTimeToLiveResponse(
            header=header, ID=request.ID, TTL=remaining_s, grantedTTL=granted_s, keys=keys
        )

    async def leases(self, request: m.LeaseLeasesRequest, call: Call) -> m.LeaseLeasesResponse:  # noqa: ARG002
        header, (ids,) = await self._backend.query(["leases"], call)
        return m.LeaseLeasesResponse(header=header, leases=[m.LeaseStatus(ID=one) for one in ids])
