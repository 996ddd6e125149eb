"""A chunk is proven by its place in the tree, and nothing else is."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.sync.merkle import PROOF_DIGESTS_MAX, MerkleTree, is_proven, leaf_of


def root_of(leaves):
    """The definition of RFC 9162 2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def chunks_of(count):
    return [b"chunk %d" % number for number in range(count)]


@pytest.mark.parametrize("count", [*range(1, 40), 255, 256, 257])
def test_every_chunk_is_proven_and_the_root_is_that_of_the_standard(count):
    chunks = chunks_of(count)
    leaves = [leaf_of(chunk) for chunk in chunks]
    tree = MerkleTree(leaves)

    assert tree.root == root_of(leaves)
    for number, chunk in enumerate(chunks):
        proof = tree.proof(number)
        assert len(proof) <= PROOF_DIGESTS_MAX
        assert is_proven(leaf_of(chunk), number, proof, root=tree.root, count=count)


@given(count=st.integers(1, 40), data=st.data())
def test_no_other_chunk_place_proof_or_count_is_proven(count, data):
    chunks = chunks_of(count)
    tree = MerkleTree([leaf_of(chunk) for chunk in chunks])
    number = data.draw(st.integers(0, count - 1))
    chunk, proof = chunks[number], tree.proof(number)
    other = data.draw(st.integers(-1, count + 1).filter(lambda place: place != number))
    flipped = bytes([chunk[0] ^ 1]) + chunk[1:]

    assert not is_proven(leaf_of(flipped), number, proof, root=tree.root, count=count)
    assert not is_proven(leaf_of(chunk), other, proof, root=tree.root, count=count)
    assert not is_proven(leaf_of(chunk), number, (*proof, bytes(32)), root=tree.root, count=count)
    assert not is_proven(leaf_of(chunk), number, proof[:-1] or (bytes(32),), root=tree.root, count=count)
    assert not is_proven(leaf_of(chunk), number, proof, root=bytes(32), count=count)
    assert not is_proven(leaf_of(b""), number, (), root=tree.root, count=0)


def test_a_tree_has_a_leaf():
    with pytest.raises(ValueError, match="at least one"):
        MerkleTree([])
