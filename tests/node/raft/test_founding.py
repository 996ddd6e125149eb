"""Section 3.9: genesis by unanimity, joining, rivals that are never merged."""

import hashlib

import pytest
from msgspec import structs

from node.peers import BondLoss, Preference
from node.raft.entries import (
    EMPTY_PAYLOAD,
    decode_config_untrusted,
    encode_config,
    genesis_digest,
    make_entry,
)
from node.raft.events import (
    BondDown,
    BondUp,
    DataDiscarded,
    FoundingStalled,
    Received,
    Recovered,
    RivalCluster,
    SaveEnd,
    SaveEntries,
    SaveVote,
    TransferLeadership,
    Violation,
)
from node.raft.messages import (
    Append,
    AppendReply,
    Chunk,
    ForwardReply,
    Genesis,
    GenesisProposal,
    GenesisSignature,
    Presence,
    TimeoutNow,
)
from node.raft.types import (
    LOG_START,
    Applied,
    Bootstrap,
    EntryKind,
    Ok,
    Role,
    Unknown,
)
from tests.node.raft.cluster import BUILD, GROUP, LEVELS, FakeCredentials, RaftCluster, inc, three


def clusters(cluster):
    return {n.cluster for n in cluster.nodes.values()}


def test_init_founds_a_group_of_one_that_works():
    cluster = RaftCluster()
    node = cluster.add("a", Bootstrap.INIT)
    cluster.run(50)

    assert [v.name for v in node.members] == ["a"]
    assert cluster.outcome(cluster.execute("a", 5)).results[0].value == 5


def test_join_never_founds():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, Bootstrap.JOIN)
    cluster.run(60_000)

    assert clusters(cluster) == {None}


def test_expect_founds_with_every_founders_signature():
    cluster = three()
    genesis = cluster.nodes["a"].log.get(1)
    config, signatures = decode_config_untrusted(genesis.payload)

    assert clusters(cluster) == {genesis.chain}
    assert [v.name for v in config.voters] == sorted("abc", key=inc)
    assert len(signatures.signatures) == 3


def test_expect_does_not_found_with_one_too_few():
    cluster = RaftCluster()
    cluster.add("a")
    cluster.add("b")
    cluster.run(60_000)

    assert clusters(cluster) == {None}


def test_more_than_expected_found_with_the_smallest_and_the_others_join():
    cluster = RaftCluster()
    for name in "abcde":
        cluster.add(name)
    cluster.elect()
    cluster.run(5000)

    assert len(clusters(cluster)) == 1
    config, _ = decode_config_untrusted(cluster.nodes["a"].log.get(1).payload)
    assert len(config.voters) == 3
    assert len(cluster.nodes["a"].members) == 5


@pytest.mark.parametrize("rank", range(4))
def test_an_observer_is_never_a_founder_and_does_not_keep_others_from_founding(rank):
    """The smallest identities found, and the smallest of all collects the signatures."""
    names = sorted("abcd", key=inc)
    observer = names.pop(rank)
    cluster = RaftCluster()
    cluster.add(observer, preference=Preference.OBSERVER)
    for name in names:
        cluster.add(name)
    cluster.elect(5000)

    config, _ = decode_config_untrusted(cluster.nodes[observer].log.get(1).payload)
    assert [v.name for v in config.voters] == names


@pytest.mark.parametrize("bootstrap", [Bootstrap.AUTO, Bootstrap.INIT])
def test_a_single_observer_founds_nothing(bootstrap):
    cluster = RaftCluster()
    cluster.add("o", bootstrap, preference=Preference.OBSERVER, delay=1000)
    cluster.run(20_000)

    assert clusters(cluster) == {None}


