"""Sentences of the Raft paper (extended version), by section; and of the thesis where it corrects it."""

from node.raft.events import Received
from node.raft.messages import Append, Vote, VoteRequest
from node.raft.types import EntryKind, Ok, Position, Role
from tests.node.raft.cluster import RaftCluster, three


def replies(cluster, name, sender, message):
    sends = cluster.step(name, Received(cluster.nodes[sender].me, message)).sends
    return [s.message for s in sends]


def append(node, term, prev=None, entries=(), commit=0, seq=1):
    return Append(node.cluster, term, prev or node.log.last(), entries, commit, seq)


def test_5_1_if_a_candidate_or_leader_discovers_that_its_term_is_out_of_date_it_reverts_to_follower():
    cluster = three()
    leader, other = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    replies(cluster, leader, other, append(node, node.term + 1))

    assert (node.role, node.leader) == (Role.FOLLOWER, cluster.nodes[other].me)


def test_5_1_a_server_rejects_a_request_with_a_stale_term():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    stale = VoteRequest(node.cluster, node.term - 1, False, node.log.last(), node.members, False)
    (vote,) = replies(cluster, a, b, stale)

    assert (vote.vote, vote.term) == (Vote.DENIED, node.term)


def test_5_2_a_candidate_that_receives_from_a_leader_of_its_term_returns_to_follower():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    node._campaign(transfer=False)
    replies(cluster, a, b, append(node, node.term))

    assert (node.role, node.leader) == (Role.FOLLOWER, cluster.nodes[b].me)


def test_5_2_election_timeouts_are_randomised():
    node = three().nodes["a"]
    low = node.settings.election_timeout_ms
    waits = {node._draw_election_wait() for _ in range(200)}

    assert len(waits) > 50
    assert low <= min(waits) <= max(waits) <= low + node.settings.election_jitter_ms


def test_5_2_split_votes_resolve_themselves():
    cluster = three()
    for node in cluster.nodes.values():
        node._become_follower(node.term, None)
        node.tenure.leader_contact_ms = None
    for node in cluster.nodes.values():
        node._campaign(transfer=False)
    assert {node.term for node in cluster.nodes.values()} == {cluster.nodes["a"].term}
    cluster.elect()

    assert [n.role for n in cluster.nodes.values()].count(Role.LEADER) == 1


def test_5_3_a_follower_refuses_entries_whose_predecessor_it_does_not_have():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[follower]
    last = node.log.last()
    ahead = Position(last.term, last.index + 3, bytes(32))
    replies(cluster, follower, leader, append(node, node.term, ahead))

    assert node.log.last() == last
    assert node.tenure.pull is not None


def test_5_3_the_leader_never_overwrites_or_deletes_entries_of_its_own_log():
    cluster = three()
    node = cluster.nodes[cluster.leader()]
    seen = {}
    for i in range(30):
        cluster.execute(cluster.followers()[i % 2], i)
        cluster.run(20)
        for index in range(1, node.log.last().index + 1):
            assert seen.setdefault(index, node.log.get(index)) == node.log.get(index)


def test_5_3_logs_with_an_entry_of_equal_index_and_term_are_equal_up_to_it():
    cluster = three()
    for i in range(10):
        cluster.execute("abc"[i % 3], i)
    cluster.run(500)
    a, b, c = (node.log for node in cluster.nodes.values())
    last = min(log.last().index for log in (a, b, c))

    assert a.slice(1, last, 10**9) == b.slice(1, last, 10**9) == c.slice(1, last, 10**9)


def test_5_4_1_a_leader_has_every_committed_entry():
    for seed in range(5):
        cluster = RaftCluster(seed=seed)
        for name in "abcde":
            cluster.add(name, expect=5)
        old = cluster.elect()
        cluster.run(300)
        behind = cluster.followers()[0]
        cluster.drop = lambda s, t, m: t == behind and isinstance(m, Append)  # noqa: B023
        assert isinstance(cluster.outcome(cluster.execute(old, 9)), Ok)
        committed = cluster.nodes[old].log.position(cluster.nodes[old].commit)
        cluster.drop = lambda *_: False
        cluster.kill(old)
        new = cluster.nodes[cluster.elect()]

        assert new.log.position(committed.index) == committed


def test_5_4_2_a_new_leader_writes_a_no_op_before_anything_counts():
    cluster = three()
    cluster.kill(cluster.leader())
    node = cluster.nodes[cluster.elect()]
    first = next(e for e in node.log.slice(1, 99, 10**6) if e.term == node.term)

    assert (first.kind, first.index) == (EntryKind.NOOP, node.tenure.leadership.noop_index)


def test_5_5_a_repeated_request_does_no_harm():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.execute(leader, 5)
    _, _, message = next(w for w in cluster.wire if w[1] == follower)
    for _ in range(3):
        replies(cluster, follower, leader, message)
    cluster.run(300)

    assert set(cluster.values().values()) == {5}


def test_6_a_removed_server_that_keeps_talking_does_not_disturb_the_group():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    silent = cluster.nodes[follower].me
    cluster.drop = lambda s, t, m: follower in (s, t)
    cluster.run(5000)
    assert silent not in cluster.nodes[leader].members
    cluster.drop = lambda s, t, m: t == follower
    term = cluster.nodes[leader].term
    cluster.run(10_000)

    assert (cluster.leader(), cluster.nodes[leader].term) == (leader, term)


def test_8_a_leader_serves_reads_only_after_it_committed_in_its_term():
    cluster = three()
    cluster.kill(cluster.leader())
    cluster.drop = lambda s, t, m: bool(getattr(m, "entries", ()))
    cluster.run_until(lambda: any(n.role is Role.LEADER for n in cluster.nodes.values()))
    name = next(n for n, node in cluster.nodes.items() if node.role is Role.LEADER)
    ticket = cluster.query(name)
    cluster.run(300)

    assert ticket not in cluster.outcomes


def test_thesis_4_2_3_a_server_that_receives_from_the_leader_ignores_candidates():
    cluster = three(lease_reads=True)
    a, b = cluster.followers()
    node = cluster.nodes[a]
    term = node.term
    request = VoteRequest(node.cluster, term + 1, False, node.log.last(), node.members, False)
    (reply,) = replies(cluster, a, b, request)

    assert (reply.vote, node.term) == (Vote.DENIED, term)
