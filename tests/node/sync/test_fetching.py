"""A snapshot is fetched from any peers, in parallel, and nothing unproven counts."""

import hashlib
from collections import deque

import pytest

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.sync.evidence import CHUNKS_MAX, Anchor, StateEvidence, evidence_untrusted
from node.sync.fetching import SILENT_MAX, WINDOW, Fetching
from node.sync.image import Cutter
from node.sync.keeper import Snapshot
from node.sync.merkle import MerkleTree, leaf_of

A, B, C = (Incarnation(name, hashlib.sha256(name.encode()).digest()) for name in "abc")
PATIENCE_MS = 1000


def snapshot(count, seed=0):
    chunks = [b"%d of %d" % (number, seed) for number in range(count)]
    tree = MerkleTree([leaf_of(chunk) for chunk in chunks])
    evidence = StateEvidence(Anchor(2, 9, bytes(32)), tree.root, count, 10 * count, 10)
    return evidence, chunks, tree


def give(fetching, chunks, tree, asked):
    for peer, number in asked:
        assert fetching.take(peer, number, chunks[number], tree.proof(number))


def test_all_sources_are_asked_for_different_chunks():
    evidence, chunks, tree = snapshot(100)
    fetching = Fetching(evidence)
    for peer in (A, B, C):
        fetching.offer(peer)
    asked = fetching.requests(0, PATIENCE_MS)

    assert len({number for _, number in asked}) == len(asked) == 3 * WINDOW
    assert {peer: fetching.outstanding(peer) for peer in (A, B, C)} == dict.fromkeys((A, B, C), WINDOW)
    now = 0
    while not fetching.is_complete:
        now += 1
        give(fetching, chunks, tree, asked)
        asked = fetching.requests(now, PATIENCE_MS)
    fetched = list(fetching.hand_over())
    assert fetched == chunks
    assert MerkleTree([leaf_of(chunk) for chunk in fetched]).root == evidence.root


def test_what_a_lost_source_was_asked_for_is_asked_of_the_others_and_nothing_else_again():
    evidence, chunks, tree = snapshot(2 * WINDOW)
    fetching = Fetching(evidence)
    fetching.offer(A)
    fetching.offer(B)
    asked = fetching.requests(0, PATIENCE_MS)
    give(fetching, chunks, tree, [one for one in asked if one[0] == A])
    fetching.lose(B)

    lost = {number for peer, number in asked if peer == B}
    assert fetching.done == WINDOW
    assert {number for _, number in fetching.requests(1, PATIENCE_MS)} == lost
    fetching.lose(A)
    assert not fetching.sources
    assert fetching.requests(2, PATIENCE_MS) == []
    fetching.offer(C)
    give(fetching, chunks, tree, fetching.requests(3, PATIENCE_MS))
    assert fetching.is_complete


def test_a_flipped_byte_a_proof_of_another_snapshot_and_a_chunk_that_does_not_exist_are_refused():
    evidence, chunks, tree = snapshot(4)
    _, other_chunks, other = snapshot(4, seed=1)
    fetching = Fetching(evidence)
    fetching.offer(A)
    fetching.requests(0, PATIENCE_MS)
    flipped = bytes([chunks[0][0] ^ 0x80]) + chunks[0][1:]

    assert not fetching.take(A, 0, flipped, tree.proof(0))
    assert not fetching.take(A, 1, other_chunks[1], other.proof(1))
    assert not fetching.take(A, 1, chunks[1], other.proof(1))
    assert not fetching.take(A, 1, chunks[2], tree.proof(2))
    assert not fetching.take(A, 4, chunks[3], tree.proof(3))
    assert fetching.done == 0
    # They are asked for again.
    give(fetching, chunks, tree, [(A, 0), (A, 1), (A, 2), (A, 3)])
    assert fetching.is_complete


