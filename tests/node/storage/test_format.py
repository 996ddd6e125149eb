"""Whatever a crash leaves of the last batch, what was durable comes back; damage before it is refused."""

import io
import random
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.raft.entries import make_entry
from node.raft.events import Recovered, SaveBase, SaveEnd, SaveEntries, SaveTruncation, SaveVote
from node.raft.messages import DISSOLVED_MAX
from node.raft.types import LOG_START, EntryKind, Position
from node.storage import format as file_format
from node.storage.format import (
    MAGIC_5,
    NO_SEGMENT,
    SECTOR_BYTES,
    Batches,
    LogSummary,
    encode_beginning,
    encode_identity,
    encode_records,
    file_head,
)
from node.storage.replay import Replay
from node.sync.evidence import Anchor, StateEvidence

ME = Incarnation("a", b"\x01" * 32)
OTHER = Incarnation("b", b"\x02" * 32)
SALT = bytes(range(16))
SPACE = bytes(20 * SECTOR_BYTES)


def entries(count, *, term=1, after=LOG_START, payload=b"payload"):
    made = []
    for _ in range(count):
        made.append(make_entry(after, term=term, kind=EntryKind.COMMAND, time_ms=5, payload=payload))
        after = Position(made[-1].term, made[-1].index, made[-1].chain)
    return tuple(made)


def evidence_at(entry):
    """Return evidence about the state at ``entry``; nothing here looks at its root."""
    return StateEvidence(Anchor(entry.term, entry.index, entry.chain), bytes(32), 1, 5, 1024)


BEGINNING = encode_beginning(1, NO_SEGMENT, LogSummary())


def written(*batches, salt=SALT, number=1, before=NO_SEGMENT, summary=None):
    """Return a segment with these batches of records, without space, and where each batch ends."""
    places = Batches(salt)
    data = file_head(salt) + places.encode(encode_identity(ME))
    data += places.encode(encode_beginning(number, before, summary or LogSummary()))
    ends = [len(data)]
    for records in batches:
        data += places.encode(encode_records(records))
        ends.append(len(data))
    return data, ends


def recover(*segments, me=ME, space_bytes=1):
    """Return what is recovered from these segments, the snapshot aside."""
    replay = Replay(me)
    for segment in segments:
        replay.read(io.BytesIO(segment), is_last=segment is segments[-1], space_bytes=space_bytes)
    replay.require_whole()
    found = replay.summary
    return Recovered(found.term, found.voted_for, tuple(replay.entries), tuple(found.ended))


LOG = entries(50)
HISTORY = (
    [SaveVote(1, OTHER)],
    [SaveEntries(LOG[:20])],
    [SaveTruncation(4), SaveEntries(LOG[4:5])],
    [SaveVote(3, None), SaveEntries(LOG[5:])],
)
BEFORE = Recovered(1, OTHER, LOG[:5])
AFTER = Recovered(3, None, LOG)
WHOLE, ENDS = written(*HISTORY)
DURABLE = ENDS[-2]
"""Where the last batch begins: all before it was reported durable."""


def test_what_was_written_is_read() -> None:
    assert recover(WHOLE + SPACE) == recover(WHOLE) == AFTER
    assert recover(WHOLE[:DURABLE] + SPACE) == BEFORE


# ---- a crash: the last batch, and nothing else, is torn in any way --------------------------------------------
def test_the_last_batch_cut_off_at_every_byte() -> None:
    for cut in range(DURABLE, len(WHOLE)):
        assert recover(WHOLE[:cut]) == BEFORE
        assert recover(WHOLE[:cut] + SPACE) in (BEFORE, AFTER)


@pytest.mark.parametrize("seed", range(3))
def test_the_last_batch_is_garbage_from_and_up_to_every_byte(seed: int) -> None:
    length = len(WHOLE) - DURABLE
    garbage = random.Random(seed).randbytes(length)
    for cut in range(1, length):
        for torn in (WHOLE[DURABLE : DURABLE + cut] + garbage[cut:], garbage[:cut] + WHOLE[DURABLE + cut :]):
            assert recover(WHOLE[:DURABLE] + torn + SPACE) in (BEFORE, AFTER)
        assert recover(WHOLE[:DURABLE] + garbage[:cut] + SPACE) == BEFORE


def test_any_of_the_last_batchs_sectors_never_arrived() -> None:
    sectors = [WHOLE[at : at + SECTOR_BYTES] for at in range(DURABLE, len(WHOLE), SECTOR_BYTES)]
    assert len(sectors) > 2
    for arrived in product((False, True), repeat=len(sectors)):
        torn = b"".join(
            s if there else bytes(SECTOR_BYTES) for s, there in zip(sectors, arrived, strict=True)
        )
        assert recover(WHOLE[:DURABLE] + torn + SPACE) == (AFTER if all(arrived) else BEFORE)


