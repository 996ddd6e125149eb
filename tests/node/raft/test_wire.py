"""Messages survive the wire, and no bytes do worse than RemoteProtocolError."""

import contextlib
import typing

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.encoding.canonical import digest, encode
from node.errors import RemoteProtocolError
from node.features import Levels
from node.peers import Incarnation
from node.raft import messages, wire
from node.raft.entries import (
    EMPTY_PAYLOAD,
    ENTRY_LEVELS,
    SessionChange,
    decode_commands_untrusted,
    encode_command_body,
    encode_commands,
    encode_config,
    encode_number,
    encode_session,
    make_entries,
    make_entry,
    payload_prefix,
)
from node.raft.messages import Append, Chunk, Forward, Proposal
from node.raft.quorum import Config
from node.raft.types import (
    LOG_START,
    Bootstrap,
    CommandBatch,
    Cursor,
    Entry,
    EntryKind,
    Key,
    Position,
)
from node.sync.evidence import MARKER, SNAPSHOT_BYTES_MAX, Anchor, StateEvidence, encode_evidence

UINT = st.integers(0, 2**63 - 1)
DIGEST = st.binary(min_size=32, max_size=32)
INC = st.builds(Incarnation, st.text(min_size=1, max_size=20), DIGEST)
INCS = st.lists(INC, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))
CURSOR = st.builds(Cursor, UINT, UINT)
POSITION = st.builds(Position, st.integers(0, 9), st.integers(0, 9), DIGEST)


SEQ = st.integers(1, 30) | st.integers(1, 2**63 - 1)
KEYS = st.builds(Key, st.binary(min_size=1, max_size=256), SEQ)


@given(
    session=st.binary(min_size=16, max_size=16), seq=SEQ, key=st.none() | KEYS, text=st.text(), data=st.data()
)
def test_a_command_entry_is_deterministic_cbor_and_gives_back_what_was_put_in(session, seq, key, text, data):
    """And the commands of one with a key are found in it as they are, for their digest."""
    ack_below = data.draw(st.integers(0, seq))
    credential = data.draw(st.none() | st.binary(min_size=1, max_size=32))
    kind = data.draw(st.sampled_from([EntryKind.COMMAND, EntryKind.SYSTEM]))
    body = encode_command_body(({"put": text}, seq), credential)
    payload = encode_commands(session, seq, ack_below, key, body)

    told = None if key is None else [key.name, key.not_after_ms]
    assert payload == encode([session, seq, ack_below, told, credential, [{"put": text}, seq]])
    assert payload.startswith(payload_prefix(session, seq))
    keyed = b"" if key is None else body
    entry = make_entry(LOG_START, term=1, kind=kind, time_ms=1, payload=payload)
    (batch,) = decode_commands_untrusted([entry])
    system = kind is EntryKind.SYSTEM
    commands = ({"put": text}, seq)
    assert batch == CommandBatch(session, seq, ack_below, key, commands, keyed, credential, system)


@pytest.mark.parametrize("seq", [1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1])
def test_a_number_takes_as_many_bytes_as_deterministic_cbor_gives_it(seq):
    body = encode_command_body(("x",))
    assert encode_commands(bytes(16), seq, seq, None, body) == encode(
        [bytes(16), seq, seq, None, None, ["x"]]
    )
    entry = make_entry(
        LOG_START._replace(index=seq - 1), term=seq, kind=EntryKind.NOOP, time_ms=seq, payload=b""
    )
    assert entry.chain == digest("bondstone/entry/v1", bytes(32), seq, seq, 0, seq, b"")


