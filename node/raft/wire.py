"""Messages as bytes: a deterministic CBOR array ``[tag, field...]`` each.

Entries travel without index and chain. The receiver computes both from the preceding entry, so decoded
entries are always a valid piece of some log. Every length has a limit, and the frame that carries a message
has one too.

A later release may add fields at the end of messages and of the arrays in them; this release ignores them. It
must not add fields to entries' payloads, positions and names, because each of those is one value. A message
with an unknown tag below 64 is refused, one with a higher tag is ignored.
"""

from collections.abc import Callable
from typing import Any, Final

import cbor2

from attestation.encoding.canonical import decode_untrusted as decode_cbor_untrusted
from attestation.encoding.fields import (
    ROW_ITEMS_MAX,
    Check,
    FieldError,
    array_of,
    bytes_of,
    bytes_up_to,
    flag,
    one_of,
    optional,
    row,
    text,
)
from attestation.errors import MalformedError
from node.errors import RemoteProtocolError
from node.features import levels_untrusted
from node.peers import Incarnation
from node.raft.entries import ENTRY_BYTES_MAX, VOTERS_MAX, check_payload_untrusted, incarnation_untrusted
from node.raft.fields import (
    DIGEST,
    UINT,
    cursor,
    entries_after,
    incarnations,
    position,
    put_entries,
    put_incarnation,
    put_incarnations,
    refuse,
)
from node.raft.messages import (
    DISSOLVED_MAX,
    Alive,
    Append,
    AppendReply,
    Avail,
    AvailReply,
    Chunk,
    Fetch,
    Forward,
    ForwardReply,
    Genesis,
    GenesisProposal,
    GenesisSignature,
    Ignorable,
    MemoryReport,
    Message,
    Overloaded,
    Presence,
    Proposal,
    ReadIndex,
    ReadIndexReply,
    SnapshotDigest,
    SnapshotOffer,
    SyncAnswer,
    SyncAsk,
    TimeoutNow,
    Verdict,
    Vote,
    VoteReply,
    VoteRequest,
)
from node.raft.types import COMMANDS, LOG_START, Bootstrap, Cursor, EntryKind, Position
from node.sync.evidence import evidence_untrusted, put_evidence
from node.sync.state_sync import ANSWER_BYTES_MAX, ASK_BYTES_MAX

# An Append holds append_bytes_max of entries, or one entry of command_bytes_max and its overhead.
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
PROPOSALS_MAX: Final = 16_384
IGNORABLE_TAG: Final = 64  # from this tag on an unknown message is ignored
VISIBLE_MAX: Final = 1024
SIGNATURE_BYTES_MAX: Final = 1024


def encode(message: Message) -> bytes:
    """Return the bytes of ``message``."""
    tag, encoder = _CODECS_BY_TYPE[type(message)]
    # Ints, bytes, text, null, booleans and arrays: cbor2's plain encoding of these is deterministic.
    return cbor2.dumps([tag, *encoder(message)])


def decode_untrusted(data: bytes) -> Message | Ignorable:
    """Return the message in ``data``.

    Raises:
        RemoteProtocolError: it is not a message: too long, not CBOR, wrong types, out of bounds.
    """
    try:
        # The sender is an admitted member, attested to run this code, so the item limit is the number of
        # bytes.
        value = decode_cbor_untrusted(data, bytes_max=MESSAGE_BYTES_MAX, items_max=MESSAGE_BYTES_MAX)
    except MalformedError as exc:
        raise RemoteProtocolError("malformed-message", str(exc)) from exc
    if not isinstance(value, list) or not value:
        refuse("not an array")
    codec = _CODECS_BY_TAG.get(value[0]) if type(value[0]) is int else None
    if codec is None:
        if type(value[0]) is int and value[0] >= IGNORABLE_TAG:
            return Ignorable(value[0])
        refuse("unknown tag")
    fields, checks, make = codec
    if not fields < len(value) <= ROW_ITEMS_MAX:
        refuse(f"expected {fields} fields")
    try:
        # A member of an earlier level sends fewer fields than have a check. What a later release adds at the
        # end has no check, and is ignored.
        return make(*[check(item) for check, item in zip(checks, value[1:], strict=False)])
    except FieldError as exc:
        refuse(str(exc))


# ---- messages ---------------------------------------------------------------
def _unread(value: Any) -> Any:
    """Let a field through that depends on another one: what makes the message reads it."""
    return value