def test_a_genesis_with_a_forged_signature_is_refused():
    cluster = RaftCluster()
    cluster.add("a")
    cluster.add("b")
    cluster.add("c")
    founders = sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)
    collector, victim = founders[0], founders[1]
    cluster.drop = lambda s, t, m: isinstance(m, Genesis) or getattr(m, "cluster", None)
    cluster.run_until(lambda: cluster.nodes[collector].cluster is not None)
    entry = cluster.nodes[collector].log.get(1)
    config, signatures = decode_config_untrusted(entry.payload)
    forged = entry.payload.replace(signatures.signatures[1], hashlib.sha256(b"no").digest())
    target = cluster.nodes[victim]
    assert target.cluster is None
    bad = type(entry)(entry.term, 1, entry.kind, entry.time_ms, forged, entry.chain)
    effects = cluster.step(victim, Received(cluster.nodes[collector].me, Genesis(bad)))

    assert effects.notices == [Violation(cluster.nodes[collector].me, "bad-genesis")]
    assert target.log.last().index == 0
    assert config.voters[0] == cluster.nodes[collector].me


def about_to_found():
    """Three founders that see each other, smallest first, of whom none has been asked to sign yet."""
    cluster = RaftCluster()
    cluster.drop = lambda s, t, m: isinstance(m, GenesisProposal)
    for name in "abc":
        cluster.add(name)
    cluster.run(200)
    names = sorted(cluster.nodes, key=inc)
    assert cluster.nodes[names[0]].founding_state.collecting is not None
    assert [cluster.nodes[name].signing.given for name in names[1:]] == [None, None]
    return cluster, names


@pytest.mark.parametrize(
    ("says", "voters"),
    [(1, (0, 1, 2)), (0, (0, 1)), (0, (0, 1, 3))],
    ids=["another-collects", "without-us", "another-in-our-place"],
)
def test_a_proposal_by_another_member_or_without_us_is_a_violation_and_not_signed(says, voters):
    cluster, names = about_to_found()
    asked, sender = cluster.nodes[names[2]], inc(names[says])
    stranger = next(one for one in map(inc, "defgh") if one > inc(names[1]))
    founders = [*map(inc, names), stranger]
    proposal = GenesisProposal(1, b"n" * 16, tuple(founders[place] for place in voters), LEVELS)
    effects = cluster.step(names[2], Received(sender, proposal))

    assert effects.notices == [Violation(sender, "bad-genesis-proposal")]
    assert effects.sends == []
    assert asked.signing.given is None
    # And its signature is still free for the honest one.
    cluster.drop = lambda *_: False
    cluster.elect()
    assert clusters(cluster) == {cluster.nodes[names[0]].log.get(1).chain}


@pytest.mark.parametrize("forger", [1, 2])
def test_a_genesis_signature_that_does_not_verify_is_a_violation_and_founds_nothing(forger):
    cluster, names = about_to_found()
    first = cluster.nodes[names[0]]
    genesis = first.founding_state.collecting.genesis
    digest = genesis_digest(GROUP, genesis.nonce, genesis.voters, LEVELS)
    honest = {name: FakeCredentials(inc(name)).sign(digest) for name in names}
    sender, other = inc(names[forger]), names[3 - forger]

    def receives(name, signature):
        return cluster.step(names[0], Received(inc(name), GenesisSignature(genesis.nonce, signature)))

    assert receives(other, honest[other]).notices == []
    of_another_text = FakeCredentials(sender).sign(digest[::-1])
    for forged in (honest[names[0]], honest[other], of_another_text, b""):
        effects = receives(names[forger], forged)
        assert effects.notices == [Violation(sender, "bad-genesis-signature")]
        assert effects.sends == []
        assert first.cluster is None
        assert first.log.last().index == 0

    # The one that was missing is all that it takes.
    receives(names[forger], honest[names[forger]])
    assert first.cluster == first.log.get(1).chain
    cluster.elect()
    assert clusters(cluster) == {first.cluster}


def test_an_incarnation_signs_one_genesis_at_a_time():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name)
    a, b, c = sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)
    cluster.drop = lambda s, t, m: isinstance(m, GenesisSignature)
    cluster.run(100)
    signed = cluster.nodes[c].signing.given
    assert signed is not None
    other = GenesisProposal(1, b"n" * 16, signed[1].voters, LEVELS)
    effects = cluster.step(c, Received(cluster.nodes[a].me, other))

    assert not any(isinstance(s.message, GenesisSignature) for s in effects.sends)
    assert cluster.nodes[b].cluster is None


