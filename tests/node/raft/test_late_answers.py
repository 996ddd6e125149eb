"""What comes late, from another term, round or session than it was asked in, counts for nothing.

(Votes and ACKs: scenarios 63 and 65. Read indices: ``test_reads``. Fetches: ``test_replication``.)
"""

import pytest

from node.raft.events import Execute, Received
from node.raft.messages import (
    Append,
    Avail,
    AvailReply,
    Chunk,
    Forward,
    ForwardReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from node.raft.types import Cursor, Ok, Position, Role
from tests.node.raft.cluster import three


def follower_of(cluster):
    """Return a follower and its leader, in a term that is not the first."""
    cluster.kill(cluster.leader())
    cluster.elect()
    cluster.run(500)
    name = cluster.followers()[0]
    return name, cluster.nodes[name], cluster.nodes[cluster.leader()]


def test_a_transfer_of_an_earlier_term_starts_no_election():
    cluster = three()
    name, node, leader = follower_of(cluster)
    term = node.term
    assert term > 1
    cluster.step(name, Received(leader.me, TimeoutNow(node.cluster, term - 1)))
    assert (node.role, node.term) == (Role.FOLLOWER, term)

    cluster.step(name, Received(leader.me, TimeoutNow(node.cluster, term)))
    assert (node.role, node.term) == (Role.CANDIDATE, term + 1)


def test_a_grant_to_a_pre_vote_for_another_term_does_not_count():
    cluster = three()
    name, node, leader = follower_of(cluster)
    cluster.drop = lambda sender, to, message: True
    cluster.run(3000)
    assert node.role is Role.PRE_CANDIDATE
    term, commit = node.term, Position(0, 0, bytes(32))

    def grant(of):
        cluster.step(name, Received(leader.me, VoteReply(node.cluster, of, True, Vote.GRANTED, None, commit)))

    grant(term)
    assert (node.role, node.term) == (Role.PRE_CANDIDATE, term)
    grant(term + 1)
    assert node.role is Role.CANDIDATE


@pytest.mark.parametrize(("term", "session", "counts"), [(-1, 0, False), (0, 1, False), (0, 0, True)])
def test_an_index_assigned_in_another_term_or_session_is_never_reported(term, session, counts):
    cluster = three()
    name, node, leader = follower_of(cluster)
    cluster.outcome(cluster.execute(name, 1))
    cluster.drop = lambda sender, to, message: isinstance(message, Forward)
    cluster.tokens += 1
    cluster.step(name, Execute(cluster.tokens, (1,), None, True))
    (seq,) = node.session.in_flight
    cursor = Cursor(node.term, 99)
    reply = ForwardReply(
        node.cluster, node.term + term, node.session.number + session, ((seq, cursor),), "", leader.me
    )
    cluster.step(name, Received(leader.me, reply))

    assert cluster.outcomes.get((name, cluster.tokens)) == (Ok((), cursor) if counts else None)


def test_what_another_term_s_pull_brings_is_not_taken():
    cluster = three()
    name, node, leader = follower_of(cluster)
    cluster.drop = lambda sender, to, message: to == name and isinstance(message, Append)
    cluster.execute(cluster.leader(), 1)
    cluster.deliver()
    cluster.drop = lambda sender, to, message: to == name and isinstance(message, Chunk | AvailReply)
    cluster.run(300)
    pull = node.tenure.pull
    assert pull is not None
    last = node.log.last()
    entries = leader.log.slice(last.index + 1, leader.log.last().index, 10**6)

    known = dict(pull.known)
    cluster.step(name, Received(leader.me, AvailReply(node.cluster, node.term - 1, 10**6)))
    assert pull.known == known
    cluster.step(name, Received(leader.me, Chunk(node.cluster, node.term - 1, last, True, entries, 0)))
    assert node.log.last() == last
    cluster.step(name, Received(leader.me, Chunk(node.cluster, node.term, last, True, entries, 0)))
    assert node.log.last() == leader.log.last()


@pytest.mark.parametrize(("term", "answered"), [(-1, False), (0, True), (1, False)])
def test_how_far_a_member_can_serve_is_reported_in_its_own_term_alone(term, answered):
    """What it verified in its term proves nothing to a peer in another one."""
    cluster = three()
    name, node, leader = follower_of(cluster)
    before = node.term
    sent = cluster.step(name, Received(leader.me, Avail(node.cluster, before + term))).sends
    replies = [send.message for send in sent if isinstance(send.message, AvailReply)]

    assert [(reply.term, reply.cluster) for reply in replies] == [(before, node.cluster)] * answered
