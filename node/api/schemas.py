"""The JSON of every request and response, as types that the API decodes, encodes and publishes.

``/openapi.json`` is made from these classes, so it always agrees with the code. All digests and ids are
lower-case hex; times are RFC 3339 in UTC.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from node.system.forms import NAME_PATTERN

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
BASE64_PATTERN: Final = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
Base64 = Annotated[str, Meta(description="Base64, RFC 4648 section 4.")]
Unsigned = Annotated[int, Meta(ge=0)]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Response(msgspec.Struct, frozen=True, kw_only=True):
    pass


# ---- health -------------------------------------------------------------------
class Health(_Response, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Cluster(_Response, frozen=True):
    """Which of a group's clusters: the same group can be founded again after a total loss."""

    id: Annotated[Hex32, Meta(description="Digest of the genesis entry.")]
    generation: Annotated[Unsigned, Meta(description="0 for the first one.")]


class Ready(_Response, frozen=True):
    """The node is online in its group."""

    ready: Literal[True] = True
    cluster: Annotated[Cluster | None, Meta(description="As in the header field Bondstone-Cluster.")] = None


# ---- group ----------------------------------------------------------------------
class Node(_Response, frozen=True):
    name: Annotated[str, Meta(description="The operator's label.")]
    peer_id: Annotated[Hex32, Meta(description="The incarnation: digest of the key born at this start.")]


class MissingVoter(_Response, frozen=True):
    name: str
    peer_id: Hex32
    why: Annotated[
        Literal["unreachable", "expired", "departed", "restarted"],
        Meta(description="restarted: its node is back as another incarnation, which is not a voter."),
    ]


class Quorum(_Response, frozen=True):
    """Whether there is a quorum, who is missing, and whether waiting can help."""

    state: Annotated[
        Literal["held", "electing", "short", "lost", "gone", "unknown"],
        Meta(
            description="held and electing are healthy; short: there are too few copies to commit anything."
        ),
    ]
    waiting_helps: Annotated[bool, Meta(description="False: a quorum of the voters ended for good.")]
    missing: Sequence[MissingVoter]
    message: Annotated[str, Meta(description="For people; may change.")]


class StatusWarning(_Response, frozen=True):
    """Something that an operator should look at."""

    code: Annotated[str, Meta(description="Stable, kebab-case.")]
    message: Annotated[str, Meta(description="For people; may change.")]


class Levels(_Response, frozen=True):
    """The levels that the group runs at; see docs/features.md."""

    feature_level: Unsigned
    machine: Annotated[str, Meta(description="The state machine's family.")]
    machine_version: Unsigned


class Snapshot(_Response, frozen=True):
    """The newest snapshot of the group's state that this node holds; the log is cut behind it."""

    index: Unsigned
    bytes: Unsigned


class Install(_Response, frozen=True):
    """How far this node is with fetching the group's state from its peers, instead of the log."""

    index: Annotated[Unsigned, Meta(description="The entry up to which the state goes.")]
    chunks: Annotated[Unsigned, Meta(description="Those that are here.")]
    of_chunks: Unsigned
    bytes: Annotated[Unsigned, Meta(description="Of all of it.")]
    sources: Annotated[Unsigned, Meta(description="Peers that serve it.")]


class Software(_Response, frozen=True):
    """A node's own report of its software and of the levels that it knows; see docs/features.md."""

    image: str
    feature_levels: Annotated[Sequence[Unsigned], Meta(description="The lowest and the highest.")]
    machine: Annotated[str, Meta(description="The state machine's family.")]
    machine_versions: Annotated[Sequence[Unsigned], Meta(description="The lowest and the highest.")]


class PendingChange(_Response, frozen=True):
    """A change of the voters that is proposed, and not committed as far as the answering node knows."""

    config_epoch: Unsigned
    voters: Annotated[Sequence[Hex32], Meta(description="Peer ids of the voters after it.")]
    reason: Annotated[str, Meta(description="For people; may change.")]