def test_a_founder_that_dies_before_it_signs_frees_the_others_signatures():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, bond=False)
    a, b, c = sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)
    cluster.drop = lambda s, t, m: s == c and isinstance(m, GenesisSignature)
    for pair in ((a, b), (b, c), (a, c)):
        cluster.bond(*pair)
    cluster.run(200)
    assert cluster.nodes[b].signing.given is not None
    cluster.kill(c)
    cluster.drop = lambda *_: False
    cluster.run(1500)
    assert cluster.nodes[b].signing.given is None
    cluster.add(c, life=1)
    cluster.elect()

    assert len(clusters(cluster)) == 1


def test_a_dead_collector_is_reported_and_its_signers_never_sign_again():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name)
    a, b, _ = sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)
    dead = cluster.nodes[a].me
    cluster.drop = lambda s, t, m: t == a and isinstance(m, GenesisSignature)
    cluster.run(300)
    cluster.kill(a)
    cluster.run(20_000)

    assert FoundingStalled(dead) in cluster.notices[b]
    assert clusters(cluster) == {None}


def test_founders_that_lost_their_genesis_have_it_from_a_learner_when_the_collector_is_dead():
    """Seed 950062879: two of three voters lived, a learner had the whole log, and nobody ever led again."""
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name)
    a, b, c = sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)
    cluster.add("d", Bootstrap.JOIN)
    # They learn that there is a cluster and vote in it, but not what its log begins with.
    cluster.drop = lambda s, t, m: t in (b, c) and isinstance(m, Genesis | Append | Chunk)
    cluster.run_until(lambda: cluster.nodes["d"].log.last().index)
    assert [cluster.nodes[name].log.last().index for name in (b, c)] == [0, 0]
    genesis = cluster.nodes["d"].log.get(1)
    cluster.kill(a)
    cluster.drop = lambda *_: False

    assert cluster.elect() in (b, c)
    cluster.run(1000)
    assert clusters(cluster) == {genesis.chain}
    assert [cluster.nodes[name].log.get(1) for name in (b, c)] == [genesis] * 2
    assert cluster.violations() == []


def test_a_genesis_of_another_cluster_than_ones_own_changes_nothing():
    cluster, names = about_to_found()
    cluster.drop = lambda s, t, m: t == names[1] and isinstance(m, Genesis | Append | Chunk)
    cluster.run_until(lambda: cluster.nodes[names[1]].cluster is not None)
    target, first = cluster.nodes[names[1]], cluster.nodes[names[0]]
    config, signatures = decode_config_untrusted(first.log.get(1).payload)
    other = make_entry(
        LOG_START,
        term=1,
        kind=EntryKind.CONFIG,
        time_ms=1,
        payload=encode_config(config, signatures),
    )
    cluster.step(names[1], Received(inc(names[0]), Genesis(other)))

    assert target.log.last().index == 0
    cluster.step(names[1], Received(inc(names[0]), Genesis(first.log.get(1))))
    assert target.log.get(1) == first.log.get(1)


def test_founding_survives_lost_messages():
    for seed in range(10):
        cluster = RaftCluster(seed=seed)
        for name in "abc":
            cluster.add(name)
        cluster.drop = lambda *_: cluster.random.random() < 0.4  # noqa: B023
        cluster.elect(60_000)
        cluster.drop = lambda *_: False
        cluster.run(5000)

        assert len(clusters(cluster)) == 1


def test_rival_genesis_is_detected_refused_and_nothing_is_truncated():
    """Named schedule 24: six members, three and three, founded apart."""
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name)
    cluster.run(2000)
    for name in "def":
        cluster.add(name, bond=False)
    for pair in ("de", "ef", "df"):
        cluster.bond(*pair)
    cluster.run(5000)
    assert len(clusters(cluster)) == 2
    logs = {n: node.log.last() for n, node in cluster.nodes.items()}
    cluster.bond("a", "d")
    cluster.run(5000)

    rival = cluster.nodes["d"].cluster
    assert RivalCluster(cluster.nodes["d"].me, rival) in cluster.notices["a"]
    assert [n for n in cluster.notices["a"] if isinstance(n, RivalCluster)] == [
        RivalCluster(cluster.nodes["d"].me, rival)
    ]
    assert len(clusters(cluster)) == 2
    assert all(cluster.nodes[n].log.position(p.index) == p for n, p in logs.items())


