"""Chunks in memory: packed where that saves something, and the same bytes when they are read."""

import random

from node.sync.packing import Chunks

TEXT = [(b"row %06d " % number) * 10_000 for number in range(4)]
NOISE = [random.Random(number).randbytes(128 * 1024) for number in range(9)]


def held(chunks):
    one = Chunks()
    for chunk in chunks:
        one.append(chunk)
    return one


def test_chunks_are_read_as_they_were_added_in_any_order():
    chunks = [*TEXT[:2], *NOISE, *TEXT[2:], b"", b"x"]
    one = held(chunks)
    assert list(one) == chunks
    assert len(one) == len(chunks)
    for number in (0, 0, 3, len(chunks) - 1, 1, 0, 12):
        assert one[number] == chunks[number]


def test_text_takes_a_fraction_of_its_size():
    assert held(TEXT).memory_bytes < sum(map(len, TEXT)) // 10


def test_noise_takes_its_own_size_and_is_tried_only_now_and_then(monkeypatch):
    tried = []
    compress = Chunks.append.__globals__["zlib"].compress
    monkeypatch.setattr("node.sync.packing.zlib.compress", lambda *args: tried.append(1) or compress(*args))
    assert held(NOISE).memory_bytes == sum(map(len, NOISE))
    assert len(tried) == 2


def test_what_counts_shows_no_more_than_pages():
    assert held([b"a" * 100_000]).memory_bytes == held([b"ab" * 50_000]).memory_bytes == 4096
