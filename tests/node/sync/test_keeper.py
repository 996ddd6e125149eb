"""A member's snapshots: their size, and what it does when the group agreed on another state."""

import pytest

from node.sync import keeper
from node.sync.evidence import Anchor, StateEvidence
from node.sync.keeper import DivergedError, Keeper, Making, Snapshot, TooLargeError
from node.sync.merkle import MerkleTree, leaf_of
from node.sync.packing import Chunks

ANCHOR = Anchor(2, 9, bytes(32))


def fetched(data=b"state"):
    tree = MerkleTree([leaf_of(data)])
    chunks = Chunks()
    chunks.append(data)
    return Snapshot(StateEvidence(ANCHOR, tree.root, 1, len(data), 100), chunks, tree)


@pytest.mark.parametrize("limit", ["SNAPSHOT_BYTES_MAX", "CHUNKS_MAX"])
def test_a_state_that_no_evidence_can_be_about_is_given_up_before_it_is_reported(monkeypatch, limit):
    monkeypatch.setattr(keeper, limit, 3)
    released = []
    one = Keeper()
    one.begin(Making(ANCHOR, iter([b"abcd"] * 9), lambda: released.append(1), chunk_bytes=1))
    with pytest.raises(TooLargeError):
        one.work(0)
    assert released
    assert one.ready is one.making is None


def test_a_fetched_state_that_is_not_the_one_in_the_log_is_noticed():
    one = Keeper()
    one.install(fetched(b"a lie"))
    with pytest.raises(DivergedError):
        one.prove(fetched().evidence, 0)


def test_a_fetched_state_that_is_the_one_in_the_log_stays():
    one = Keeper()
    snapshot = fetched()
    one.install(snapshot)
    one.prove(fetched().evidence, 0)
    assert one.held is snapshot
