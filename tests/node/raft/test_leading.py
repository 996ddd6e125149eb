"""What a leader reports about its members, from which an operator judges whether one of them may stop."""

from tests.node.raft.cluster import three


def test_only_a_leader_knows_how_far_the_others_are():
    cluster = three()
    leader, (one, other) = cluster.leader(), cluster.followers()
    everyone = tuple(sorted(node.me for node in cluster.nodes.values()))

    known = cluster.nodes[leader].leading()
    assert (known.established, known.transferring, known.copies_needed) == (True, False, 2)
    assert known.responsive == known.in_step == everyone
    assert cluster.nodes[one].leading() is None
    assert cluster.nodes[other].leading() is None


def test_a_member_that_lacks_entries_is_connected_and_not_in_step():
    cluster = three()
    leader, (one, _) = cluster.leader(), cluster.followers()
    starved = cluster.nodes[one].me
    cluster.drop = lambda _sender, to, message: to == one and bool(getattr(message, "entries", ()))
    cluster.execute(leader, 1)
    cluster.run(1000)

    known = cluster.nodes[leader].leading()
    assert starved in known.responsive
    assert starved not in known.in_step


def test_a_member_that_answers_no_more_is_not_responsive():
    cluster = three()
    leader, (one, _) = cluster.leader(), cluster.followers()
    gone = cluster.nodes[one].me
    cluster.kill(one)
    cluster.run(3000)

    known = cluster.nodes[leader].leading()
    assert gone not in known.responsive
    assert gone not in known.in_step