def test_the_payload_of_a_torn_batch_cannot_pass_for_a_later_batch() -> None:
    """Otherwise an author of commands could keep a member that lost power from ever starting again."""

    def torn_with_forged_head(salt: bytes) -> bytes:
        data, ends = written([SaveVote(1, None)])
        forged = Batches(salt).encode(b"forged")
        # The entry's head and the batch's stand before the payload; the second sector is the client's.
        payload = bytes(SECTOR_BYTES - file_format._BODY - file_format.ENTRY_HEAD.size) + forged
        whole, _ = written([SaveVote(1, None)], [SaveEntries(entries(1, payload=payload))])
        assert whole[ends[-1] + SECTOR_BYTES :][:SECTOR_BYTES] == forged
        return data + bytes(SECTOR_BYTES) + whole[len(data) + SECTOR_BYTES :]

    assert recover(torn_with_forged_head(bytes(16))) == Recovered(1, None, ())
    with pytest.raises(CorruptStorageError):
        recover(torn_with_forged_head(SALT))  # so would it be if the salt were known


# ---- corruption: before the last batch, nothing is ever dropped -----------------------------------------------
def refused(data: bytes) -> None:
    with pytest.raises(CorruptStorageError):
        recover(data + SPACE)


def test_every_damaged_byte_before_the_last_batch_is_refused() -> None:
    for at in range(DURABLE):
        for flip in (1 << at % 8, 0xFF):
            refused(WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :])


def test_every_lost_or_exchanged_sector_before_the_last_batch_is_refused() -> None:
    for at in range(0, DURABLE, SECTOR_BYTES):
        for there in (bytes(SECTOR_BYTES), b"\xff" * SECTOR_BYTES):
            refused(WHOLE[:at] + there + WHOLE[at + SECTOR_BYTES :])
        for other in range(0, len(WHOLE), SECTOR_BYTES):
            sector = WHOLE[other : other + SECTOR_BYTES]
            if sector != WHOLE[at : at + SECTOR_BYTES]:
                refused(WHOLE[:at] + sector + WHOLE[at + SECTOR_BYTES :])


def test_a_batch_left_out_repeated_or_of_another_file_is_refused() -> None:
    another, _ = written(*HISTORY, salt=b"another salt, 16")
    for start, end in pairwise(ENDS[:-1]):
        refused(WHOLE[:start] + WHOLE[end:])
        refused(WHOLE[:end] + WHOLE[start:])
        refused(WHOLE[:start] + WHOLE[ENDS[-2] :])
        refused(WHOLE[:start] + another[start:end] + WHOLE[end:])


def test_without_the_look_beyond_it_a_damaged_durable_batch_would_be_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = ENDS[0]
    damaged = WHOLE[:start] + bytes(SECTOR_BYTES) + WHOLE[start + SECTOR_BYTES :]
    refused(damaged)
    monkeypatch.setattr(Batches, "was_begun_after", lambda *_: False)
    assert recover(damaged) == Recovered(0, None, ())  # a member that has forgotten its vote and its log


def test_the_file_of_another_incarnation_or_program_is_refused() -> None:
    with pytest.raises(CorruptStorageError, match="another incarnation"):
        recover(WHOLE, me=OTHER)
    with pytest.raises(CorruptStorageError, match="not a bondstone log"):
        recover(b"bondstone-log/1\n" + WHOLE[16:])
    with pytest.raises(CorruptStorageError, match="first batch"):
        recover(file_head(SALT) + SPACE)
    with pytest.raises(CorruptStorageError, match="second batch"):
        recover(file_head(SALT) + Batches(SALT).encode(encode_identity(ME)) + SPACE)