# ---- auto -------------------------------------------------------------------
def autos(names="abc", **settings):
    """Members that founded apart."""
    cluster = RaftCluster(**settings)
    for name in names:
        cluster.add(name, Bootstrap.AUTO, delay=500, bond=False)
    cluster.run(2000)
    assert len(clusters(cluster)) == len(names)
    return cluster


def test_auto_alone_founds_after_the_delay_and_not_before():
    cluster = RaftCluster()
    cluster.add("a", Bootstrap.AUTO, delay=3000)
    cluster.run(2900)
    before = clusters(cluster)
    cluster.run(300)

    assert before == {None}
    assert cluster.leader() == "a"


def test_a_reluctant_auto_member_leaves_the_others_more_time_to_found():
    cluster = RaftCluster()
    cluster.add("r", Bootstrap.AUTO, delay=1000, preference=Preference.RELUCTANT)
    cluster.run(1000 * cluster.settings.reluctant_factor - 100)
    before = clusters(cluster)
    cluster.run(300)

    assert before == {None}
    assert cluster.leader() == "r"


def test_auto_members_that_see_each_other_found_once():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, Bootstrap.AUTO)
    cluster.run(8000)

    assert len(clusters(cluster)) == 1
    assert len(cluster.nodes["a"].members) == 3


def test_empty_rivals_in_auto_mode_become_one_group():
    """Checklist item 5, rivals_with_same_log_pos."""
    cluster = autos()
    smallest = min(clusters(cluster))
    cluster.heal()
    cluster.run(10_000)

    assert clusters(cluster) == {smallest}
    assert {n.leader for n in cluster.nodes.values()} == {cluster.nodes[cluster.leader()].me}
    assert len(cluster.nodes["a"].members) == 3


def test_the_empty_side_yields_to_the_side_with_commands():
    cluster = autos("ab")
    rich = max("ab", key=lambda n: cluster.nodes[n].cluster)
    cluster.outcome(cluster.execute(rich, 5))
    kept = cluster.nodes[rich].cluster
    cluster.heal()
    cluster.run(8000)

    assert clusters(cluster) == {kept}
    assert cluster.values() == {"a": 5, "b": 5}


def test_a_member_that_dissolved_its_cluster_for_another_waits_for_its_reply_and_founds_none():
    cluster = autos("ab")
    rich = max("ab", key=lambda n: cluster.nodes[n].cluster)
    (poor,) = {"a", "b"} - {rich}
    cluster.outcome(cluster.execute(rich, 5))
    node, kept = cluster.nodes[poor], cluster.nodes[rich].cluster
    cluster.drop = lambda sender, to, message: to == poor and node.founding_state.dissolved
    cluster.heal()
    cluster.run(2000)

    assert len(node.founding_state.dissolved) == 1
    assert node.cluster is None
    cluster.drop = lambda sender, to, message: False
    cluster.run(2000)
    assert clusters(cluster) == {kept}
    assert len(node.founding_state.dissolved) == 1


def says_that_it_is_over(cluster, who, to):
    node, told = cluster.nodes[who], cluster.nodes[to]
    over = structs.replace(node._presence(), dissolved=(told.cluster,))
    return cluster.step(to, Received(node.me, over))


def test_a_cluster_that_was_founded_together_ends_on_no_peers_message():
    cluster = three()
    leader, name = cluster.leader(), cluster.followers()[0]
    for to in (leader, cluster.followers()[1]):
        effects = says_that_it_is_over(cluster, name, to)
        assert Violation(cluster.nodes[name].me, "false-dissolution") in effects.notices

    assert cluster.outcome(cluster.execute(leader, 1)).results == (Applied(1),)


def test_an_auto_cluster_with_commands_ends_on_no_peers_message():
    cluster = autos("ab")
    cluster.heal()
    cluster.run_until(lambda: len(clusters(cluster)) == 1)
    cluster.run(2000)
    leader = cluster.leader()
    (name,) = {"a", "b"} - {leader}
    cluster.outcome(cluster.execute(leader, 5))
    effects = says_that_it_is_over(cluster, name, leader)

    assert Violation(cluster.nodes[name].me, "false-dissolution") in effects.notices
    assert cluster.nodes[leader].replica.machine.value == 5


