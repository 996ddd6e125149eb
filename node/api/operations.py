"""Every operation of the API, once: the routes enforce it, ``/openapi.json`` publishes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.api import schemas
from node.api.access import Standing
from node.api.cluster_field import PATTERN
from node.api.evidence import NONCE_BYTES_MAX, NONCE_BYTES_MIN
from node.api.kv_schemas import KvDeleted, KvPage, KvWritten
from node.api.limits import (
    AUDIT_EVENTS_MAX,
    IDEMPOTENCY_KEY_CHARACTERS_MAX,
    INTEGER_MAX,
    KV_PAGE_DEFAULT,
    KV_PAGE_MAX,
    MEMBER_CHARACTERS_MAX,
)
from node.system.grants import AccessRole

PUBLIC: Final = "public"
ANY_ROLE: Final = "any role"
Access = AccessRole | str | tuple[AccessRole, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter in the path or the query, or a header field; ``schema`` is JSON Schema."""

    name: str
    place: str
    schema: dict[str, Any]
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of one path accepts and returns.

    Attributes:
        access: the role that is needed, or one of several; ``PUBLIC``, or ``ANY_ROLE``. ``admin`` has all.
        standing: how current the access list must be for it.
        request: the type of the JSON body, or the media type of any bytes; None: no body is read.
        answers: the types of the JSON body of a success (one of them), or a media type.
        more_answers: other successes, by status.
        problems: codes that only this operation, or few, can answer with; the common ones are added.
    """

    name: str
    method: str
    path: str
    summary: str
    access: Access
    answers: tuple[Any, ...]
    standing: Standing = Standing.CURRENT
    request: Any = None
    more_answers: dict[int, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[AccessRole, ...]:
        """The caller needs one of these roles; if there are none, any role will do."""
        match self.access:
            case AccessRole() as role:
                return (role,)
            case tuple() as roles:
                return roles
            case _:
                return ()


_IDEMPOTENCY_KEY: Final = Parameter(
    name="Idempotency-Key",
    place="header",
    schema={
        "type": "string",
        "minLength": 1,
        "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX,
        "pattern": "^[!-~]+$",
    },
    description="A request with the same key and credentials, sent to any node while the group "
    "remembers the key (its session_ttl_ms), never executes twice: it gets the first result again, "
    "or 208 if that result was too large to keep. "
    "Send the last repetition within half of that time.",
)

CLUSTER: Final = Parameter(
    name="Bondstone-Cluster",
    place="header",
    schema={"type": "string", "pattern": PATTERN},
    description="The cluster that must answer, as this field of an earlier answer named it. A node of "
    "another cluster refuses the request and executes nothing.",
)


def _member(description: str, *, is_required: bool = False) -> Parameter:
    return Parameter(
        name="member",
        place="query",
        schema={"type": "string", "minLength": 1, "maxLength": MEMBER_CHARACTERS_MAX},
        description=description,
        required=is_required,
    )


_BODY_PROBLEMS: Final = (
    "json-invalid",
    "media-type-unsupported",
    "body-too-large",
    "request-timeout",
    "request-invalid",
)
_ENTRY_PROBLEMS: Final = ("idempotency-key-reused", "not-executed", "not-ready", "outcome-unknown")

KV_KEY_PATH: Final = "/v1/kv/{key}"
_KV_PATH: Final = "/v1/kv"
_OCTETS: Final = "application/octet-stream"
_KEY: Final = Parameter(
    name="key",
    place="path",
    schema={"type": "string", "minLength": 1},
    description="The key's bytes, percent-encoded; it goes to the end of the path, and a slash is a slash.",
    required=True,
)
_IF_MATCH: Final = Parameter(
    name="If-Match",
    place="header",
    schema={"type": "string", "pattern": '^(\\*|"[0-9]{1,18}")$'},
    description="Only if the key's revision is the one in this ETag; `*`: only if the key exists.",
)
_IF_NONE_MATCH: Final = Parameter(
    name="If-None-Match",
    place="header",
    schema={"type": "string", "pattern": "^\\*$"},
    description="`*`: only if the key does not exist.",
)


def _number(
    name: str, description: str, *, low: int = 0, high: int = INTEGER_MAX, default: int = 0
) -> Parameter:
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter(name=name, place="query", schema=schema, description=description)


def _flag(name: str, description: str) -> Parameter:
    schema = {"type": "boolean", "default": False}
    return Parameter(name=name, place="query", schema=schema, description=description)


def _bound(name: str, description: str) -> Parameter:
    return Parameter(name=name, place="query", schema={"type": "string"}, description=description)


_BOUNDS: Final = (
    _bound("prefix", "Keys that begin with these bytes; empty: all."),
    _bound("from", "From this key on."),
    _bound("to", "Keys before this one."),
)
_AT_REVISION: Final = _number("revision", "The state at this revision of the store; 0: the present one.")
_CONSISTENCY: Final = Parameter(
    name="consistency",
    place="query",
    schema={"enum": ["strong", "weak"], "default": "strong"},
    description="`weak`: the state of this node, which may be old.",
)
_READ_PROBLEMS: Final = (
    "request-invalid",
    "query-failed",
    "not-permitted",
    "not-executed",
    "not-ready",
    "query-timeout",
)
_WRITE_PROBLEMS: Final = ("request-invalid", "command-failed", "not-permitted", *_ENTRY_PROBLEMS)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="health",
        method="GET",
        path="/healthz",
        summary="The process is alive.",
        access=PUBLIC,
        answers=(schemas.Health,),
    ),
    Operation(
        name="ready",
        method="GET",
        path="/readyz",
        summary="The node is online in its group; 503 gives the reason if not.",
        access=PUBLIC,
        answers=(schemas.Ready,),
        problems=("not-ready",),
    ),
    Operation(
        name="metrics",
        method="GET",
        path="/metrics",
        summary="Prometheus text format.",
        access=(AccessRole.READ, AccessRole.METRICS),
        standing=Standing.LAST_KNOWN,
        answers=("text/plain",),
    ),
    Operation(
        name="openapi",
        method="GET",
        path="/openapi.json",
        summary="This document.",
        access=ANY_ROLE,
        standing=Standing.LAST_KNOWN,
        answers=(dict[str, Any],),
    ),
    Operation(
        name="group",
        method="GET",
        path="/v1/group",
        summary="Ids, leader, term, commit, voters and learners.",
        access=AccessRole.READ,
        standing=Standing.LAST_KNOWN,
        answers=(schemas.Group,),
        problems=("not-ready",),
    ),
    Operation(
        name="members",
        method="GET",
        path="/v1/members",
        summary="Every member: its role, its addresses, how far it is, and a pending change of the voters.",
        access=AccessRole.READ,
        standing=Standing.LAST_KNOWN,
        answers=(schemas.Members,),
        problems=("not-ready",),
    ),
    Operation(
        name="safe_to_stop",
        method="GET",
        path="/v1/safe-to-stop",
        summary="Whether this member, or another, can stop now without risk to the group, and if not why.",
        access=AccessRole.READ,
        standing=Standing.LAST_KNOWN,
        answers=(schemas.SafeToStop,),
        parameters=(_member("Name or peer id; by default the node that answers."),),
        problems=("request-invalid", "not-ready"),
    ),
    Operation(
        name="remove",
        method="DELETE",
        path="/v1/members",
        summary="Remove a member from the group for good; only the leader can.",
        access=AccessRole.ADMIN,
        answers=(schemas.Removed,),
        parameters=(
            _member(
                "Name or peer id. With a peer id a repetition of the request is harmless.", is_required=True
            ),
        ),
        problems=("request-invalid", "removal-refused", "not-executed", "not-ready", "outcome-unknown"),
    ),
    Operation(
        name="survivor",
        method="GET",
        path="/v1/recovery",
        summary="What this node would found a new generation from, if the others are lost for good.",
        access=AccessRole.ADMIN,
        standing=Standing.LAST_KNOWN,
        answers=(schemas.Survivor,),
        problems=("not-ready",),
    ),
    Operation(
        name="recover",
        method="POST",
        path="/v1/recovery",
        summary="Found a new generation from this node's state: only if the others are lost for good.",
        access=AccessRole.ADMIN,
        # The group has no quorum that could show the present list.
        standing=Standing.LAST_KNOWN,
        request=schemas.RecoveryRequest,
        answers=(schemas.Recovered,),
        problems=(*_BODY_PROBLEMS, "recovery-refused", "not-ready", "outcome-unknown"),
    ),
    Operation(
        name="transfer",
        method="POST",
        path="/v1/members/transfer",
        summary="Hand the leadership over to another voter; only the leader can.",
        access=AccessRole.ADMIN,
        request=schemas.TransferRequest,
        answers=(schemas.Transferred,),
        problems=(*_BODY_PROBLEMS, "transfer-refused", "not-executed", "not-ready", "outcome-unknown"),
    ),
    Operation(
        name="bonds",
        method="GET",
        path="/v1/bonds",
        summary="Every open bond of this node, with its appraisal.",
        access=AccessRole.READ,
        standing=Standing.LAST_KNOWN,
        answers=(schemas.Bonds,),
    ),
    Operation(
        name="commands",
        method="POST",
        path="/v1/commands",
        summary="Execute one command, or several as one atomic entry, exactly once.",
        access=AccessRole.WRITE,
        standing=Standing.JUDGED,
        request=schemas.CommandRequest,
        answers=(schemas.CommandResult, schemas.CommandResults),
        more_answers={202: schemas.Accepted, 208: schemas.AlreadyExecuted},
        parameters=(_IDEMPOTENCY_KEY,),
        problems=(
            *_BODY_PROBLEMS,
            "command-failed",
            "not-permitted",
            *_ENTRY_PROBLEMS,
        ),
    ),
    Operation(
        name="queries",
        method="POST",
        path="/v1/queries",
        summary="Query the state machine.",
        access=AccessRole.READ,
        standing=Standing.JUDGED,
        request=schemas.QueryRequest,
        answers=(schemas.QueryResult,),
        problems=(
            *_BODY_PROBLEMS,
            "query-failed",
            "not-permitted",
            "superseded",
            "not-executed",
            "not-ready",
            "query-timeout",
        ),
    ),
    Operation(
        name="kv_get",
        method="GET",
        path=KV_KEY_PATH,
        summary="A key's value, as it is; the ETag is its revision.",
        access=AccessRole.READ,
        standing=Standing.JUDGED,
        answers=(_OCTETS,),
        parameters=(_KEY, _AT_REVISION, _CONSISTENCY),
        problems=(*_READ_PROBLEMS, "key-not-found"),
    ),
    Operation(
        name="kv_put",
        method="PUT",
        path=KV_KEY_PATH,
        summary="Write a value: the body, as it is.",
        access=AccessRole.WRITE,
        standing=Standing.JUDGED,
        request=_OCTETS,
        answers=(KvWritten,),
        more_answers={208: schemas.AlreadyExecuted},
        parameters=(
            _KEY,
            _number("lease", "The lease that the key goes with; 0: none."),
            _IF_MATCH,
            _IF_NONE_MATCH,
            _IDEMPOTENCY_KEY,
        ),
        problems=(
            *_WRITE_PROBLEMS,
            "precondition-failed",
            "body-too-large",
            "request-timeout",
        ),
    ),
    Operation(
        name="kv_delete",
        method="DELETE",
        path=KV_KEY_PATH,
        summary="Delete a key.",
        access=AccessRole.WRITE,
        standing=Standing.JUDGED,
        answers=(KvDeleted,),
        more_answers={208: schemas.AlreadyExecuted},
        parameters=(_KEY, _IF_MATCH, _IDEMPOTENCY_KEY),
        problems=(*_WRITE_PROBLEMS, "precondition-failed"),
    ),
    Operation(
        name="kv_range",
        method="GET",
        path=_KV_PATH,
        summary="A page of keys in byte order, with or without their values, at one revision.",
        access=AccessRole.READ,
        standing=Standing.JUDGED,
        answers=(KvPage,),
        parameters=(
            *_BOUNDS,
            _number("limit", "At most this many keys.", low=1, high=KV_PAGE_MAX, default=KV_PAGE_DEFAULT),
            _AT_REVISION,
            _flag("keys_only", "Without the values."),
            _flag("count_only", "Only how many there are."),
            _CONSISTENCY,
        ),
        problems=_READ_PROBLEMS,
    ),
    Operation(
        name="kv_delete_range",
        method="DELETE",
        path=_KV_PATH,
        summary="Delete a range of keys.",
        access=AccessRole.WRITE,
        standing=Standing.JUDGED,
        answers=(KvDeleted,),
        more_answers={208: schemas.AlreadyExecuted},
        parameters=(*_BOUNDS, _IDEMPOTENCY_KEY),
        problems=_WRITE_PROBLEMS,
    ),
    Operation(
        name="evidence",
        method="GET",
        path="/v1/attestation/evidence",
        summary="Fresh evidence of this node, bound to the nonce and to the key of this TLS channel.",
        access=PUBLIC,
        answers=(schemas.OwnEvidence,),
        parameters=(
            Parameter(
                name="nonce",
                place="query",
                schema={
                    "type": "string",
                    "pattern": f"^([0-9a-fA-F]{{2}}){{{NONCE_BYTES_MIN},{NONCE_BYTES_MAX}}}$",
                },
                description=f"{NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} random bytes, hex.",
                required=True,
            ),
        ),
        problems=("request-invalid", "evidence-busy", "not-ready"),
    ),
    Operation(
        name="peers",
        method="GET",
        path="/v1/attestation/peers",
        summary="Each bonded peer's evidence as received, and its appraisal.",
        access=AccessRole.AUDIT,
        answers=(schemas.PeersEvidence,),
    ),
    Operation(
        name="audit_events",
        method="GET",
        path="/v1/audit/events",
        summary="The hash-chained log of admissions, refusals, expiries and departures.",
        access=AccessRole.AUDIT,
        answers=(schemas.AuditEvents,),
        parameters=(
            Parameter(
                name="after",
                place="query",
                schema={"type": "integer", "minimum": 0, "maximum": INTEGER_MAX, "default": 0},
                description="Only records with a larger sequence number.",
            ),
            Parameter(
                name="limit",
                place="query",
                schema={"type": "integer", "minimum": 1, "maximum": AUDIT_EVENTS_MAX, "default": 100},
                description="At most this many records.",
            ),
        ),
        problems=("request-invalid", "audit-chain-broken"),
    ),
    Operation(
        name="audit_head",
        method="GET",
        path="/v1/audit/head",
        summary="The newest record's sequence number and hash.",
        access=AccessRole.AUDIT,
        answers=(dict[str, Any],),
    ),
    Operation(
        name="birth_certificate",
        method="GET",
        path="/v1/birth-certificate",
        summary="The authority's signed statement that this cluster is the group.",
        access=PUBLIC,
        answers=(schemas.BirthCertificate,),
        problems=("not-ready",),
    ),
    Operation(
        name="confirm",
        method="PUT",
        path="/v1/birth-certificate",
        summary="Submit the authority's signed statement that this cluster is the group.",
        # Any client may send it: the node verifies the authority's signatures before it writes to the log.
        access=PUBLIC,
        request=schemas.ConfirmRequest,
        answers=(schemas.BirthCertificate,),
        problems=(
            *_BODY_PROBLEMS,
            "birth-certificate-refused",
            "not-executed",
            "not-ready",
            "outcome-unknown",
        ),
    ),
    Operation(
        name="access_list",
        method="GET",
        path="/v1/access",
        summary="Every credential that may call this group, with its permissions.",
        access=AccessRole.ADMIN,
        standing=Standing.JUDGED,
        answers=(schemas.AccessListing,),
        problems=(
            "request-invalid",
            "query-failed",
            "not-permitted",
            "not-executed",
            "not-ready",
            "query-timeout",
        ),
    ),
    Operation(
        name="access_new",
        method="POST",
        path="/v1/access",
        summary="Add a credential, on every node from the same log index on.",
        access=AccessRole.ADMIN,
        standing=Standing.JUDGED,
        request=schemas.AccessRequest,
        answers=(schemas.AccessChanged,),
        parameters=(_IDEMPOTENCY_KEY,),
        problems=(*_BODY_PROBLEMS, "access-refused", "not-permitted", "credentials-busy", *_ENTRY_PROBLEMS),
    ),
    Operation(
        name="access_revoke",
        method="DELETE",
        path="/v1/access",
        summary="Revoke a credential, on every node from the same log index on.",
        access=AccessRole.ADMIN,
        standing=Standing.JUDGED,
        answers=(schemas.AccessChanged,),
        parameters=(
            Parameter(
                name="name",
                place="query",
                schema={"type": "string"},
                description="Name of the credential. Give this or `credential`.",
            ),
            Parameter(
                name="credential",
                place="query",
                schema={"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                description="As the list shows it.",
            ),
            Parameter(
                name="force",
                place="query",
                schema={"type": "boolean", "default": False},
                description="Revoke even the last admin: then the list can never be changed again.",
            ),
            _IDEMPOTENCY_KEY,
        ),
        problems=("request-invalid", "access-refused", "not-permitted", *_ENTRY_PROBLEMS),
    ),
    Operation(
        name="provision",
        method="PUT",
        path="/v1/provision",
        summary="Send the group key, once, to a node that waits for it.",
        # Any client may send it: the node accepts only the key whose digest the group document names.
        access=PUBLIC,
        request=schemas.ProvisionRequest,
        answers=(schemas.Provisioned,),
        problems=(*_BODY_PROBLEMS, "provision-refused", "not-ready"),
    ),
)

BY_NAME: Final[dict[str, Operation]] = {operation.name: operation for operation in OPERATIONS}
PATHS: Final[frozenset[str]] = frozenset(operation.path for operation in OPERATIONS)
_BEFORE_KEY: Final = KV_KEY_PATH.removesuffix("{key}")


def path_of(path: str) -> str:
    """Return which of ``PATHS`` a request's path is; the path itself if it is none."""
    return KV_KEY_PATH if path.startswith(_BEFORE_KEY) else path


METHODS: Final[Mapping[str, frozenset[str]]] = {
    path: frozenset(operation.method for operation in OPERATIONS if operation.path == path) for path in PATHS
}