def begun_with(body):
    """Return a segment whose third batch has ``body``."""
    places = Batches(SALT)
    return file_head(SALT) + b"".join(map(places.encode, (encode_identity(ME), BEGINNING, body)))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        encode_identity(ME),
        encode_records([SaveTruncation(1)]),
        encode_records([SaveVote(1, OTHER)])[:-1],
        encode_records([SaveVote(2, None), SaveVote(1, None)]),
        encode_records([SaveVote(2, None), SaveEntries(entries(1)), SaveVote(0, None)]),
        encode_records([SaveVote(2, None), SaveVote(0, OTHER)]),
        encode_records([SaveEnd(bytes(32))])[:-1],
        encode_records([SaveEntries(LOG), SaveBase(evidence_at(LOG[9]))])[:-1],
        encode_records([SaveEntries(LOG), SaveBase(evidence_at(LOG[9])), SaveBase(evidence_at(LOG[8]))]),
        encode_records([SaveEntries(LOG), SaveBase(evidence_at(LOG[9])), SaveTruncation(9)]),
        encode_records([SaveVote(2, None), SaveBase(evidence_at(LOG[9])), SaveVote(0, None)]),
        encode_records([SaveEntries(entries(1))])[:-1],
        encode_records([SaveEntries(entries(1))])[:1]
        + b"\xee"
        + encode_records([SaveEntries(entries(1))])[2:],
    ],
    ids=[
        "unknown",
        "identity",
        "truncation-above",
        "vote-cut",
        "term-back",
        "term-0-with-a-log",
        "vote-in-term-0",
        "end-cut",
        "base-cut",
        "base-back",
        "truncation-below-the-base",
        "term-0-with-a-base",
        "entry-cut",
        "entry-kind",
    ],
)
def test_a_whole_batch_of_what_is_no_history_is_refused(body: bytes) -> None:
    refused(begun_with(body))


@pytest.mark.parametrize("kind", [int(EntryKind.POLICY), 200])
def test_an_entry_that_a_later_release_wrote_is_named_as_that_and_not_as_damage(kind: int) -> None:
    record = encode_records([SaveEntries(entries(1))])
    data = begun_with(record[:1] + bytes([kind]) + record[2:])
    with pytest.raises(CorruptStorageError, match=f"kind {kind}, which a later release"):
        recover(data + SPACE)


# ---- the base ------------------------------------------------------------------------------------------------
def test_the_log_goes_on_behind_a_base_that_it_leads_to() -> None:
    base = SaveBase(evidence_at(LOG[29]))
    whole, _ = written([SaveVote(1, None), SaveEntries(LOG[:40])], [base], [SaveEntries(LOG[40:])])
    assert recover(whole) == Recovered(1, None, LOG[30:])

    whole, _ = written([SaveVote(1, None), SaveEntries(LOG)], [SaveBase(evidence_at(LOG[-1]))])
    assert recover(whole) == Recovered(1, None, ())


def test_nothing_is_left_of_a_log_that_does_not_lead_to_its_base() -> None:
    """A member that took the state from peers: its own entries ended before, or were another leader's."""
    more = entries(3, after=Position(LOG[29].term, LOG[29].index, LOG[29].chain), payload=b"more")
    base = SaveBase(evidence_at(LOG[29]))
    for own in (LOG[:10], entries(40, payload=b"of another leader")):
        whole, _ = written([SaveEntries(own)], [base, SaveEntries(more)])
        assert recover(whole) == Recovered(0, None, more)


def test_a_member_that_left_its_cluster_has_no_base() -> None:
    left = [SaveEnd(bytes(32)), SaveTruncation(0), SaveVote(0, None)]
    whole, _ = written([SaveEntries(LOG)], [SaveBase(evidence_at(LOG[9]))], left, [SaveEntries(LOG[:3])])
    assert recover(whole) == Recovered(0, None, LOG[:3], (bytes(32),))


# ---- segments ------------------------------------------------------------------------------------------------
def segments_of(*histories):
    """Return a segment for each history of batches; each follows the one before."""
    segments, summary, before = [], LogSummary(), NO_SEGMENT
    for number, batches in enumerate(histories, 1):
        salt = bytes([number]) * 16
        segment, _ = written(*batches, salt=salt, number=number, before=before, summary=summary)
        places = Batches(salt)
        places.take(io.BytesIO(segment))
        while places.take(io.BytesIO(segment)) is not None:
            pass
        before = places.digest
        for record in (record for batch in batches for record in batch):
            summary.follow(record)
        segments.append(segment)
    return segments


PARTS = (
    [[SaveVote(1, OTHER), SaveEnd(bytes(32))], [SaveEntries(LOG[:20])]],
    [[SaveVote(2, None)], [SaveEntries(LOG[20:29]), SaveBase(evidence_at(LOG[9])), SaveEntries(LOG[29:30])]],
    [[SaveEntries(LOG[30:44])], [SaveBase(evidence_at(LOG[34])), SaveEntries(LOG[44:45])]],
    [[SaveVote(3, ME), SaveEntries(LOG[45:])]],
)
SEGMENTS = segments_of(*PARTS)
STANDS = Recovered(3, ME, LOG[35:], (bytes(32),))


