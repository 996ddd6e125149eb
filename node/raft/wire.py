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
from attestation.errors import MalformedError
from node.errors import RemoteProtocolError
from node.features import levels_untrusted
from node.raft.entries import ENTRY_BYTES_MAX, VOTERS_MAX, check_payload_untrusted
from node.raft.fields import (
    array,
    boolean,
    cursor,
    digest32,
    entries_after,
    enumeration,
    fixed_array,
    incarnation_or_none,
    incarnations,
    nonce16,
    octets,
    position,
    put_entries,
    put_incarnation,
    put_incarnations,
    refuse,
    short_text,
    uint,
)
from node.raft.messages import (
    DISSOLVED_MAX,
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
    Message,
    Presence,
    Proposal,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Verdict,
    Vote,
    VoteReply,
    VoteRequest,
)
from node.raft.types import COMMANDS, LOG_START, Bootstrap, EntryKind

# An Append holds append_bytes_max of entries, or one entry of command_bytes_max and its overhead.
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
PROPOSALS_MAX: Final = 16_384
IGNORABLE_TAG: Final = 64  # from this tag on an unknown message is ignored
VISIBLE_MAX: Final = 1024
SIGNATURE_BYTES_MAX: Final = 1024


def encode(message: Message) -> bytes:
    """Return the bytes of ``message``."""
    tag, encoder, _ = _CODECS_BY_TYPE[type(message)]
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
    _, fields, decoder = codec
    return decoder(fixed_array(value, fields + 1)[1:])


# ---- messages ---------------------------------------------------------------
def _vote_request(f: list[Any]) -> Message:
    c, term, pre, last, roll, transfer = f
    return VoteRequest(
        digest32(c),
        uint(term),
        boolean(pre),
        position(last),
        incarnations(roll, 2 * VOTERS_MAX),
        boolean(transfer),
    )


def _vote_reply(f: list[Any]) -> Message:
    c, term, pre, vote, leader, commit = f
    return VoteReply(
        digest32(c),
        uint(term),
        boolean(pre),
        enumeration(Vote, uint(vote)),
        incarnation_or_none(leader),
        position(commit),
    )


def _append(f: list[Any]) -> Message:
    c, term, prev, entries, commit, seq = f
    after = position(prev)
    taken = entries_after(entries, after)
    if uint(term) < (taken[-1].term if taken else after.term):
        refuse("entries of a later term than the leader's")
    return Append(digest32(c), term, after, taken, uint(commit), uint(seq))


def _append_reply(f: list[Any]) -> Message:
    c, term, verdict, match, seq, have = f
    return AppendReply(
        digest32(c),
        uint(term),
        enumeration(Verdict, uint(verdict)),
        uint(match),
        uint(seq),
        cursor(have),
    )


def _fetch(f: list[Any]) -> Message:
    c, term, after, check, upto = f
    checked = None if check is None else position(check)
    if checked is not None and checked.index != after:
        refuse("a check of another index")
    return Fetch(digest32(c), uint(term), uint(after), checked, uint(upto))


def _chunk(f: list[Any]) -> Message:
    c, term, raw_after, ok, entries, hint = f
    after = position(raw_after)
    taken = entries_after(entries, after)
    if taken and not boolean(ok):
        refuse("a refusal with entries")
    if taken and uint(term) < taken[-1].term:
        refuse("entries of a later term than the server's")
    return Chunk(digest32(c), uint(term), after, boolean(ok), taken, uint(hint))


def _proposal(value: Any) -> Proposal:
    kind_code, seq, payload = fixed_array(value, 3)
    kind = enumeration(EntryKind, uint(kind_code))
    if kind is not EntryKind.SESSION and kind not in COMMANDS:
        refuse("a proposal of a kind that only leaders write")
    check_payload_untrusted(kind, octets(payload, ENTRY_BYTES_MAX))
    return Proposal(kind, uint(seq), payload)


def _forward(f: list[Any]) -> Message:
    c, session, after, proposals = f
    items = tuple(_proposal(item) for item in array(proposals, PROPOSALS_MAX))
    return Forward(digest32(c), uint(session), uint(after), items)


def _forward_reply(f: list[Any]) -> Message:
    c, term, session, cursors, refused, leader = f
    taken = []
    for item in array(cursors, PROPOSALS_MAX):
        seq, at = fixed_array(item, 2)
        taken.append((uint(seq), cursor(at)))
    return ForwardReply(
        digest32(c),
        uint(term),
        uint(session),
        tuple(taken),
        short_text(refused),
        incarnation_or_none(leader),
    )


