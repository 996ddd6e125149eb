"""A peer that names another cluster than its last Presence did sends what no member would send."""

import pytest

from node.group.cluster_claims import ClusterClaims
from node.peers import Incarnation
from node.raft.entries import make_entry
from node.raft.messages import Avail, Genesis, Presence
from node.raft.types import LOG_START, Bootstrap, EntryKind

PEER, OTHER = Incarnation("peer", b"\x01" * 32), Incarnation("other", b"\x02" * 32)
OURS, THEIRS = b"o" * 32, b"t" * 32


def presence(cluster: bytes | None, dissolved: tuple[bytes, ...] = ()) -> Presence:
    return Presence(cluster, 0, 0, Bootstrap.EXPECT, (), dissolved, 0)


@pytest.mark.parametrize("reported", [None, OURS])
def test_another_cluster_than_the_last_presence_named_is_refused(reported: bytes | None) -> None:
    claims = ClusterClaims(ordered=True)
    assert claims.allows(PEER, presence(THEIRS))
    assert claims.allows(PEER, presence(reported))

    assert not claims.allows(PEER, Avail(THEIRS, 1))
    assert claims.allows(PEER, Avail(OURS, 1)) is (reported == OURS)


def test_each_peer_stands_for_itself() -> None:
    claims = ClusterClaims(ordered=True)
    claims.allows(PEER, presence(OURS))
    claims.allows(OTHER, presence(THEIRS))

    assert claims.allows(OTHER, Avail(THEIRS, 1))
    assert not claims.allows(PEER, Avail(THEIRS, 1))


def test_what_was_under_way_in_a_cluster_that_ended_may_still_come() -> None:
    claims = ClusterClaims(ordered=True)
    claims.allows(PEER, presence(THEIRS))
    claims.allows(PEER, presence(None, dissolved=(THEIRS,)))
    assert claims.allows(PEER, Avail(THEIRS, 1))

    claims.allows(PEER, presence(OURS, dissolved=(THEIRS,)))
    assert claims.allows(PEER, Avail(THEIRS, 1))


def test_a_new_bond_begins_without_a_report() -> None:
    claims = ClusterClaims(ordered=True)
    claims.allows(PEER, presence(OURS))
    claims.forget(PEER)

    assert claims.allows(PEER, Avail(THEIRS, 1))


def test_a_report_before_there_is_a_cluster_names_no_cluster() -> None:
    claims = ClusterClaims(ordered=True)
    claims.allows(PEER, presence(None))
    entry = make_entry(LOG_START, term=1, kind=EntryKind.NOOP, time_ms=0, payload=b"")

    assert claims.allows(PEER, Genesis(entry))


def test_with_trust_disk_a_presence_may_still_wait_for_the_disk() -> None:
    claims = ClusterClaims(ordered=False)
    claims.allows(PEER, presence(None))

    assert claims.allows(PEER, Avail(OURS, 1))