class Memory(_Response, frozen=True):
    """What this node uses of its memory budget, in bytes and by part."""

    budget: Annotated[Unsigned, Meta(description="What the node may use; `memory.budget_bytes`.")]
    mark: Annotated[Unsigned, Meta(description="With more in use at a voter, its leader refuses writes.")]
    used: Annotated[Unsigned, Meta(description="The sum of the parts.")]
    log: Annotated[Unsigned, Meta(description="The entries of the log.")]
    kept_results: Annotated[Unsigned, Meta(description="Of commands with an idempotency key.")]
    keys: Annotated[Unsigned, Meta(description="The idempotency keys, and the members' sessions.")]
    store: Annotated[Unsigned, Meta(description="The state machine's state, with its history.")]
    store_quota: Annotated[Unsigned, Meta(description="The group's limit for it; `store.quota_bytes`.")]
    snapshots: Annotated[Unsigned, Meta(description="Those that are held, and room for the next one.")]
    fetched: Annotated[Unsigned, Meta(description="Of a state or a log that is being fetched.")]
    buffers: Annotated[Unsigned, Meta(description="Commands that wait, and messages to and from peers.")]


class Group(_Response, frozen=True):
    """The group as this node sees it."""

    group_id: Hex32
    network_id: Hex32
    cluster_id: Annotated[Hex32 | None, Meta(description="Digest of the genesis entry; null before it.")]
    generation: Annotated[Unsigned, Meta(description="Of the cluster; 0 for the first one.")]
    me: Node
    role: Literal["learner", "follower", "pre-candidate", "candidate", "leader", "halted"]
    leader: Annotated[Hex32 | None, Meta(description="Peer id of the leader, if one is known.")]
    term: Unsigned
    commit_index: Unsigned
    applied_index: Unsigned
    last_index: Unsigned
    config_epoch: Annotated[Unsigned, Meta(description="Of the committed configuration.")]
    voters: Annotated[Sequence[Hex32], Meta(description="Peer ids; of the committed configuration.")]
    learners: Annotated[Sequence[Hex32], Meta(description="Peer ids.")]
    tie: Annotated[Hex32 | None, Meta(description="Whose vote decides between equal halves.")]
    online: bool
    halted: Annotated[str | None, Meta(description="Why this member stopped for good, if it did.")]
    state_machine: Annotated[str, Meta(description="The machine's signature.")]
    mock: Annotated[bool, Meta(description="True if attestation here is not rooted in real hardware.")]
    quorum: Annotated[Quorum, Meta(description="As this node sees it.")]
    memory: Annotated[Memory, Meta(description="Of the node that answers.")]
    levels: Annotated[Levels | None, Meta(description="Null until the genesis is applied here.")]
    log_first_index: Annotated[Unsigned, Meta(description="The first entry that the log still has.")] = 1
    log_bytes: Annotated[Unsigned, Meta(description="About how much the entries take.")] = 0
    snapshot: Annotated[Snapshot | None, Meta(description="Null while there is none.")] = None
    install: Annotated[Install | None, Meta(description="Null unless one is under way.")] = None
    warnings: Annotated[Sequence[StatusWarning], Meta(description="What an operator should look at.")] = ()
    pending_change: Annotated[PendingChange | None, Meta(description="Null unless one is pending.")] = None


class Member(_Response, frozen=True):
    peer_id: Hex32
    name: str
    role: Annotated[
        Literal["leader", "voter", "learner", "observer"],
        Meta(description="By the committed configuration; observer: no voter, and never becomes one."),
    ]
    self: Annotated[bool, Meta(description="True for the node that answers.")]
    bonded: bool
    address: Annotated[str | None, Meta(description="Its bond addresses, if bonded.")]
    api: Annotated[str | None, Meta(description="The URL of its API, if bonded and announced.")]
    match_index: Annotated[int | None, Meta(description="Verified log position; known to the leader only.")]
    connected: Annotated[
        bool,
        Meta(description="Bonded, or itself; if a leader shows it: it answered within an election timeout."),
    ] = False
    caught_up: Annotated[
        bool | None,
        Meta(description="It holds the leader's log as far as it was sent; known to the leader only."),
    ] = None
    lag: Annotated[
        Unsigned | None,
        Meta(description="Entries that the leader does not know it to hold; known to the leader only."),
    ] = None
    pending: Annotated[
        Literal["promotion", "demotion"] | None,
        Meta(description="What a change that is not committed would make of it."),
    ] = None


