"""Refusals in etcd's words.

clientv3 compares code and text, byte for byte, and takes anything else for an error that it does not know. So
both are part of the interface. What etcd has no words for begins with ``bondstone:``.
"""

from enum import IntEnum
from typing import Final

from node.errors import NodeError
from node.raft.types import NotExecuted, Unknown


class Code(IntEnum):
    """The status codes of gRPC."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EtcdError(NodeError):
    """A call was refused, or ended without an answer.

    Args:
        code: of gRPC.
        message: as the client receives it.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_INVALID: Final = Code.INVALID_ARGUMENT
_UNAVAILABLE: Final = Code.UNAVAILABLE
_REVISION: Final = "etcdserver: mvcc: required revision "
KEY_NOT_PROVIDED: Final = (_INVALID, "etcdserver: key is not provided")
KEY_NOT_FOUND: Final = (_INVALID, "etcdserver: key not found")
REQUEST_TOO_LARGE: Final = (_INVALID, "etcdserver: request is too large")
SORT_INVALID: Final = (_INVALID, "etcdserver: invalid sort option")
LEASE_NOT_FOUND: Final = (Code.NOT_FOUND, "etcdserver: requested lease not found")
MEMBER_NOT_FOUND: Final = (Code.NOT_FOUND, "etcdserver: member not found")
PERMISSION_DENIED: Final = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
TOO_MANY_REQUESTS: Final = (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
AUTH_FAILED: Final = (_INVALID, "etcdserver: authentication failed, invalid user ID or password")
AUTH_NOT_ENABLED: Final = (Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
NOT_LEADER: Final = (Code.FAILED_PRECONDITION, "etcdserver: not leader")
BAD_TRANSFEREE: Final = (Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
TOO_FEW_STARTED: Final = (
    Code.FAILED_PRECONDITION,
    "etcdserver: re-configuration failed due to not enough started members",
)
NO_LEADER: Final = (_UNAVAILABLE, "etcdserver: no leader")
LEADER_CHANGED: Final = (_UNAVAILABLE, "etcdserver: leader changed")
SERVER_STOPPED: Final = (_UNAVAILABLE, "etcdserver: server stopped")
TIMED_OUT: Final = (_UNAVAILABLE, "etcdserver: request timed out")
CORRUPT: Final = (Code.DATA_LOSS, "etcdserver: corrupt cluster")

# Of the machine's refusals, and of those of the access list, by code.
_REFUSED: Final[dict[str, tuple[Code, str]]] = {
    "key-not-provided": KEY_NOT_PROVIDED,
    "key-not-found": KEY_NOT_FOUND,
    "value-provided": (_INVALID, "etcdserver: value is provided"),
    "lease-provided": (_INVALID, "etcdserver: lease is provided"),
    "lease-not-found": LEASE_NOT_FOUND,
    "lease-exists": (Code.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    "lease-ttl-too-large": (Code.OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    "duplicate-key": (_INVALID, "etcdserver: duplicate key given in txn request"),
    "too-many-operations": (_INVALID, "etcdserver: too many operations in txn request"),
    "revision-compacted": (Code.OUT_OF_RANGE, _REVISION + "has been compacted"),
    "revision-future": (Code.OUT_OF_RANGE, _REVISION + "is a future revision"),
    "store-full": (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    "not-permitted": PERMISSION_DENIED,
    "member-only": PERMISSION_DENIED,
    "access-unknown": (Code.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    "access-expired": (Code.UNAUTHENTICATED, "etcdserver: invalid auth token"),
}
_NOT_EXECUTED: Final[dict[str, tuple[Code, str]]] = {
    "command-too-large": REQUEST_TOO_LARGE,
    "overloaded": TOO_MANY_REQUESTS,
    "halted": SERVER_STOPPED,
    "deadline": TIMED_OUT,
    "idempotency-key-reused": (_INVALID, "bondstone: this idempotency key was used for another request"),
    "superseded": LEADER_CHANGED,
    "not-leader": LEADER_CHANGED,
    "transferring": LEADER_CHANGED,
    "leader-is-new": LEADER_CHANGED,
}


def refused(code: str, message: str) -> EtcdError:
    """Return the refusal of the machine, or of the access list, with this code."""
    known = _REFUSED.get(code)
    return EtcdError(_INVALID, f"bondstone: {code}: {message}") if known is None else EtcdError(*known)


def not_executed(outcome: NotExecuted) -> EtcdError:
    """Return the answer for what did not happen and never will."""
    known = _NOT_EXECUTED.get(outcome.reason)
    if known is not None:
        return EtcdError(*known)
    return EtcdError(*(NO_LEADER if outcome.leader is None else LEADER_CHANGED))


def unknown(outcome: Unknown) -> EtcdError:
    """Return the answer for what may or may not have happened."""
    if outcome.reason == "leader-lost":
        return EtcdError(
            _UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"
        )
    return EtcdError(*TIMED_OUT)