def test_a_peer_that_serves_slowly_for_ever_does_not_hold_up_the_others():
    evidence, chunks, tree = snapshot(3 * WINDOW)
    fetching = Fetching(evidence)
    fetching.offer(A)
    fetching.offer(B)
    slow = [number for peer, number in fetching.requests(0, PATIENCE_MS) if peer == A]
    now = 0
    while not fetching.is_complete:
        now += PATIENCE_MS
        assert now < 20 * PATIENCE_MS
        asked = fetching.requests(now, PATIENCE_MS)
        assert fetching.outstanding(A) <= 1
        give(fetching, chunks, tree, [one for one in asked if one[0] == B])
        give(fetching, chunks, tree, [(A, number) for number in slow[-1:]])  # one, late, each time
    assert list(fetching.hand_over()) == chunks


def test_a_late_answer_of_the_only_source_counts():
    evidence, chunks, tree = snapshot(1)
    fetching = Fetching(evidence)
    fetching.offer(A)
    ((peer, number),) = fetching.requests(0, PATIENCE_MS)
    assert fetching.requests(PATIENCE_MS, PATIENCE_MS) == [(A, 0)]
    assert fetching.due_ms(PATIENCE_MS, PATIENCE_MS) == 2 * PATIENCE_MS
    give(fetching, chunks, tree, [(peer, number)])
    assert fetching.is_complete
    assert fetching.take(A, 0, b"anything", ())  # it is here: not looked at


def test_a_source_that_never_answers_is_given_up_and_one_that_answers_late_is_not():
    evidence, chunks, tree = snapshot(40)
    fetching = Fetching(evidence)
    fetching.offer(A)
    fetching.offer(B)
    now = 0
    late = []
    for _ in range(4 * SILENT_MAX):
        asked = fetching.requests(now, PATIENCE_MS)
        # B's answers come when they are no longer waited for.
        give(fetching, chunks, tree, late)
        late = [(peer, number) for peer, number in asked if peer == B][:1] or late
        now += PATIENCE_MS
    assert fetching.given_up() == [A]
    fetching.lose(A)
    assert fetching.sources == 1


def test_offered_evidence_cannot_ask_for_more_chunks_than_a_member_can_keep_track_of():
    with pytest.raises(RemoteProtocolError, match="not the evidence"):
        evidence_untrusted([[2, 9, bytes(32)], bytes(32), CHUNKS_MAX + 1, CHUNKS_MAX + 1, 1])
    assert evidence_untrusted([[2, 9, bytes(32)], bytes(32), CHUNKS_MAX, CHUNKS_MAX, 1]).count == CHUNKS_MAX


def test_what_was_fetched_is_cut_into_the_same_chunks_again_and_serves_every_one():
    evidence, chunks, tree = snapshot(5)
    fetching = Fetching(evidence)
    for number in (3, 0, 4, 1, 2):
        assert fetching.take(A, number, chunks[number], tree.proof(number))
    cutter = Cutter(len(chunks[0]))
    for chunk in list(fetching.hand_over()):
        cutter.add(chunk)
    cutter.end()
    held = Snapshot.of(evidence.anchor, cutter)
    assert held.evidence.root == evidence.root
    assert [held.chunk(number) for number in range(5)] == [(chunks[n], tree.proof(n)) for n in range(5)]
    assert held.read(3, 12) == b"".join(chunks)[3:15]
    assert held.read(30, 99) == b"".join(chunks)[30:]


def test_a_large_snapshot_costs_a_few_looks_at_each_of_its_chunks(monkeypatch):
    """Looking for the next chunk among all that were asked for already would take hours for 262,144."""
    looked = []

    class Counting(deque):
        def __getitem__(self, at):
            looked.append(at)
            return super().__getitem__(at)

    monkeypatch.setattr("node.sync.fetching.deque", Counting)
    evidence, chunks, tree = snapshot(2000)
    fetching = Fetching(evidence)
    fetching.offer(A)
    fetching.offer(B)
    now = 0
    while not fetching.is_complete:
        now += 1
        give(fetching, chunks, tree, fetching.requests(now, PATIENCE_MS))
    assert len(looked) < 5 * evidence.count
    assert list(fetching.hand_over()) == chunks