class Members(_Response, frozen=True):
    members: Sequence[Member]
    config_epoch: Annotated[Unsigned, Meta(description="Of the committed configuration.")] = 0
    pending_change: Annotated[PendingChange | None, Meta(description="Null unless one is pending.")] = None


class SafeToStop(_Response, frozen=True):
    """Whether a member can stop now; what cannot be known is not safe."""

    member: Annotated[Node, Meta(description="Which is asked about.")]
    verdict: Annotated[
        Literal["safe", "unsafe", "unknown"], Meta(description="unknown: ask the leader, or try again.")
    ]
    reason: Annotated[str, Meta(description="Stable, kebab-case; empty if it is safe.")]
    message: Annotated[str, Meta(description="For people; may change.")]
    leader: Annotated[Node | None, Meta(description="Null if none is known.")]


class LogEnd(_Request, frozen=True):
    """The position of a node's last entry."""

    term: Unsigned
    index: Unsigned
    chain: Annotated[Hex32, Meta(description="The digest of the log up to there.")]


class Survivor(_Response, frozen=True):
    """What this node would found a new generation from."""

    member: Node
    authorized: Annotated[bool, Meta(description='Whether the group document has authorize = "survivor".')]
    needs_approval: Annotated[bool, Meta(description="Whether the group has an authority, which must sign.")]
    votes: Annotated[bool, Meta(description="Whether it is a voter of its newest configuration.")]
    group_id: Hex32
    cluster: Cluster | None
    log_end: LogEnd
    applied_index: int
    age_ms: Annotated[
        int | None,
        Meta(description="How long ago its state covered all that a leader had committed; null: never."),
    ]
    quorum: Quorum


class RecoveryRequest(_Request, frozen=True):
    """Found a new generation from the node that receives this."""

    log_end: Annotated[LogEnd, Meta(description="As the node showed it: it must be unchanged.")]
    approval: (
        Annotated[str, Meta(max_length=8192, description="The authority's signatures, base64.")] | None
    ) = None


class Recovered(_Response, frozen=True):
    """The node leads a new generation of the group, alone at first."""

    cluster: Cluster | None
    index: Annotated[int, Meta(description="Of its first entry.")]


class Removed(_Response, frozen=True):
    """The member is not in the group any more, and this life of its node never will be."""

    member: Annotated[Node, Meta(description="Which was removed.")]


class TransferRequest(_Request, frozen=True):
    """Whom to hand the leadership over to, and who hands it over."""

    target: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                description="Name or peer id; by default the voter that is furthest.",
            ),
        ]
        | None
    ) = None
    leader: Annotated[
        Hex32 | None,
        Meta(
            description="Peer id of the leader that hands over. If another leads by now, that hands "
            "nothing over, so that a repetition is harmless."
        ),
    ] = None


class Transferred(_Response, frozen=True):
    """The leadership is where it was asked to be."""

    leader: Annotated[Node, Meta(description="Which leads now.")]


class Bond(_Response, frozen=True):
    peer_id: Hex32
    name: str
    preference: Literal["normal", "reluctant", "observer"]
    address: str | None
    api: str | None
    outgoing: Annotated[bool, Meta(description="True if this node opened it.")]
    since: datetime
    expires_at: Annotated[datetime | None, Meta(description="When the first of its tickets expires.")]
    mock: bool
    appraisals: Annotated[
        Mapping[str, Mapping[str, Any]], Meta(description="The appraisal, by ticket class.")
    ]
    software: Software


class Bonds(_Response, frozen=True):
    mock: bool
    bonds: Sequence[Bond]


# ---- commands and queries -----------------------------------------------------------
class CommandRequest(_Request, frozen=True):
    """Exactly one of ``command`` and ``commands``; several commands are one atomic entry."""

    command: Annotated[Any, Meta(description="One command of the state machine.")] = UNSET
    commands: (
        Annotated[list[Any], Meta(min_length=1, max_length=1000, description="All, or none.")] | UnsetType
    ) = UNSET
    wait: Annotated[
        Literal["committed", "accepted"],
        Meta(description="accepted: answer as soon as the entry has its place in the leader's log."),
    ] = "committed"


