"""The messages of etcd's API: the field names and numbers of its .proto files, and protobuf's zero values.

An alternative of a oneof, and a message within a message, is None when it is absent. The annotation of a
field gives its number, and, of an integer that is no int64, its kind. The codecs are made from these.
"""

from enum import IntEnum
from typing import Annotated, TypeAlias

from msgspec import Struct

Uint64: TypeAlias = Annotated[int, "uint64"]
Uint32: TypeAlias = Annotated[int, "uint32"]


class EventType(IntEnum):
    PUT = 0
    DELETE = 1


class SortOrder(IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class CompareResult(IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class WatchFilter(IntEnum):
    NOPUT = 0
    NODELETE = 1


class AlarmAction(IntEnum):
    GET = 0
    ACTIVATE = 1
    DEACTIVATE = 2


class AlarmType(IntEnum):
    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class DowngradeAction(IntEnum):
    VALIDATE = 0
    ENABLE = 1
    CANCEL = 2


class ServingStatus(IntEnum):
    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Message(Struct, frozen=True, kw_only=True):
    """The base of every message."""


class KeyValue(Message, frozen=True):
    key: Annotated[bytes, 1] = b""
    create_revision: Annotated[int, 2] = 0
    mod_revision: Annotated[int, 3] = 0
    version: Annotated[int, 4] = 0
    value: Annotated[bytes, 5] = b""
    lease: Annotated[int, 6] = 0


class Event(Message, frozen=True):
    type: Annotated[int, 1, EventType] = 0
    kv: Annotated[KeyValue | None, 2] = None
    prev_kv: Annotated[KeyValue | None, 3] = None


class ResponseHeader(Message, frozen=True):
    cluster_id: Annotated[Uint64, 1] = 0
    member_id: Annotated[Uint64, 2] = 0
    revision: Annotated[int, 3] = 0
    raft_term: Annotated[Uint64, 4] = 0


# ---- KV ------------------------------------------------------------------


class RangeRequest(Message, frozen=True):
    key: Annotated[bytes, 1] = b""
    range_end: Annotated[bytes, 2] = b""
    limit: Annotated[int, 3] = 0
    revision: Annotated[int, 4] = 0
    sort_order: Annotated[int, 5, SortOrder] = 0
    sort_target: Annotated[int, 6, SortTarget] = 0
    serializable: Annotated[bool, 7] = False
    keys_only: Annotated[bool, 8] = False
    count_only: Annotated[bool, 9] = False
    min_mod_revision: Annotated[int, 10] = 0
    max_mod_revision: Annotated[int, 11] = 0
    min_create_revision: Annotated[int, 12] = 0
    max_create_revision: Annotated[int, 13] = 0


class RangeResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    kvs: Annotated[list[KeyValue], 2] = []
    more: Annotated[bool, 3] = False
    count: Annotated[int, 4] = 0


class PutRequest(Message, frozen=True):
    key: Annotated[bytes, 1] = b""
    value: Annotated[bytes, 2] = b""
    lease: Annotated[int, 3] = 0
    prev_kv: Annotated[bool, 4] = False
    ignore_value: Annotated[bool, 5] = False
    ignore_lease: Annotated[bool, 6] = False


class PutResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    prev_kv: Annotated[KeyValue | None, 2] = None


class DeleteRangeRequest(Message, frozen=True):
    key: Annotated[bytes, 1] = b""
    range_end: Annotated[bytes, 2] = b""
    prev_kv: Annotated[bool, 3] = False


class DeleteRangeResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    deleted: Annotated[int, 2] = 0
    prev_kvs: Annotated[list[KeyValue], 3] = []


class Compare(Message, frozen=True):
    result: Annotated[int, 1, CompareResult] = 0
    target: Annotated[int, 2, CompareTarget] = 0
    key: Annotated[bytes, 3] = b""
    version: Annotated[int | None, 4] = None
    create_revision: Annotated[int | None, 5] = None
    mod_revision: Annotated[int | None, 6] = None
    value: Annotated[bytes | None, 7] = None
    lease: Annotated[int | None, 8] = None
    range_end: Annotated[bytes, 64] = b""


class RequestOp(Message, frozen=True):
    request_range: Annotated[RangeRequest | None, 1] = None
    request_put: Annotated[PutRequest | None, 2] = None
    request_delete_range: Annotated[DeleteRangeRequest | None, 3] = None
    request_txn: Annotated["TxnRequest | None", 4] = None


class ResponseOp(Message, frozen=True):
    response_range: Annotated[RangeResponse | None, 1] = None
    response_put: Annotated[PutResponse | None, 2] = None
    response_delete_range: Annotated[DeleteRangeResponse | None, 3] = None
    response_txn: Annotated["TxnResponse | None", 4] = None


class TxnRequest(Message, frozen=True):
    compare: Annotated[list[Compare], 1] = []
    success: Annotated[list[RequestOp], 2] = []
    failure: Annotated[list[RequestOp], 3] = []


class TxnResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    succeeded: Annotated[bool, 2] = False
    responses: Annotated[list[ResponseOp], 3] = []


class CompactionRequest(Message, frozen=True):
    revision: Annotated[int, 1] = 0
    physical: Annotated[bool, 2] = False


class CompactionResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


# ---- Watch ---------------------------------------------------------------


class WatchCreateRequest(Message, frozen=True):
    key: Annotated[bytes, 1] = b""
    range_end: Annotated[bytes, 2] = b""
    start_revision: Annotated[int, 3] = 0
    progress_notify: Annotated[bool, 4] = False
    filters: Annotated[list[Annotated[int, WatchFilter]], 5] = []
    prev_kv: Annotated[bool, 6] = False
    watch_id: Annotated[int, 7] = 0
    fragment: Annotated[bool, 8] = False


class WatchCancelRequest(Message, frozen=True):
    watch_id: Annotated[int, 1] = 0


class WatchProgressRequest(Message, frozen=True):
    pass


class WatchRequest(Message, frozen=True):
    create_request: Annotated[WatchCreateRequest | None, 1] = None
    cancel_request: Annotated[WatchCancelRequest | None, 2] = None
    progress_request: Annotated[WatchProgressRequest | None, 3] = None


class WatchResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    watch_id: Annotated[int, 2] = 0
    created: Annotated[bool, 3] = False
    canceled: Annotated[bool, 4] = False
    compact_revision: Annotated[int, 5] = 0
    cancel_reason: Annotated[str, 6] = ""
    fragment: Annotated[bool, 7] = False
    events: Annotated[list[Event], 11] = []


# ---- Lease ---------------------------------------------------------------


class LeaseGrantRequest(Message, frozen=True):
    TTL: Annotated[int, 1] = 0
    ID: Annotated[int, 2] = 0


class LeaseGrantResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    ID: Annotated[int, 2] = 0
    TTL: Annotated[int, 3] = 0
    error: Annotated[str, 4] = ""


class LeaseRevokeRequest(Message, frozen=True):
    ID: Annotated[int, 1] = 0


class LeaseRevokeResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class LeaseKeepAliveRequest(Message, frozen=True):
    ID: Annotated[int, 1] = 0


class LeaseKeepAliveResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    ID: Annotated[int, 2] = 0
    TTL: Annotated[int, 3] = 0


class LeaseTimeToLiveRequest(Message, frozen=True):
    ID: Annotated[int, 1] = 0
    keys: Annotated[bool, 2] = False


class LeaseTimeToLiveResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    ID: Annotated[int, 2] = 0
    TTL: Annotated[int, 3] = 0
    grantedTTL: Annotated[int, 4] = 0
    keys: Annotated[list[bytes], 5] = []


class LeaseLeasesRequest(Message, frozen=True):
    pass


class LeaseStatus(Message, frozen=True):
    ID: Annotated[int, 1] = 0


class LeaseLeasesResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    leases: Annotated[list[LeaseStatus], 2] = []


# ---- Cluster -------------------------------------------------------------


class Member(Message, frozen=True):
    ID: Annotated[Uint64, 1] = 0
    name: Annotated[str, 2] = ""
    peerURLs: Annotated[list[str], 3] = []
    clientURLs: Annotated[list[str], 4] = []
    isLearner: Annotated[bool, 5] = False


class MemberAddRequest(Message, frozen=True):
    peerURLs: Annotated[list[str], 1] = []
    isLearner: Annotated[bool, 2] = False


class MemberAddResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    member: Annotated[Member | None, 2] = None
    members: Annotated[list[Member], 3] = []


class MemberRemoveRequest(Message, frozen=True):
    ID: Annotated[Uint64, 1] = 0


class MemberRemoveResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    members: Annotated[list[Member], 2] = []


class MemberUpdateRequest(Message, frozen=True):
    ID: Annotated[Uint64, 1] = 0
    peerURLs: Annotated[list[str], 2] = []


class MemberUpdateResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    members: Annotated[list[Member], 2] = []


class MemberListRequest(Message, frozen=True):
    linearizable: Annotated[bool, 1] = False


class MemberListResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    members: Annotated[list[Member], 2] = []


class MemberPromoteRequest(Message, frozen=True):
    ID: Annotated[Uint64, 1] = 0


class MemberPromoteResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    members: Annotated[list[Member], 2] = []


# ---- Maintenance ---------------------------------------------------------


class AlarmRequest(Message, frozen=True):
    action: Annotated[int, 1, AlarmAction] = 0
    memberID: Annotated[Uint64, 2] = 0
    alarm: Annotated[int, 3, AlarmType] = 0


class AlarmMember(Message, frozen=True):
    memberID: Annotated[Uint64, 1] = 0
    alarm: Annotated[int, 2, AlarmType] = 0


class AlarmResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    alarms: Annotated[list[AlarmMember], 2] = []


class StatusRequest(Message, frozen=True):
    pass


class StatusResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    version: Annotated[str, 2] = ""
    dbSize: Annotated[int, 3] = 0
    leader: Annotated[Uint64, 4] = 0
    raftIndex: Annotated[Uint64, 5] = 0
    raftTerm: Annotated[Uint64, 6] = 0
    raftAppliedIndex: Annotated[Uint64, 7] = 0
    errors: Annotated[list[str], 8] = []
    dbSizeInUse: Annotated[int, 9] = 0
    isLearner: Annotated[bool, 10] = False


class DefragmentRequest(Message, frozen=True):
    pass


class DefragmentResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class HashRequest(Message, frozen=True):
    pass


class HashResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    hash: Annotated[Uint32, 2] = 0


class HashKVRequest(Message, frozen=True):
    revision: Annotated[int, 1] = 0


class HashKVResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    hash: Annotated[Uint32, 2] = 0
    compact_revision: Annotated[int, 3] = 0


class SnapshotRequest(Message, frozen=True):
    pass


class SnapshotResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    remaining_bytes: Annotated[Uint64, 2] = 0
    blob: Annotated[bytes, 3] = b""


class MoveLeaderRequest(Message, frozen=True):
    targetID: Annotated[Uint64, 1] = 0


class MoveLeaderResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class DowngradeRequest(Message, frozen=True):
    action: Annotated[int, 1, DowngradeAction] = 0
    version: Annotated[str, 2] = ""


class DowngradeResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    version: Annotated[str, 2] = ""


# ---- Lock and Election ---------------------------------------------------


class LockRequest(Message, frozen=True):
    name: Annotated[bytes, 1] = b""
    lease: Annotated[int, 2] = 0


class LockResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    key: Annotated[bytes, 2] = b""


class UnlockRequest(Message, frozen=True):
    key: Annotated[bytes, 1] = b""


class UnlockResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class LeaderKey(Message, frozen=True):
    name: Annotated[bytes, 1] = b""
    key: Annotated[bytes, 2] = b""
    rev: Annotated[int, 3] = 0
    lease: Annotated[int, 4] = 0


class CampaignRequest(Message, frozen=True):
    name: Annotated[bytes, 1] = b""
    lease: Annotated[int, 2] = 0
    value: Annotated[bytes, 3] = b""


class CampaignResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    leader: Annotated[LeaderKey | None, 2] = None


class LeaderRequest(Message, frozen=True):
    name: Annotated[bytes, 1] = b""


class LeaderResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    kv: Annotated[KeyValue | None, 2] = None


class ResignRequest(Message, frozen=True):
    leader: Annotated[LeaderKey | None, 1] = None


class ResignResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class ProclaimRequest(Message, frozen=True):
    leader: Annotated[LeaderKey | None, 1] = None
    value: Annotated[bytes, 2] = b""


class ProclaimResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


# ---- grpc.health.v1 ------------------------------------------------------


class HealthCheckRequest(Message, frozen=True):
    service: Annotated[str, 1] = ""


class HealthCheckResponse(Message, frozen=True):
    status: Annotated[int, 1, ServingStatus] = 0