def test_segments_are_read_one_after_the_other() -> None:
    assert recover(*SEGMENTS) == STANDS
    assert recover(*SEGMENTS[:2]) == Recovered(2, None, LOG[10:30], (bytes(32),))


def test_segments_that_the_base_covers_may_be_missing_and_no_others() -> None:
    assert recover(*SEGMENTS[1:]) == recover(*SEGMENTS[2:]) == STANDS
    with pytest.raises(CorruptStorageError, match="are missing"):
        recover(*SEGMENTS[3:])
    with pytest.raises(CorruptStorageError, match="are missing"):
        recover(segments_of([[SaveEntries(LOG[:20])]], [[SaveEntries(LOG[20:])]])[1])


def test_a_segment_left_out_exchanged_or_cut_is_refused() -> None:
    other = segments_of(PARTS[0], [[SaveVote(2, OTHER)]], *PARTS[2:])
    first, second, third, last = SEGMENTS
    cut = second[: -2 * SECTOR_BYTES]  # its last batch
    for segments in (
        (first, third, last),
        (second, first, third, last),
        (first, second, second, third, last),
        (first, other[1], third, last),
        (first, cut, third, last),
    ):
        with pytest.raises(CorruptStorageError, match="does not follow segment"):
            recover(*segments)


def test_what_a_crash_tore_in_a_segment_that_another_follows_never_counted() -> None:
    torn = Batches(bytes(16)).encode(encode_records([SaveEntries(LOG[:9])]))
    first, *rest = SEGMENTS
    assert recover(first + torn + SPACE, *rest) == STANDS


def test_a_log_of_version_5_is_a_segment_that_others_follow() -> None:
    places = Batches(SALT, MAGIC_5)
    old = file_head(SALT, MAGIC_5) + places.encode(encode_identity(ME))
    old += places.encode(encode_records([SaveVote(3, OTHER), SaveEntries(LOG[:20])]))
    assert recover(old + SPACE) == Recovered(3, OTHER, LOG[:20])

    summary = LogSummary(3, OTHER, last=Position(LOG[19].term, LOG[19].index, LOG[19].chain))
    new, _ = written([SaveEntries(LOG[20:])], before=places.digest, summary=summary)
    assert recover(old + SPACE, new) == Recovered(3, OTHER, LOG)
    with pytest.raises(CorruptStorageError, match="second batch"):
        recover(old, old)


# ---- any history ----------------------------------------------------------------------------------------------
@st.composite
def histories(draw):
    """Batches as a member makes them, and what must be recovered after each."""
    term, voted, log, ended = 0, None, (), ()
    batches, states = [], []
    for _ in range(draw(st.integers(1, 6))):
        records = []
        for kind in draw(
            st.lists(st.sampled_from(["vote", "truncate", "entries", "end"]), min_size=1, max_size=4)
        ):
            match kind:
                case "vote":
                    term += draw(st.integers(0, 2**40))
                    voted = draw(st.sampled_from([None, ME, OTHER]))
                    records.append(SaveVote(term, voted))
                case "truncate":
                    log = log[: draw(st.integers(0, len(log)))]
                    records.append(SaveTruncation(len(log)))
                case "end":
                    cluster = draw(st.binary(min_size=32, max_size=32))
                    ended = (*ended, cluster)[-DISSOLVED_MAX:]
                    records.append(SaveEnd(cluster))
                case _:
                    after = Position(log[-1].term, log[-1].index, log[-1].chain) if log else LOG_START
                    size = draw(st.integers(0, 3 * SECTOR_BYTES))
                    more = entries(draw(st.integers(1, 5)), term=term, after=after, payload=bytes(size))
                    log += more
                    records.append(SaveEntries(more))
        batches.append(records)
        states.append(Recovered(term, voted, log, ended))
    return batches, states


@given(histories(), st.data())
def test_any_history_torn_anywhere_in_its_last_batch(history, data) -> None:
    batches, states = history
    whole, ends = written(*batches)
    before = states[-2] if len(states) > 1 else Recovered(0, None, ())
    assert recover(whole + SPACE) == states[-1]

    cut = data.draw(st.integers(ends[-2], len(whole) - 1))
    tail = data.draw(st.binary(max_size=len(whole) - cut))
    assert recover(whole[:cut] + tail + SPACE) in (before, states[-1])
    sector = data.draw(st.integers(ends[-2] // SECTOR_BYTES, len(whole) // SECTOR_BYTES - 1)) * SECTOR_BYTES
    torn = whole[:sector] + bytes(SECTOR_BYTES) + whole[sector + SECTOR_BYTES :]
    assert recover(torn + SPACE) in (before, states[-1])