class CommandResult(_Response, frozen=True):
    """The command is committed and was applied exactly once."""

    term: Unsigned
    index: Unsigned
    result: Annotated[Any, Meta(description="What the state machine returned.")]


class CommandResults(_Response, frozen=True):
    """All commands are committed and were applied exactly once."""

    term: Unsigned
    index: Unsigned
    results: Annotated[Sequence[Any], Meta(description="One per command.")]


class AlreadyExecuted(_Response, frozen=True):
    """An earlier copy with this Idempotency-Key was executed, once. Its results are not kept."""

    term: Unsigned
    index: Unsigned
    digest: Annotated[
        Hex32, Meta(description="SHA-256 of the deterministic CBOR of the array of its results.")
    ]
    size: Annotated[Unsigned, Meta(description="Bytes of that array.")]
    code: Literal["already-executed"] = "already-executed"
    result: None = None


class Accepted(_Response, frozen=True):
    """The entry has this place in the log; it counts once an entry of this term is committed there."""

    term: Unsigned
    index: Unsigned


class At(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place in the log."""

    term: Unsigned
    index: Unsigned


class QueryRequest(_Request, frozen=True):
    query: Annotated[Any, Meta(description="A query of the state machine.")]
    consistency: Annotated[
        Literal["strong", "weak"],
        Meta(description="strong: linearizable. weak: this node's state, which may be old."),
    ] = "strong"
    min_at: Annotated[
        At | None, Meta(description="Answer from a state that includes this place (read your writes).")
    ] = None
    max_age_ms: Annotated[
        Annotated[int, Meta(ge=0, le=86_400_000)] | None,
        Meta(
            description="Weak only: refuse if this node's state last covered everything that a leader had "
            "committed longer ago than this, or never."
        ),
    ] = None


class QueryResult(_Response, frozen=True):
    result: Annotated[Any, Meta(description="What the state machine answered.")]
    at: Annotated[At, Meta(description="The state that the answer was read from.")]
    age_ms: Annotated[
        Unsigned | None,
        Meta(
            description="Time since that state covered all that a leader had committed; null if it never "
            "did, 0 for strong."
        ),
    ]


# ---- attestation ----------------------------------------------------------------
class OwnEvidence(_Response, frozen=True):
    """Fresh evidence of this node: the tickets' claims name ``peer_id`` (the key of this TLS channel) and
    ``binding`` (derived from the nonce).
    """

    mock: bool
    nonce: Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){16,64}$")]
    peer_id: Hex32
    network_id: Hex32
    group_id: Hex32 | None
    cluster: Annotated[
        Cluster | None,
        Meta(description="As the tickets' claims name it; null while the node is in no cluster."),
    ]
    binding: Hex32
    tickets: Annotated[Mapping[str, Base64], Meta(description="By ticket class.")]
    birth_certificate: Annotated[
        Base64 | None,
        Meta(description="As from /v1/birth-certificate: the authority's statement about the cluster."),
    ] = None
    group_ca: Annotated[
        Base64 | None,
        Meta(
            description="The certificate of the group's own authority, DER; the tickets' claims carry its "
            "SHA-256. Null while the group has none."
        ),
    ] = None


class PeerEvidence(_Response, frozen=True):
    """A bonded peer's evidence as it was received, and the results of its appraisal."""

    peer_id: Hex32
    name: str
    mock: bool
    since: datetime
    expires_at: datetime | None
    tickets: Annotated[Mapping[str, Base64], Meta(description="By ticket class, as received.")]
    appraisals: Annotated[Mapping[str, Mapping[str, Any]], Meta(description="By ticket class.")]


class PeersEvidence(_Response, frozen=True):
    mock: bool
    peers: Sequence[PeerEvidence]


# ---- audit ------------------------------------------------------------------------
class AuditEvents(_Response, frozen=True):
    events: Annotated[Sequence[Mapping[str, Any]], Meta(description="Hash-chained records, in order.")]


# ---- the birth certificate ----------------------------------------------------------
class BirthCertificate(_Response, frozen=True):
    """The authority's signed statement that this cluster is the group (docs/bonds.md).

    A client verifies it by its signatures alone.
    """

    birth_certificate: Annotated[
        Base64 | None, Meta(description="Deterministic CBOR; null before the cluster was confirmed.")
    ]


class ConfirmRequest(_Request, frozen=True):
    birth_certificate: Annotated[
        str, Meta(min_length=1, max_length=8192, pattern=BASE64_PATTERN, description="Base64.")
    ]


# ---- access -----------------------------------------------------------------------
AccessName = Annotated[
    str,
    Meta(pattern=NAME_PATTERN, description="The operator's label, unique in the list."),
]
Role = Annotated[Literal["read", "write", "audit", "metrics", "export", "admin"], Meta()]


class AccessRequest(_Request, frozen=True):
    """Exactly one of ``token_sha256``, ``certificate_pem`` and ``password`` names the new credential."""

    name: AccessName
    roles: Annotated[list[Role], Meta(min_length=1, max_length=6)]
    token_sha256: (
        Annotated[Hex32, Meta(description="SHA-256 of the text of a token of 256 random bits.")] | UnsetType
    ) = UNSET
    certificate_pem: (
        Annotated[str, Meta(max_length=16384, description="A self-signed client certificate.")] | UnsetType
    ) = UNSET
    password: Annotated[str, Meta(min_length=1, max_length=256, description="Secret.")] | UnsetType = UNSET
    prefixes: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=1024)]],
            Meta(
                min_length=1,
                max_length=64,
                description="Limits `read` and `write` to keys with one of these prefixes.",
            ),
        ]
        | UnsetType
    ) = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET


class AccessGrant(_Response, frozen=True):
    """One credential of the list."""

    name: str
    kind: Literal["token", "certificate", "user"]
    credential: Annotated[Hex32, Meta(description="A digest; it grants no access.")]
    roles: Annotated[Sequence[str], Meta(description="`admin` includes all others.")]
    prefixes: Annotated[Sequence[str] | None, Meta(description="Null: every key.")]
    expires_at: datetime | None
    expired: bool


class AccessListing(_Response, frozen=True):
    """The list at ``at``: linearizable."""

    access: Sequence[AccessGrant]
    at: At


class AccessChanged(_Response, frozen=True):
    """The change is committed: it holds on every node from this index on."""

    term: Unsigned
    index: Unsigned
    name: str
    credential: Hex32
    admins: Annotated[Unsigned, Meta(description="The number of admins now.")]


# ---- provisioning -----------------------------------------------------------------
class ProvisionRequest(_Request, frozen=True):
    group_key: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$", description="32 bytes, hex. Secret.")]


class Provisioned(_Response, frozen=True):
    group_id: Hex32


# ---- errors -----------------------------------------------------------------------
class Failure(_Response, frozen=True):
    """How the state machine refused one command."""

    position: Annotated[int, Meta(ge=0, description="Position of the command within the request.")]
    code: str
    message: str


class Problem(_Response, frozen=True):
    """RFC 9457. ``code`` decides which of the optional members are present."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    code: Annotated[str, Meta(description="Stable, for machines.")]
    detail: Annotated[str, Meta(description="For people.")]
    mock: bool | UnsetType = UNSET
    reason: Annotated[str, Meta(description="A finer stable code.")] | UnsetType = UNSET
    leader: Node | UnsetType | None = UNSET
    quorum: Annotated[Quorum, Meta(description="If the group cannot make progress.")] | UnsetType = UNSET
    failures: Sequence[Failure] | UnsetType = UNSET
    term: Unsigned | UnsetType = UNSET
    index: Unsigned | UnsetType = UNSET


# What the handlers also require and no type can express: in JSON Schema, for ``/openapi.json``.
RULES: Final[Mapping[type[_Request], Mapping[str, Any]]] = {
    CommandRequest: {"oneOf": [{"required": ["command"]}, {"required": ["commands"]}]},
    AccessRequest: {
        "oneOf": [
            {"required": ["token_sha256"]},
            {"required": ["certificate_pem"]},
            {"required": ["password"]},
        ]
    },
    QueryRequest: {
        "if": {"required": ["max_age_ms"], "properties": {"max_age_ms": {"type": "integer"}}},
        "then": {"required": ["consistency"], "properties": {"consistency": {"const": "weak"}}},
    },
}