def test_two_sides_with_commands_stay_apart_by_default():
    cluster = autos("ab")
    for name in "ab":
        cluster.outcome(cluster.execute(name, 5))
    cluster.heal()
    cluster.run(8000)

    assert len(clusters(cluster)) == 2
    assert any(isinstance(n, RivalCluster) for n in cluster.notices["a"])


def test_discard_shorter_keeps_the_longer_log_whole_and_reports_what_is_lost():
    """Checklist item 6, only behind its flag."""
    cluster = autos(on_rival="discard-shorter")
    for name, count in (("a", 3), ("b", 1)):
        for _ in range(count):
            cluster.outcome(cluster.execute(name, 1))
    kept = cluster.nodes["a"].cluster
    cluster.heal()
    cluster.run(10_000)

    assert clusters(cluster) == {kept}
    assert cluster.values() == {"a": 3, "b": 3, "c": 3}
    assert any(isinstance(n, DataDiscarded) for n in cluster.notices["b"])
    assert not any(isinstance(n, DataDiscarded) for n in cluster.notices["a"])


def test_a_command_pending_in_a_cluster_that_dissolves_is_executed_in_the_other():
    cluster = autos("ab")
    yields = max("ab", key=lambda n: cluster.nodes[n].cluster)
    cluster.bond("a", "b")
    cluster.run_until(lambda: cluster.nodes[yields].founding_state.dissolved)
    ticket = cluster.execute(yields, 5)

    assert isinstance(cluster.outcome(ticket), Ok)
    cluster.run(3000)
    assert cluster.values() == {"a": 5, "b": 5}


def test_a_dissolved_cluster_is_never_entered_again():
    cluster = autos("ab")
    yields = max("ab", key=lambda n: cluster.nodes[n].cluster)
    gone = cluster.nodes[yields].cluster
    cluster.heal()
    cluster.run(5000)
    node = cluster.nodes[yields]
    other = next(n for n in "ab" if n != yields)
    now = node.cluster
    stale = Presence(gone, 0, 3, Bootstrap.AUTO, (), (), 0)
    cluster.step(yields, Received(cluster.nodes[other].me, stale))

    assert node.cluster == now
    assert node.role is not Role.CANDIDATE


def test_with_trust_disk_a_restart_does_not_forget_that_a_cluster_ended():
    """Seed 900224065: who had acknowledged its end entered it again, and voted for one that lacked that."""
    cluster = autos("ab", trust_disk=True)
    yields = max("ab", key=lambda n: cluster.nodes[n].cluster)
    gone = cluster.nodes[yields].cluster
    cluster.heal()
    cluster.run_until(lambda: cluster.nodes[yields].founding_state.dissolved)
    records = [record for _, batch in cluster.unsynced[yields] for record in batch]
    ended = tuple(record.cluster for record in records if isinstance(record, SaveEnd))
    assert ended == (gone,)

    cluster.kill(yields)
    node = cluster.add(
        yields, Bootstrap.AUTO, delay=60_000, recovered=Recovered(0, None, (), ended), bond=False
    )
    (other,) = {"a", "b"} - {yields}
    told = cluster.step(yields, BondUp(cluster.nodes[other].me, Preference.NORMAL, BUILD))
    stale = Presence(gone, 0, 3, Bootstrap.AUTO, (), (), 0)
    cluster.step(yields, Received(cluster.nodes[other].me, stale))

    assert node.cluster is None
    assert any(gone in send.message.dissolved for send in told.sends if isinstance(send.message, Presence))


def joined_by_two():
    """An ``auto`` cluster of A, with X and Y that only join."""
    cluster = RaftCluster()
    cluster.add("a", Bootstrap.AUTO, delay=100)
    cluster.run(500)
    for name in "xy":
        cluster.add(name, Bootstrap.JOIN)
    cluster.run(3000)
    assert len(cluster.nodes["a"].members) == 3
    return cluster