def _presence(f: list[Any]) -> Message:
    c, commands, commit, mode, visible, dissolved, abandoned = f
    return Presence(
        None if c is None else digest32(c),
        uint(commands),
        uint(commit),
        enumeration(Bootstrap, short_text(mode)),
        incarnations(visible, VISIBLE_MAX),
        tuple(digest32(item) for item in array(dissolved, DISSOLVED_MAX)),
        uint(abandoned),
    )


def _genesis_proposal(f: list[Any]) -> Message:
    number, nonce, voters, levels = f
    found = incarnations(voters, VOTERS_MAX)
    if not found:
        refuse("a genesis without voters")
    return GenesisProposal(uint(number), nonce16(nonce), found, levels_untrusted(levels))


def _genesis_signature(f: list[Any]) -> Message:
    nonce, signature = f
    return GenesisSignature(nonce16(nonce), octets(signature, SIGNATURE_BYTES_MAX))


def _genesis(f: list[Any]) -> Message:
    (entries,) = f
    taken = entries_after(entries, LOG_START)
    if len(taken) != 1:
        refuse("a genesis is one entry")
    return Genesis(taken[0])


_Encoder = Callable[[Any], list[Any]]
_Decoder = Callable[[list[Any]], Message]
# (class, tag, encoder, number of fields, decoder)
_TABLE: Final[tuple[tuple[type, int, _Encoder, int, _Decoder], ...]] = (
    (
        VoteRequest,
        1,
        lambda m: [m.cluster, m.term, m.pre, list(m.last), put_incarnations(m.roll), m.transfer],
        6,
        _vote_request,
    ),
    (
        VoteReply,
        2,
        lambda m: [m.cluster, m.term, m.pre, int(m.vote), put_incarnation(m.leader), list(m.commit)],
        6,
        _vote_reply,
    ),
    (
        TimeoutNow,
        3,
        lambda m: [m.cluster, m.term],
        2,
        lambda f: TimeoutNow(digest32(f[0]), uint(f[1])),
    ),
    (
        Append,
        4,
        lambda m: [
            m.cluster,
            m.term,
            list(m.prev),
            put_entries(m.entries),
            m.commit,
            m.seq,
        ],
        6,
        _append,
    ),
    (
        AppendReply,
        5,
        lambda m: [m.cluster, m.term, int(m.verdict), m.match, m.seq, list(m.have)],
        6,
        _append_reply,
    ),
    (
        Avail,
        6,
        lambda m: [m.cluster, m.term],
        2,
        lambda f: Avail(digest32(f[0]), uint(f[1])),
    ),
    (
        AvailReply,
        7,
        lambda m: [m.cluster, m.term, m.upto],
        3,
        lambda f: AvailReply(digest32(f[0]), uint(f[1]), uint(f[2])),
    ),
    (
        Fetch,
        8,
        lambda m: [
            m.cluster,
            m.term,
            m.after,
            None if m.check is None else list(m.check),
            m.upto,
        ],
        5,
        _fetch,
    ),
    (
        Chunk,
        9,
        lambda m: [m.cluster, m.term, list(m.after), m.ok, put_entries(m.entries), m.hint],
        6,
        _chunk,
    ),
    (
        Forward,
        10,
        lambda m: [
            m.cluster,
            m.session,
            m.after,
            [[int(p.kind), p.seq, p.payload] for p in m.proposals],
        ],
        4,
        _forward,
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
        6,
        _forward_reply,
    ),
    (
        ReadIndex,
        12,
        lambda m: [m.cluster, m.id],
        2,
        lambda f: ReadIndex(digest32(f[0]), uint(f[1])),
    ),
    (
        ReadIndexReply,
        13,
        lambda m: [m.cluster, m.id, m.term, m.index],
        4,
        lambda f: ReadIndexReply(digest32(f[0]), uint(f[1]), uint(f[2]), uint(f[3])),
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
        7,
        _presence,
    ),
    (
        GenesisProposal,
        15,
        lambda m: [m.round, m.nonce, put_incarnations(m.voters), m.levels.encode()],
        4,
        _genesis_proposal,
    ),
    (GenesisSignature, 16, lambda m: [m.nonce, m.signature], 2, _genesis_signature),
    (Genesis, 17, lambda m: [put_entries((m.entry,))], 1, _genesis),
)
_CODECS_BY_TYPE: Final = {cls: (tag, enc, dec) for cls, tag, enc, _, dec in _TABLE}
_CODECS_BY_TAG: Final = {tag: (cls, fields, dec) for cls, tag, _, fields, dec in _TABLE}
