"""Every method of etcd's API, once: gRPC, the gateway, authorization and limits are made from this table."""

from enum import Enum
from typing import Final, TypeAlias

from msgspec import Struct

from node.api.access import Standing
from node.etcd import auth_messages as a
from node.etcd import messages as m
from node.etcd.messages import Message
from node.system.grants import AccessRole

READ: Final = (AccessRole.READ,)
WRITE: Final = (AccessRole.WRITE,)
ANY: Final[tuple[AccessRole, ...]] = ()
ADMIN: Final = (AccessRole.ADMIN,)
PUBLIC: Final = None  # without credentials
Access: TypeAlias = tuple[AccessRole, ...] | None


class CallKind(Enum):
    """How many messages there are: one and one, one and a stream, two streams."""

    UNARY = "unary"
    ANSWERS = "answers"
    BOTH = "both"


class Method(Struct, frozen=True, kw_only=True):
    """One method.

    Attributes:
        service, name: in gRPC's path.
        handler: the name of the function of the service.
        access: the caller needs one of these roles; any, if there are none. None: no credentials are needed.
        standing: how current the access list must be.
        paths: of the JSON gateway, behind ``/v3`` and ``/v3beta``.
        keyed: an idempotency key makes it exactly once.
    """

    service: str
    name: str
    handler: str
    request: type[Message]
    response: type[Message]
    kind: CallKind = CallKind.UNARY
    access: Access
    standing: Standing = Standing.CURRENT
    paths: tuple[str, ...] = ()
    keyed: bool = False

    @property
    def path(self) -> str:
        """The path of gRPC."""
        return f"/{self.service}/{self.name}"


_KV: Final = "etcdserverpb.KV"
_LEASE: Final = "etcdserverpb.Lease"
_CLUSTER: Final = "etcdserverpb.Cluster"
_MAINTENANCE: Final = "etcdserverpb.Maintenance"
_AUTH: Final = "etcdserverpb.Auth"
_LOCK: Final = "v3lockpb.Lock"
_ELECTION: Final = "v3electionpb.Election"
_HEALTH: Final = "grpc.health.v1.Health"
_JUDGED: Final = Standing.JUDGED


def _auth(name: str, path: str, request: type[Message], response: type[Message]) -> Method:
    """Return a method of which etcd's users and roles are made: they are kept in the access list."""
    return Method(
        service=_AUTH,
        name=name,
        handler="refuse",
        request=request,
        response=response,
        access=ADMIN,
        paths=(f"/auth/{path}",),
    )


def _lock(
    name: str, handler: str, request: type[Message], response: type[Message], access: Access = WRITE
) -> Method:
    part = "lock" if name in {"Lock", "Unlock"} else "election"
    return Method(
        service=_LOCK if part == "lock" else _ELECTION,
        name=name,
        handler=handler,
        request=request,
        response=response,
        access=access,
        kind=CallKind.ANSWERS if name == "Observe" else CallKind.UNARY,
        standing=_JUDGED,
        paths=(f"/{part}/{handler}",),
    )