EVIDENCE = st.builds(
    lambda term, index, chain, root, size: StateEvidence(
        Anchor(term, index, chain), root, -(-size // 131_072), size, 131_072
    ),
    st.integers(1, 99), st.integers(1, 99), DIGEST, DIGEST, st.integers(1, SNAPSHOT_BYTES_MAX),
)  # fmt: skip


@st.composite
def payloads(draw):
    kind = draw(st.sampled_from(sorted(ENTRY_LEVELS)))
    if kind in (EntryKind.FEATURE, EntryKind.MACHINE):
        return kind, encode_number(draw(st.integers(1, 65_535)))
    if kind in (EntryKind.COMMAND, EntryKind.SYSTEM):
        seq = draw(st.integers(1, 1000))
        key = draw(st.none() | st.builds(Key, st.just(b"key"), UINT))
        return kind, encode_commands(bytes(16), seq, 1, key, encode_command_body((draw(st.text()),)))
    if kind is EntryKind.SESSION:
        return kind, encode_session(SessionChange("open", bytes(16), draw(DIGEST), draw(UINT)))
    if kind is EntryKind.CONFIG:
        voters = draw(INCS.filter(bool))
        tie = draw(st.none() | st.sampled_from(voters))
        return kind, encode_config(Config(epoch=draw(st.integers(1, 9)), voters=voters, tie=tie, reason="r"))
    if kind is EntryKind.SNAPSHOT:
        return kind, draw(st.just(MARKER) | EVIDENCE.map(encode_evidence))
    return kind, EMPTY_PAYLOAD


@st.composite
def entries_after(draw, after):
    made = []
    for kind, payload in draw(st.lists(payloads(), max_size=4)):
        term = after.term + draw(st.integers(0, 2))
        made.append(make_entry(after, term=term, kind=kind, time_ms=draw(UINT), payload=payload))
        after = Position(made[-1].term, made[-1].index, made[-1].chain)
    return tuple(made)


@st.composite
def appends(draw):
    prev = draw(POSITION)
    taken = draw(entries_after(prev))
    term = (taken[-1].term if taken else prev.term) + draw(st.integers(0, 3))
    return Append(draw(DIGEST), term, prev, taken, draw(UINT), draw(UINT))


@st.composite
def chunks(draw):
    after = draw(POSITION)
    taken = draw(entries_after(after))
    term = (taken[-1].term if taken else after.term) + draw(st.integers(0, 3))
    return Chunk(draw(DIGEST), term, after, True, taken, draw(UINT))


@st.composite
def forwards(draw):
    items = [
        Proposal(kind, draw(UINT), payload)
        for kind, payload in draw(st.lists(payloads(), max_size=4))
        if kind in (EntryKind.COMMAND, EntryKind.SYSTEM, EntryKind.SESSION)
    ]
    return Forward(draw(DIGEST), draw(UINT), draw(UINT), tuple(items))


def strategy(kind):
    if kind is Append:
        return appends()
    if kind is Chunk:
        return chunks()
    if kind is Forward:
        return forwards()
    if kind is messages.Genesis:
        return entries_after(LOG_START).filter(bool).map(lambda e: messages.Genesis(e[0]))
    if kind is messages.Fetch:
        return st.builds(
            lambda c, t, p, checked, u: messages.Fetch(c, t, p.index, p if checked else None, u),
            DIGEST, UINT, POSITION, st.booleans(), UINT,
        )  # fmt: skip
    hints = typing.get_type_hints(kind)
    special = {"refused": st.text(max_size=20), "nonce": st.binary(min_size=16, max_size=16)}
    special["signature"] = st.binary(max_size=100)
    special["voters"] = INCS.filter(bool)
    special["levels"] = st.builds(
        Levels, st.integers(1, 65_535), st.text(min_size=1, max_size=9), st.integers(1, 65_535)
    )
    by_type = {
        int: UINT,
        bool: st.booleans(),
        StateEvidence: EVIDENCE,
        bytes: DIGEST,
        Position: POSITION,
        Cursor: CURSOR,
        Bootstrap: st.sampled_from(Bootstrap),
        messages.Vote: st.sampled_from(messages.Vote),
        messages.Verdict: st.sampled_from(messages.Verdict),
        Incarnation | None: st.none() | INC,
        Cursor | None: st.none() | CURSOR,
        bytes | None: st.none() | DIGEST,
        tuple[Incarnation, ...]: INCS,
        Incarnation: INC,
        tuple[int, ...]: st.lists(UINT, max_size=3).map(tuple),
        tuple[bytes, ...]: st.lists(DIGEST, max_size=3).map(tuple),
        tuple[tuple[int, Cursor], ...]: st.lists(st.tuples(UINT, CURSOR), max_size=3).map(tuple),
    }
    return st.builds(kind, **{n: special.get(n, by_type.get(t)) for n, t in hints.items()})


KINDS = typing.get_args(messages.ClusterMessage) + typing.get_args(messages.FoundingMessage)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_a_message_survives_the_wire(kind, data):
    message = data.draw(strategy(kind))

    assert wire.decode_untrusted(wire.encode(message)) == message


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(data):
    try:
        wire.decode_untrusted(data)
    except RemoteProtocolError:
        return


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text(max_size=5) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@given(tag=st.integers(0, 20), fields=st.lists(PLAIN, max_size=8))
def test_well_formed_cbor_of_the_wrong_shape_is_a_protocol_error(tag, fields):
    try:
        wire.decode_untrusted(cbor2.dumps([tag, *fields]))
    except RemoteProtocolError:
        return


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_one_wrong_field_is_a_protocol_error_or_another_message(kind, data):
    good = cbor2.loads(wire.encode(data.draw(strategy(kind))))
    where = data.draw(st.integers(1, len(good) - 1))
    good[where] = data.draw(PLAIN)
    try:
        wire.decode_untrusted(cbor2.dumps(good))
    except RemoteProtocolError:
        return


@given(message=appends(), cut=st.integers(0, 10_000))
def test_a_message_cut_short_is_a_protocol_error(message, cut):
    data = wire.encode(message)
    with pytest.raises(RemoteProtocolError):
        wire.decode_untrusted(data[: cut % len(data)])


def test_an_oversized_message_is_refused_before_it_is_decoded():
    with pytest.raises(RemoteProtocolError, match="at most"):
        wire.decode_untrusted(b"\x80" * (wire.MESSAGE_BYTES_MAX + 1))


def test_true_is_not_one():
    with pytest.raises(RemoteProtocolError):
        wire.decode_untrusted(cbor2.dumps([6, bytes(32), True]))


def test_entries_cannot_go_back_in_term_nor_beyond_their_leaders():
    prev = Position(5, 9, bytes(32))
    back = [4, bytes(32), 7, list(prev), [[4], bytes([0]), [0], [EMPTY_PAYLOAD]], 0, 0]
    beyond = [4, bytes(32), 7, list(prev), [[8], bytes([0]), [0], [EMPTY_PAYLOAD]], 0, 0]
    pulled = [9, bytes(32), 7, list(prev), True, [[8], bytes([0]), [0], [EMPTY_PAYLOAD]], 0]
    for fields in (back, beyond, pulled):
        with pytest.raises(RemoteProtocolError):
            wire.decode_untrusted(cbor2.dumps(fields))


def test_kinds_of_entries_that_this_version_does_not_know_are_refused():
    prev = Position(5, 9, bytes(32))
    for kind in (EntryKind.POLICY, 99):
        fields = [4, bytes(32), 7, list(prev), [[7], bytes([kind]), [0], [EMPTY_PAYLOAD]], 0, 0]
        with pytest.raises(RemoteProtocolError):
            wire.decode_untrusted(cbor2.dumps(fields))


def test_an_entry_is_chained_to_its_predecessor_whatever_its_sender_claims():
    prev = Position(5, 9, b"a" * 32)
    entry = Entry(7, 10, EntryKind.NOOP, 1, EMPTY_PAYLOAD, b"lie" + bytes(29))
    decoded = wire.decode_untrusted(wire.encode(Append(bytes(32), 7, prev, (entry,), 0, 0)))

    assert (
        decoded.entries[0].chain
        == make_entry(prev, term=7, kind=EntryKind.NOOP, time_ms=1, payload=EMPTY_PAYLOAD).chain
    )


# Where the length of a CBOR head changes (RFC 8949 3).
EDGES = [0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 2]


@pytest.mark.parametrize("number", EDGES)
def test_the_chain_is_the_digest_that_the_design_defines(number):
    kind = EntryKind.COMMAND
    for term, index, time_ms, size in (
        (number, 5, 6, 7),
        (4, number, 6, 7),
        (4, 5, number, 7),
        (4, 5, 6, number),
    ):
        payload = bytes(min(size, 70_000))
        previous = Position(0, index, b"c" * 32)

        made = make_entry(previous, term=term, kind=kind, time_ms=time_ms, payload=payload)

        parts = (previous.chain, term, index + 1, int(kind), time_ms, payload)
        assert made.chain == digest("bondstone/entry/v1", *parts)


def test_entries_made_together_are_those_made_one_by_one():
    parts = [(1 + i // 3, EntryKind.COMMAND, 10**12 + i, bytes(i)) for i in range(300)]
    one_by_one, last = [], LOG_START
    for term, kind, time_ms, payload in parts:
        one_by_one.append(make_entry(last, term=term, kind=kind, time_ms=time_ms, payload=payload))
        last = Position(term, one_by_one[-1].index, one_by_one[-1].chain)

    assert make_entries(LOG_START, parts) == tuple(one_by_one)


@pytest.mark.parametrize(
    "columns",
    [
        [[7], b"\x00", [0], []],
        [[], b"", [0], [EMPTY_PAYLOAD]],
        [[7, 7], b"\x00", [0], [EMPTY_PAYLOAD]],
        [[7], b"\x00\x00", [0], [EMPTY_PAYLOAD]],
        [[7], b"", [0], [EMPTY_PAYLOAD]],
        [[7], b"\x00", [0, 0], [EMPTY_PAYLOAD]],
        [[True], b"\x00", [0], [EMPTY_PAYLOAD]],
        [[7], b"\x00", [-1], [EMPTY_PAYLOAD]],
        [[7], b"\x00", [2**63], [EMPTY_PAYLOAD]],
        [[7], b"\x00", [0], ["text"]],
        [[7], b"\x00", [0], [b"not empty"]],
        [[7], [0], [0], [EMPTY_PAYLOAD]],
    ],
)
def test_columns_of_entries_that_do_not_fit_together_are_refused(columns):
    prev = [5, 9, bytes(32)]
    good = [[7], b"\x00", [0], [EMPTY_PAYLOAD]]
    assert wire.decode_untrusted(cbor2.dumps([4, bytes(32), 7, prev, good, 0, 0])).entries

    with pytest.raises(RemoteProtocolError):
        wire.decode_untrusted(cbor2.dumps([4, bytes(32), 7, prev, columns, 0, 0]))


def test_every_message_has_a_codec():
    known = {cls for cls, *_ in wire._TABLE}

    assert known == set(KINDS)


# ---- what a later release may add ---------------------------------------------------
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_fields_that_a_later_release_adds_at_the_end_are_ignored(kind, data):
    # A message of level 1 has none behind it: what level 2 adds to it is the next field.
    message = data.draw(strategy(kind).filter(lambda m: getattr(m, "verified", ()) is not None))
    value = cbor2.loads(wire.encode(message))
    added = data.draw(st.lists(PLAIN, min_size=1, max_size=3))

    assert wire.decode_untrusted(cbor2.dumps([*value, *added])) == message


def test_fields_that_a_later_release_adds_to_what_messages_hold_are_ignored():
    columns = [[7], bytes([0]), [0], [EMPTY_PAYLOAD]]
    prev = [5, 9, bytes(32)]
    plain = wire.decode_untrusted(cbor2.dumps([4, bytes(32), 7, prev, columns, 0, 0]))
    assert wire.decode_untrusted(cbor2.dumps([4, bytes(32), 7, prev, [*columns, "new"], 0, 0])) == plain

    payload = encode_commands(bytes(16), 1, 1, None, encode_command_body((1,)))
    proposal = [int(EntryKind.COMMAND), 1, payload]
    plain = wire.decode_untrusted(cbor2.dumps([10, bytes(32), 0, 0, [proposal]]))
    assert wire.decode_untrusted(cbor2.dumps([10, bytes(32), 0, 0, [[*proposal, 5]]])) == plain


def test_more_fields_than_any_release_adds_are_refused():
    with pytest.raises(RemoteProtocolError):
        wire.decode_untrusted(cbor2.dumps([6, bytes(32), 1, *range(100)]))


def test_entries_and_names_have_no_more_fields_than_this_release_knows():
    """Every member must make the same of them; a later level is written after its FEATURE only."""
    long = cbor2.dumps([bytes(16), 1, 1, None, None, [1], "new"])
    entry = make_entry(LOG_START, term=1, kind=EntryKind.COMMAND, time_ms=1, payload=long)
    assert decode_commands_untrusted([entry]) == [None]
    for name in (["a", bytes(32)], ["a", bytes(32), 1]):
        presence = cbor2.dumps([14, None, 0, 0, "init", [name], [], 0])
        with contextlib.nullcontext() if len(name) == 2 else pytest.raises(RemoteProtocolError):
            wire.decode_untrusted(presence)


@pytest.mark.parametrize("tag", [67, 68, 1000, 2**40])
def test_a_message_with_a_high_unknown_tag_is_ignored_by_members_that_do_not_know_it(tag):
    assert wire.decode_untrusted(cbor2.dumps([tag, "whatever"])) == messages.Ignorable(tag)


@pytest.mark.parametrize("tag", [0, 22, 63, -1, True, "64", None])
def test_a_message_with_a_low_unknown_tag_is_refused(tag):
    with pytest.raises(RemoteProtocolError, match="unknown tag"):
        wire.decode_untrusted(cbor2.dumps([tag, "whatever"]))