_NONCE: Final = bytes_of(16)
_SIGNATURE: Final = bytes_up_to(SIGNATURE_BYTES_MAX)
_SHORT_TEXT: Final = text(64)
_INCARNATION_OR_NONE: Final = optional(incarnation_untrusted)
_PROPOSAL: Final = row(3)
_KIND: Final = one_of(EntryKind)
_PAYLOAD: Final = bytes_up_to(ENTRY_BYTES_MAX)
_REPLY: Final = row(2)


def _proposal(value: Any) -> Proposal:
    kind_code, seq, payload = _PROPOSAL(value)
    kind = _KIND(kind_code)
    if kind is not EntryKind.SESSION and kind not in COMMANDS:
        refuse("a proposal of a kind that only leaders write")
    check_payload_untrusted(kind, _PAYLOAD(payload))
    return Proposal(kind, UINT(seq), payload)


def _reply(value: Any) -> tuple[int, Cursor]:
    seq, at = _REPLY(value)
    return UINT(seq), cursor(at)


def _put_vote_reply(m: VoteReply) -> list[Any]:
    reply = [m.cluster, m.term, m.pre, int(m.vote), put_incarnation(m.leader), list(m.commit)]
    return reply if m.verified is None else [*reply, list(m.verified)]


def _append(*fields: Any) -> Append:
    cluster, term, prev, entries, commit, seq = fields
    taken = entries_after(entries, prev)
    if term < (taken[-1].term if taken else prev.term):
        refuse("entries of a later term than the leader's")
    return Append(cluster, term, prev, taken, commit, seq)


def _fetch(cluster: bytes, term: int, after: int, check: Position | None, upto: int) -> Fetch:
    if check is not None and check.index != after:
        refuse("a check of another index")
    return Fetch(cluster, term, after, check, upto)


def _chunk(*fields: Any) -> Chunk:
    cluster, term, after, ok, entries, hint = fields
    taken = entries_after(entries, after)
    if taken and not ok:
        refuse("a refusal with entries")
    if taken and term < taken[-1].term:
        refuse("entries of a later term than the server's")
    return Chunk(cluster, term, after, ok, taken, hint)


def _genesis_proposal(
    number: int, nonce: bytes, voters: tuple[Incarnation, ...], levels: Any
) -> GenesisProposal:
    if not voters:
        refuse("a genesis without voters")
    return GenesisProposal(number, nonce, voters, levels_untrusted(levels))


def _genesis(entries: Any) -> Genesis:
    taken = entries_after(entries, LOG_START)
    if len(taken) != 1:
        refuse("a genesis is one entry")
    return Genesis(taken[0])