METHODS: Final = (
    Method(
        service=_KV,
        name="Range",
        handler="range",
        request=m.RangeRequest,
        response=m.RangeResponse,
        access=READ,
        standing=_JUDGED,
        paths=("/kv/range",),
    ),
    Method(
        service=_KV,
        name="Put",
        handler="put",
        request=m.PutRequest,
        response=m.PutResponse,
        access=WRITE,
        standing=_JUDGED,
        paths=("/kv/put",),
        keyed=True,
    ),
    Method(
        service=_KV,
        name="DeleteRange",
        handler="delete_range",
        request=m.DeleteRangeRequest,
        response=m.DeleteRangeResponse,
        access=WRITE,
        standing=_JUDGED,
        paths=("/kv/deleterange",),
        keyed=True,
    ),
    Method(
        service=_KV,
        name="Txn",
        handler="txn",
        request=m.TxnRequest,
        response=m.TxnResponse,
        access=(AccessRole.READ, AccessRole.WRITE),
        standing=_JUDGED,
        paths=("/kv/txn",),
        keyed=True,
    ),
    Method(
        service=_KV,
        name="Compact",
        handler="compact",
        request=m.CompactionRequest,
        response=m.CompactionResponse,
        access=WRITE,
        standing=_JUDGED,
        paths=("/kv/compaction",),
        keyed=True,
    ),
    Method(
        service="etcdserverpb.Watch",
        name="Watch",
        handler="watch",
        request=m.WatchRequest,
        response=m.WatchResponse,
        kind=CallKind.BOTH,
        access=READ,
        paths=("/watch",),
    ),
    Method(
        service=_LEASE,
        name="LeaseGrant",
        handler="grant",
        request=m.LeaseGrantRequest,
        response=m.LeaseGrantResponse,
        access=WRITE,
        standing=_JUDGED,
        paths=("/lease/grant",),
        keyed=True,
    ),
    Method(
        service=_LEASE,
        name="LeaseRevoke",
        handler="revoke",
        request=m.LeaseRevokeRequest,
        response=m.LeaseRevokeResponse,
        access=WRITE,
        standing=_JUDGED,
        paths=("/lease/revoke", "/kv/lease/revoke"),
        keyed=True,
    ),
    Method(
        service=_LEASE,
        name="LeaseKeepAlive",
        handler="keep_alive",
        request=m.LeaseKeepAliveRequest,
        response=m.LeaseKeepAliveResponse,
        kind=CallKind.BOTH,
        access=WRITE,
        paths=("/lease/keepalive",),
    ),
    Method(
        service=_LEASE,
        name="LeaseTimeToLive",
        handler="time_to_live",
        request=m.LeaseTimeToLiveRequest,
        response=m.LeaseTimeToLiveResponse,
        access=READ,
        standing=_JUDGED,
        paths=("/lease/timetolive", "/kv/lease/timetolive"),
    ),
    Method(
        service=_LEASE,
        name="LeaseLeases",
        handler="leases",
        request=m.LeaseLeasesRequest,
        response=m.LeaseLeasesResponse,
        access=READ,
        standing=_JUDGED,
        paths=("/lease/leases", "/kv/lease/leases"),
    ),
    Method(
        service=_CLUSTER,
        name="MemberAdd",
        handler="member_add",
        request=m.MemberAddRequest,
        response=m.MemberAddResponse,
        access=ADMIN,
        paths=("/cluster/member/add",),
    ),
    Method(
        service=_CLUSTER,
        name="MemberRemove",
        handler="member_remove",
        request=m.MemberRemoveRequest,
        response=m.MemberRemoveResponse,
        access=ADMIN,
        paths=("/cluster/member/remove",),
    ),
    Method(
        service=_CLUSTER,
        name="MemberUpdate",
        handler="member_update",
        request=m.MemberUpdateRequest,
        response=m.MemberUpdateResponse,
        access=ADMIN,
        paths=("/cluster/member/update",),
    ),
    Method(
        service=_CLUSTER,
        name="MemberList",
        handler="member_list",
        request=m.MemberListRequest,
        response=m.MemberListResponse,
        access=ANY,
        standing=Standing.LAST_KNOWN,
        paths=("/cluster/member/list",),
    ),
    Method(
        service=_CLUSTER,
        name="MemberPromote",
        handler="member_promote",
        request=m.MemberPromoteRequest,
        response=m.MemberPromoteResponse,
        access=ADMIN,
        paths=("/cluster/member/promote",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Alarm",
        handler="alarm",
        request=m.AlarmRequest,
        response=m.AlarmResponse,
        access=READ,
        standing=Standing.LAST_KNOWN,
        paths=("/maintenance/alarm",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Status",
        handler="status",
        request=m.StatusRequest,
        response=m.StatusResponse,
        access=(AccessRole.READ, AccessRole.METRICS),
        standing=Standing.LAST_KNOWN,
        paths=("/maintenance/status",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Defragment",
        handler="defragment",
        request=m.DefragmentRequest,
        response=m.DefragmentResponse,
        access=ADMIN,
        paths=("/maintenance/defragment",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Hash",
        handler="hash",
        request=m.HashRequest,
        response=m.HashResponse,
        access=READ,
        paths=("/maintenance/hash",),
    ),
    Method(
        service=_MAINTENANCE,
        name="HashKV",
        handler="hash_kv",
        request=m.HashKVRequest,
        response=m.HashKVResponse,
        access=READ,
        paths=("/maintenance/hashkv",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Snapshot",
        handler="snapshot",
        request=m.SnapshotRequest,
        response=m.SnapshotResponse,
        kind=CallKind.ANSWERS,
        access=ANY,  # the service refuses, with words of its own
        paths=("/maintenance/snapshot",),
    ),
    Method(
        service=_MAINTENANCE,
        name="MoveLeader",
        handler="move_leader",
        request=m.MoveLeaderRequest,
        response=m.MoveLeaderResponse,
        access=ADMIN,
        paths=("/maintenance/transfer-leadership",),
    ),
    Method(
        service=_MAINTENANCE,
        name="Downgrade",
        handler="downgrade",
        request=m.DowngradeRequest,
        response=m.DowngradeResponse,
        access=ADMIN,
        paths=("/maintenance/downgrade",),
    ),
    Method(
        service=_AUTH,
        name="Authenticate",
        handler="authenticate",
        request=a.AuthenticateRequest,
        response=a.AuthenticateResponse,
        access=PUBLIC,
        paths=("/auth/authenticate",),
    ),
    Method(
        service=_AUTH,
        name="AuthStatus",
        handler="auth_status",
        request=a.AuthStatusRequest,
        response=a.AuthStatusResponse,
        access=ANY,
        paths=("/auth/status",),
    ),
    _auth("AuthEnable", "enable", a.AuthEnableRequest, a.AuthEnableResponse),
    _auth("AuthDisable", "disable", a.AuthDisableRequest, a.AuthDisableResponse),
    _auth("UserAdd", "user/add", a.AuthUserAddRequest, a.AuthUserAddResponse),
    _auth("UserGet", "user/get", a.AuthUserGetRequest, a.AuthUserGetResponse),
    _auth("UserList", "user/list", a.AuthUserListRequest, a.AuthUserListResponse),
    _auth("UserDelete", "user/delete", a.AuthUserDeleteRequest, a.AuthUserDeleteResponse),
    _auth(
        "UserChangePassword",
        "user/changepw",
        a.AuthUserChangePasswordRequest,
        a.AuthUserChangePasswordResponse,
    ),
    _auth("UserGrantRole", "user/grant", a.AuthUserGrantRoleRequest, a.AuthUserGrantRoleResponse),
    _auth("UserRevokeRole", "user/revoke", a.AuthUserRevokeRoleRequest, a.AuthUserRevokeRoleResponse),
    _auth("RoleAdd", "role/add", a.AuthRoleAddRequest, a.AuthRoleAddResponse),
    _auth("RoleGet", "role/get", a.AuthRoleGetRequest, a.AuthRoleGetResponse),
    _auth("RoleList", "role/list", a.AuthRoleListRequest, a.AuthRoleListResponse),
    _auth("RoleDelete", "role/delete", a.AuthRoleDeleteRequest, a.AuthRoleDeleteResponse),
    _auth(
        "RoleGrantPermission",
        "role/grant",
        a.AuthRoleGrantPermissionRequest,
        a.AuthRoleGrantPermissionResponse,
    ),
    _auth(
        "RoleRevokePermission",
        "role/revoke",
        a.AuthRoleRevokePermissionRequest,
        a.AuthRoleRevokePermissionResponse,
    ),
    _lock("Lock", "lock", m.LockRequest, m.LockResponse),
    _lock("Unlock", "unlock", m.UnlockRequest, m.UnlockResponse),
    _lock("Campaign", "campaign", m.CampaignRequest, m.CampaignResponse),
    _lock("Proclaim", "proclaim", m.ProclaimRequest, m.ProclaimResponse),
    _lock("Leader", "leader", m.LeaderRequest, m.LeaderResponse, READ),
    _lock("Observe", "observe", m.LeaderRequest, m.LeaderResponse, READ),
    _lock("Resign", "resign", m.ResignRequest, m.ResignResponse),
    Method(
        service=_HEALTH,
        name="Check",
        handler="check",
        request=m.HealthCheckRequest,
        response=m.HealthCheckResponse,
        access=PUBLIC,
    ),
)