def test_a_joining_member_may_inform_another_that_their_auto_cluster_ended():
    cluster = joined_by_two()
    gone = cluster.nodes["a"].cluster
    cluster.isolate("y")
    cluster.add("b", Bootstrap.AUTO, delay=100, bond=False)
    cluster.run(500)
    cluster.outcome(cluster.execute("b", 1))
    for name in "ax":
        cluster.bond(name, "b")
    cluster.run_until(lambda: gone in cluster.nodes["x"].founding_state.dissolved)
    cluster.bond("x", "y")
    cluster.run(2000)

    assert cluster.violations() == []
    assert clusters(cluster) == {cluster.nodes["b"].cluster}


def test_an_empty_auto_cluster_yields_whichever_member_leads_it():
    cluster = joined_by_two()
    cluster.step("a", TransferLeadership(77, cluster.nodes["x"].me))
    cluster.run_until(lambda: cluster.leader() == "x")
    cluster.add("b", Bootstrap.AUTO, delay=100, bond=False)
    cluster.run(500)
    cluster.outcome(cluster.execute("b", 3))
    kept = cluster.nodes["b"].cluster
    cluster.heal()
    cluster.run(5000)

    assert clusters(cluster) == {kept}
    assert set(cluster.values().values()) == {3}


def test_a_cluster_that_was_founded_otherwise_never_yields_though_its_leader_would_found_by_itself():
    cluster = RaftCluster()
    cluster.add("a", Bootstrap.INIT)
    cluster.run(500)
    cluster.add("b", Bootstrap.AUTO, delay=60_000)
    cluster.run(2000)
    cluster.step("a", TransferLeadership(77, cluster.nodes["b"].me))
    cluster.run_until(lambda: cluster.leader() == "b")
    cluster.add("c", Bootstrap.AUTO, delay=100, bond=False)
    cluster.run(500)
    cluster.outcome(cluster.execute("c", 3))
    cluster.heal()
    cluster.run(5000)

    assert len(clusters(cluster)) == 2
    assert any(isinstance(notice, RivalCluster) for notice in cluster.notices["b"])


def test_a_torn_write_of_the_genesis_does_not_take_back_its_signature():
    cluster = RaftCluster(trust_disk=True)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    for name in "abc":
        records = [record for _, batch in cluster.unsynced[name] for record in batch]
        genesis = next(at for at, record in enumerate(records) if isinstance(record, SaveEntries))
        signed = [record for record in records[:genesis] if isinstance(record, SaveVote)][-1]
        assert signed.voted_for is not None


def signed_for_another(cluster, name, collector):
    """Let ``name`` have signed a genesis that ``collector`` proposed, before it came into its cluster."""
    node, peer = cluster.nodes[name], cluster.nodes[collector]
    voters = tuple(sorted((node.me, peer.me)))
    node.signing.given = (peer.me, GenesisProposal(1, bytes(16), voters, LEVELS))
    return node, peer


def test_a_signature_that_comes_free_in_a_later_term_does_not_undo_the_vote_of_that_term():
    """The disk may not record it either: a start that reads a term that goes back takes it for corruption."""
    cluster = three(trust_disk=True)
    node, peer = signed_for_another(cluster, *cluster.followers())
    assert node.term > 1
    free = Presence(node.cluster, 0, 1, Bootstrap.EXPECT, (), (), 1)
    effects = cluster.step(node.me.name, Received(peer.me, free))

    assert node.signing.given is None
    assert not any(isinstance(record, SaveVote) for record in effects.persist)


