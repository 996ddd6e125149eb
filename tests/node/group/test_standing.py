"""Who names another cluster than the one it said it is in says something that no member would."""

import pytest

from node.group.cluster_claims import Standing
from node.peers import Incarnation
from node.raft.entries import make_entry
from node.raft.messages import Avail, Genesis, Presence
from node.raft.types import LOG_START, Bootstrap, EntryKind

PEER, OTHER = Incarnation("peer", b"\x01" * 32), Incarnation("other", b"\x02" * 32)
OURS, THEIRS = b"o" * 32, b"t" * 32


def presence(cluster: bytes | None, dissolved: tuple[bytes, ...] = ()) -> Presence:
    return Presence(cluster, 0, 0, Bootstrap.EXPECT, (), dissolved, 0)


@pytest.mark.parametrize("said", [None, OURS])
def test_another_cluster_than_the_last_presence_named_is_refused(said: bytes | None) -> None:
    standing = Standing(ordered=True)
    assert standing.allows(PEER, presence(THEIRS))
    assert standing.allows(PEER, presence(said))

    assert not standing.allows(PEER, Avail(THEIRS, 1))
    assert standing.allows(PEER, Avail(OURS, 1)) is (said == OURS)


def test_each_peer_stands_for_itself() -> None:
    standing = Standing(ordered=True)
    standing.allows(PEER, presence(OURS))
    standing.allows(OTHER, presence(THEIRS))

    assert standing.allows(OTHER, Avail(THEIRS, 1))
    assert not standing.allows(PEER, Avail(THEIRS, 1))


def test_what_was_under_way_in_a_cluster_that_ended_may_still_come() -> None:
    standing = Standing(ordered=True)
    standing.allows(PEER, presence(THEIRS))
    standing.allows(PEER, presence(None, dissolved=(THEIRS,)))
    assert standing.allows(PEER, Avail(THEIRS, 1))

    standing.allows(PEER, presence(OURS, dissolved=(THEIRS,)))
    assert standing.allows(PEER, Avail(THEIRS, 1))


def test_a_new_bond_begins_without_a_report() -> None:
    standing = Standing(ordered=True)
    standing.allows(PEER, presence(OURS))
    standing.forget(PEER)

    assert standing.allows(PEER, Avail(THEIRS, 1))


def test_a_report_before_there_is_a_cluster_names_no_cluster() -> None:
    standing = Standing(ordered=True)
    standing.allows(PEER, presence(None))
    entry = make_entry(LOG_START, term=1, kind=EntryKind.NOOP, time_ms=0, payload=b"")

    assert standing.allows(PEER, Genesis(entry))


def test_with_trust_disk_a_presence_may_still_wait_for_the_disk() -> None:
    standing = Standing(ordered=False)
    standing.allows(PEER, presence(None))

    assert standing.allows(PEER, Avail(OURS, 1))
