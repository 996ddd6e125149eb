"""Frames are cut into chunks and read back, and evidence about them is checked before it costs anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import encode
from node.errors import RemoteProtocolError
from node.sync.evidence import (
    MARKER,
    SNAPSHOT_BYTES_MAX,
    Anchor,
    StateEvidence,
    decode_snapshot_untrusted,
    encode_evidence,
)
from node.sync.image import Cutter, NotAnImageError, frame, read_frames

EVIDENCE = StateEvidence(Anchor(3, 70, b"c" * 32), b"r" * 32, 3, 250, 100)


@given(
    values=st.lists(st.binary(max_size=50) | st.integers(0, 2**70), min_size=1),
    chunk_bytes=st.integers(1, 99),
)
def test_what_is_cut_is_read_again(values, chunk_bytes):
    cutter = Cutter(chunk_bytes)
    for value in values:
        cutter.add(frame(4, value))
    cutter.end()

    assert all(len(chunk) == chunk_bytes for chunk in list(cutter.chunks)[:-1])
    assert sum(map(len, cutter.chunks)) == cutter.size
    assert len(cutter.leaves) == len(cutter.chunks)
    assert list(read_frames(cutter.chunks)) == [(4, value) for value in values]


@pytest.mark.parametrize(
    "data",
    [
        frame(1, "cut off")[:-1],
        frame(1, 1) + b"\x01",
        frame(2, 1) + frame(1, 1),
        b"\x01" + (5).to_bytes(8) + b"\xff\xff\xff\xff\xff",
    ],
    ids=["cut off", "a head alone", "sections go back", "no CBOR"],
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(NotAnImageError):
        list(read_frames([data]))


def test_the_payload_of_a_snapshot_entry_is_a_marker_or_evidence():
    assert decode_snapshot_untrusted(MARKER) is None
    assert decode_snapshot_untrusted(encode_evidence(EVIDENCE)) == EVIDENCE


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1],
        [[3, 70, b"c" * 32], b"r" * 32, 2, 250, 100],  # too few chunks for its bytes
        [[3, 70, b"c" * 32], b"r" * 32, 4, 250, 100],
        [[3, 70, b"c" * 31], b"r" * 32, 3, 250, 100],
        [[3, 70, b"c" * 32], b"r" * 33, 3, 250, 100],
        [[0, 70, b"c" * 32], b"r" * 32, 3, 250, 100],
        [[3, 0, b"c" * 32], b"r" * 32, 3, 250, 100],
        [[3, 70, b"c" * 32], b"r" * 32, 3, 250, 0],
        [[3, 70, b"c" * 32], b"r" * 32, 1, 250, 2**40],
        [[3, 70, b"c" * 32], b"r" * 32, True, 250, 100],
        [[3, 70, b"c" * 32], b"r" * 32, 0, 0, 100],
        [[3, 70, b"c" * 32], b"r" * 32, -(-(SNAPSHOT_BYTES_MAX + 1) // 1000), SNAPSHOT_BYTES_MAX + 1, 1000],
        [[3, 70, b"c" * 32], b"r" * 32, 3, 250, 100, 1],
    ],
    ids=repr,
)
def test_other_payloads_are_refused(value):
    with pytest.raises(RemoteProtocolError):
        decode_snapshot_untrusted(encode(value))