def test_a_member_that_leaves_a_dead_cluster_with_an_empty_log_has_still_signed_for_another():
    cluster = RaftCluster(trust_disk=True)
    for name in "abc":
        cluster.add(name, bond=False)
    for pair in ("ab", "ac", "bc"):
        cluster.bond(*pair)
    cluster.drop = lambda sender, to, message: sender == "c" and isinstance(message, GenesisSignature)
    cluster.run(700)
    node, collector = cluster.nodes["b"], min(cluster.nodes.values(), key=lambda n: n.me)
    assert node.signing.given[0] == collector.me != node.me
    for name in "ac":
        cluster.step("b", BondDown(cluster.nodes[name].me, BondLoss.LOST))
    dead, living = inc("x"), inc("y")
    cluster.step("b", BondUp(dead, Preference.NORMAL, BUILD))
    cluster.step("b", Received(dead, Presence(b"X" * 32, 0, 0, Bootstrap.EXPECT, (), (), 0)))
    cluster.step("b", BondDown(dead, BondLoss.LOST))
    cluster.step("b", BondUp(living, Preference.NORMAL, BUILD))
    cluster.step("b", Received(living, Presence(b"Y" * 32, 0, 5, Bootstrap.EXPECT, (), (), 0)))

    assert node.cluster == b"Y" * 32
    votes = [r for _, batch in cluster.unsynced["b"] for r in batch if isinstance(r, SaveVote)]
    assert votes[-2:] == [SaveVote(0, None), SaveVote(1, collector.me)]


def test_a_member_without_state_of_an_auto_cluster_believes_a_former_member_of_it():
    cluster = RaftCluster()
    node = cluster.add("e", Bootstrap.EXPECT)
    joiner = inc("j")
    gone = b"X" * 32
    cluster.step("e", BondUp(joiner, Preference.NORMAL, BUILD))
    cluster.step("e", Received(joiner, Presence(gone, 0, 5, Bootstrap.AUTO, (), (), 0)))
    assert node.cluster == gone
    cluster.step("e", Received(joiner, Presence(None, 0, 0, Bootstrap.JOIN, (), (gone,), 0)))

    assert cluster.violations() == []
    assert node.cluster is None
    assert node.founding_state.dissolved == (gone,)


def test_a_transfer_under_way_when_the_cluster_ends_is_answered():
    cluster, leader = dissolving(before=TransferLeadership(77, None))
    name = leader.me.name
    assert leader.tenure.leadership.transfer.sent
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: leader.founding_state.dissolved)

    assert cluster.outcomes[name, 77] == Unknown("transfer-lost")
    assert leader.tenure.handed_over is None


# ---- while a cluster gives itself up --------------------------------------------
def dissolving(before=None):
    """Three members, whose leader has written DISSOLVE and has no acknowledgement of it yet.

    ``before``: an event for the leader, to which nobody answers either.
    """
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, Bootstrap.AUTO, delay=500)
    cluster.run(3000)
    assert len(cluster.nodes[cluster.leader()].members) == 3
    cluster.drop = lambda _sender, _to, message: isinstance(message, AppendReply | TimeoutNow)
    if before is not None:
        cluster.step(cluster.leader(), before)
    cluster.nodes[cluster.leader()]._write(EntryKind.DISSOLVE, EMPTY_PAYLOAD)
    cluster.deliver()
    return cluster, cluster.nodes[cluster.leader()]


def test_no_configuration_is_proposed_in_a_cluster_that_dissolves():
    cluster, leader = dissolving()
    last = leader.log.last()
    cluster.isolate(cluster.followers()[0], BondLoss.DEPARTED)
    cluster.run(300)

    assert leader.role is Role.LEADER
    assert leader.log.last() == last


@pytest.mark.parametrize("place", [0, 1])
def test_no_command_is_accepted_in_a_cluster_that_dissolves_but_in_the_next(place):
    """Behind DISSOLVE nothing is ever applied: a fed command that was accepted there would be lost."""
    cluster, leader = dissolving()
    name = (leader.me.name, cluster.followers()[0])[place]
    last, ended = leader.log.last(), leader.cluster
    refused = []

    def drop(_sender, _to, message):
        if isinstance(message, ForwardReply):
            refused.append(message.refused)
        return isinstance(message, AppendReply)

    cluster.drop = drop
    ticket = cluster.execute(name, 40, feed=True)
    cluster.run(100)
    assert refused == ["dissolving"] * place
    assert ticket not in cluster.outcomes
    assert leader.log.last() == last

    cluster.drop = lambda *_: False
    assert isinstance(cluster.outcome(ticket), Ok)
    cluster.run(1000)

    assert ended not in clusters(cluster)
    assert cluster.values() == {"a": 40, "b": 40, "c": 40}