_Encoder = Callable[[Any], list[Any]]
# (class, tag, encoder, a check for each field, what makes the message of the checked fields)
_TABLE: Final[tuple[tuple[type, int, _Encoder, tuple[Check[Any], ...], Callable[..., Message]], ...]] = (
    (
        VoteRequest,
        1,
        lambda m: [m.cluster, m.term, m.pre, list(m.last), put_incarnations(m.roll), m.transfer],
        (DIGEST, UINT, flag, position, incarnations(2 * VOTERS_MAX), flag),
        VoteRequest,
    ),
    (
        VoteReply,
        2,
        _put_vote_reply,
        (DIGEST, UINT, flag, one_of(Vote), _INCARNATION_OR_NONE, position),
        VoteReply,
    ),
    (TimeoutNow, 3, lambda m: [m.cluster, m.term], (DIGEST, UINT), TimeoutNow),
    (
        Append,
        4,
        lambda m: [m.cluster, m.term, list(m.prev), put_entries(m.entries), m.commit, m.seq],
        (DIGEST, UINT, position, _unread, UINT, UINT),
        _append,
    ),
    (
        AppendReply,
        5,
        lambda m: [m.cluster, m.term, int(m.verdict), m.match, m.seq, list(m.have)],
        (DIGEST, UINT, one_of(Verdict), UINT, UINT, cursor),
        AppendReply,
    ),
    (Avail, 6, lambda m: [m.cluster, m.term], (DIGEST, UINT), Avail),
    (AvailReply, 7, lambda m: [m.cluster, m.term, m.upto], (DIGEST, UINT, UINT), AvailReply),
    (
        Fetch,
        8,
        lambda m: [m.cluster, m.term, m.after, None if m.check is None else list(m.check), m.upto],
        (DIGEST, UINT, UINT, optional(position), UINT),
        _fetch,
    ),
    (
        Chunk,
        9,
        lambda m: [m.cluster, m.term, list(m.after), m.ok, put_entries(m.entries), m.hint],
        (DIGEST, UINT, position, flag, _unread, UINT),
        _chunk,
    ),
    (
        Forward,
        10,
        lambda m: [m.cluster, m.session, m.after, [[int(p.kind), p.seq, p.payload] for p in m.proposals]],
        (DIGEST, UINT, UINT, array_of(_proposal, PROPOSALS_MAX)),
        Forward,
    ),
    (
        ForwardReply,
        11,
        lambda m: [
            m.cluster,
            m.term,
            m.session,
            [[seq, list(cursor)] for seq, cursor in m.cursors],
            m.refused,
            put_incarnation(m.leader),
        ],
        (DIGEST, UINT, UINT, array_of(_reply, PROPOSALS_MAX), _SHORT_TEXT, _INCARNATION_OR_NONE),
        ForwardReply,
    ),
    (ReadIndex, 12, lambda m: [m.cluster, m.id], (DIGEST, UINT), ReadIndex),
    (
        ReadIndexReply,
        13,
        lambda m: [m.cluster, m.id, m.term, m.index],
        (DIGEST, UINT, UINT, UINT),
        ReadIndexReply,
    ),
    (
        Presence,
        14,
        lambda m: [
            m.cluster,
            m.commands,
            m.commit,
            m.mode.value,
            put_incarnations(m.visible),
            list(m.dissolved),
            m.abandoned,
        ],
        (
            optional(DIGEST),
            UINT,
            UINT,
            one_of(Bootstrap),
            incarnations(VISIBLE_MAX),
            array_of(DIGEST, DISSOLVED_MAX),
            UINT,
        ),
        Presence,
    ),
    (
        GenesisProposal,
        15,
        lambda m: [m.round, m.nonce, put_incarnations(m.voters), m.levels.encode()],
        (UINT, _NONCE, incarnations(VOTERS_MAX), _unread),
        _genesis_proposal,
    ),
    (GenesisSignature, 16, lambda m: [m.nonce, m.signature], (_NONCE, _SIGNATURE), GenesisSignature),
    (Genesis, 17, lambda m: [put_entries((m.entry,))], (_unread,), _genesis),
    (Alive, 66, lambda m: [m.cluster, m.outlives], (DIGEST, DIGEST), Alive),
    (
        SnapshotDigest,
        18,
        lambda m: [m.cluster, m.term, put_evidence(m.evidence)],
        (DIGEST, UINT, evidence_untrusted),
        SnapshotDigest,
    ),
    (
        SnapshotOffer,
        19,
        lambda m: [m.cluster, m.base, put_evidence(m.evidence)],
        (DIGEST, UINT, evidence_untrusted),
        SnapshotOffer,
    ),
    (
        SyncAsk,
        20,
        lambda m: [m.cluster, m.root, m.payload],
        (DIGEST, DIGEST, bytes_up_to(ASK_BYTES_MAX)),
        SyncAsk,
    ),
    (
        SyncAnswer,
        21,
        lambda m: [m.cluster, m.root, m.payload],
        (DIGEST, DIGEST, bytes_up_to(ANSWER_BYTES_MAX)),
        SyncAnswer,
    ),
    (
        MemoryReport,
        64,
        lambda m: [m.cluster, m.term, m.last, m.use, m.budget],
        (DIGEST, UINT, UINT, UINT, UINT),
        MemoryReport,
    ),
    (
        Overloaded,
        65,
        lambda m: [m.cluster, m.term, m.session, list(m.seqs), put_incarnation(m.member), m.use, m.budget],
        (DIGEST, UINT, UINT, array_of(UINT, PROPOSALS_MAX), incarnation_untrusted, UINT, UINT),
        Overloaded,
    ),
)
_CODECS_BY_TYPE: Final = {cls: (tag, encoder) for cls, tag, encoder, _, _ in _TABLE}
# The checks of fields that a feature level added at the end of a message of an earlier level.
_ADDED: Final[dict[type, tuple[Check[Any], ...]]] = {VoteReply: (cursor,)}
_CODECS_BY_TAG: Final = {
    tag: (len(checks), (*checks, *_ADDED.get(cls, ())), make) for cls, tag, _, checks, make in _TABLE
}
