"""A trust_disk member that lost power goes on with every promise it made, and sends none before it is durable."""

from node.peers import BondLoss, Preference
from node.raft.client_session import ClientSession
from node.raft.events import (
    BondDown,
    BondUp,
    Persisted,
    Received,
    Recovered,
    SnapshotStored,
    Tick,
)
from node.raft.member import Member
from node.raft.messages import Append, GenesisSignature, Presence, VoteRequest, is_promise
from node.raft.signing import Signing
from node.raft.types import Applied, Bootstrap, Ok, Position
from node.storage.file import FileStorage
from tests.node.raft.cluster import BUILD, RaftCluster, inc, three
from tests.node.storage.test_file import entries


class Disks(RaftCluster):
    """A cluster whose members write to real files; a crash loses what was not persisted.

    Attributes:
        slow: whose disks make no record durable for now.
        unready: whose disks make no snapshot durable for now.
    """

    def __init__(self, directory, **settings):
        super().__init__(trust_disk=True, **settings)
        self.directory = directory
        self.files = {}
        self.slow, self.unready = set(), set()

    def start(self, name, **kwargs):
        self.files[name] = FileStorage(self.directory / name, inc(name))
        return self.add(name, recovered=self.files[name].recovered, **kwargs)

    def step(self, name, *events):
        waiting = len(self.unsynced[name]) if name in self.unsynced else 0
        self.sync = False
        effects = super().step(name, *events)
        if name in self.slow:
            return effects
        for serial, records in self.unsynced[name][waiting:]:
            self.files[name].persist(records)
            self.unsynced[name].clear()
            self.step(name, Persisted(serial))
        return effects

    def stored(self, name, snapshot):
        self.unstored[name].append(snapshot)
        if name not in self.unready:
            self.finish(name, snapshot)

    def finish(self, name, snapshot):
        """Make ``snapshot`` durable."""
        for _ in self.files[name].store(snapshot):
            pass
        self.unstored[name].remove(snapshot)
        self.step(name, SnapshotStored(snapshot.evidence.anchor))

    def crash(self, name):
        self.kill(name)
        self.files.pop(name).close()


def test_a_whole_trust_disk_cluster_that_lost_power_goes_on_where_it_was(tmp_path):
    cluster = Disks(tmp_path)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    for _ in range(10):
        assert isinstance(cluster.outcome(cluster.execute("a", 1)), Ok)
    identity = cluster.nodes["a"].cluster
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(1000)

    assert {n.cluster for n in cluster.nodes.values()} == {identity}
    assert cluster.values() == {"a": 10, "b": 10, "c": 10}


def test_a_vote_survives_the_crash_of_the_voter(tmp_path):
    cluster = Disks(tmp_path)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    follower = cluster.followers()[0]
    before = cluster.nodes[follower]
    term, vote = before.term, before.voted_for
    cluster.crash(follower)
    after = cluster.start(follower, bond=False)

    assert (after.term, after.voted_for) == (term, vote)
    assert after.tenure.is_voter


def test_nothing_is_promised_before_it_is_durable():
    cluster = three(trust_disk=True)
    cluster.sync = False
    leader, (follower, other) = cluster.leader(), cluster.followers()
    ticket = cluster.execute(leader, 5)
    cluster.run(50)
    node = cluster.nodes[leader]

    assert ticket not in cluster.outcomes
    assert node.commit < node.log.last().index
    assert cluster.nodes[follower].log.last() == node.log.last()
    assert not any(index == node.log.last().index for index in node.tenure.leadership.match.values())
    for name in (follower, leader):
        serial = cluster.unsynced[name][-1][0]
        cluster.step(name, Persisted(serial))
    cluster.deliver()
    assert isinstance(cluster.outcomes[ticket], Ok)
    assert other not in [
        v.name for v, index in node.tenure.leadership.match.items() if index == node.log.last().index
    ]


def test_a_durable_promise_does_not_wait_for_what_its_step_writes_besides():
    """Otherwise under steady writes each ACK would wait for the sync after its own, and the one after that."""
    cluster = three(trust_disk=True)
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    cluster.sync = False
    last = node.log.last()
    first, second = entries(2, node.term, last)
    said = Append(node.cluster, node.term, last, (first,), 0, 50)
    assert not cluster.step(follower, Received(node.me, said)).sends
    durable = cluster.unsynced[follower][-1][0]
    after = Position(first.term, first.index, first.chain)
    more = Append(node.cluster, node.term, after, (second,), 0, 51)
    sends = cluster.step(follower, Persisted(durable), Received(node.me, more)).sends

    assert [(s.message.match, s.message.seq) for s in sends] == [(first.index, 50)]


def test_a_peer_that_comes_and_goes_while_the_disk_hangs_leaves_no_promises_behind():
    cluster = three(trust_disk=True)
    leader, follower = cluster.leader(), cluster.followers()[0]
    peer, node = cluster.nodes[leader], cluster.nodes[follower]
    cluster.sync = False
    last = peer.log.last()
    said = Append(node.cluster, node.term, last, entries(1, node.term, last), 0, 50)
    cluster.step(follower, Received(peer.me, said))
    assert [send.to for _, send in node.tenure.held] == [(peer.me,)]
    for life in range(1, 100):
        stranger = inc("d", life)
        cluster.step(follower, BondUp(stranger, Preference.NORMAL, BUILD))
        assert [send.to for _, send in node.tenure.held] == [(peer.me,), (stranger,)]
        cluster.step(follower, BondDown(stranger, BondLoss.LOST))
    durable = cluster.unsynced[follower][-1][0]
    sends = cluster.step(follower, Persisted(durable)).sends

    assert [(send.to, send.message.seq) for send in sends] == [((peer.me,), 50)]


def test_a_founder_with_a_hanging_disk_keeps_one_request_for_votes_whichever_peers_come_and_go():
    cluster = RaftCluster(trust_disk=True)
    cluster.drop = lambda sender, to, message: isinstance(message, GenesisSignature)
    for name in "abc":
        cluster.add(name)
    cluster.run(100)
    cluster.sync, cluster.drop = False, lambda sender, to, message: False
    cluster.run_until(lambda: any(node.cluster for node in cluster.nodes.values()))
    founder = next(name for name, node in cluster.nodes.items() if node.cluster)
    node = cluster.nodes[founder]

    def asked():
        return [send for _, send in node.tenure.held if isinstance(send.message, VoteRequest)]

    for life in range(1, 20):
        stranger = inc("d", life)
        cluster.step(founder, BondUp(stranger, Preference.NORMAL, BUILD))
        cluster.now = max(cluster.now, node.election_due)
        cluster.step(founder, Tick())
        assert [stranger in send.to for send in asked()] == [True]
        cluster.step(founder, BondDown(stranger, BondLoss.LOST))
    (last,) = asked()
    sends = cluster.step(founder, Persisted(node.serial)).sends

    assert [send for send in sends if isinstance(send.message, VoteRequest)] == [last]


def test_a_late_report_of_a_truncated_write_proves_nothing_about_what_replaced_it():
    """Named schedule 23, the ABA case of asynchronous storage."""
    cluster = three(trust_disk=True)
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    cluster.sync = False
    last = node.log.last()
    (first,) = entries(1, node.term, last)
    cluster.step(follower, Received(node.me, Append(node.cluster, node.term, last, (first,), 0, 50)))
    stale = cluster.unsynced[follower][-1][0]
    (second,) = entries(1, node.term + 1, last)
    other = cluster.nodes[cluster.followers()[1]].me
    cluster.step(follower, Received(other, Append(node.cluster, node.term + 1, last, (second,), 0, 1)))
    released = cluster.step(follower, Persisted(stale)).sends

    assert all(s.message.term == node.term for s in released)
    assert cluster.nodes[follower].tenure.durable_index < second.index


# ---- founding ---------------------------------------------------------------
def founders(tmp_path, drop):
    cluster = Disks(tmp_path)
    cluster.drop = drop
    for name in "abc":
        cluster.start(name)
    cluster.run(1000)
    return cluster, *sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)


def test_a_founder_that_signed_does_not_sign_another_genesis_after_a_restart(tmp_path):
    cluster, collector, signer, _ = founders(tmp_path, lambda s, t, m: isinstance(m, GenesisSignature))
    cluster.crash(signer)
    cluster.start(signer)
    cluster.drop = lambda *_: False
    signed = []
    cluster.drop = lambda s, t, m: s == signer and isinstance(m, GenesisSignature) and signed.append(m)
    cluster.run(5000)

    assert signed == []
    assert cluster.nodes[collector].cluster is None


def test_a_collector_that_restarts_frees_the_signatures_that_it_can_no_longer_use(tmp_path):
    cluster, collector, _, _ = founders(tmp_path, lambda s, t, m: isinstance(m, GenesisSignature))
    cluster.crash(collector)
    cluster.drop = lambda *_: False
    cluster.start(collector)
    cluster.elect()

    assert len({n.cluster for n in cluster.nodes.values()}) == 1


def half_founded(tmp_path):
    """a has the signature of b and its genesis; b has crashed before it received it, and now meets only c."""
    cluster = Disks(tmp_path)
    cluster.drop = lambda sender, to, message: sender == "a" and cluster.nodes["a"].cluster is not None
    cluster.start("a", expect=2)
    cluster.start("b", expect=2)
    cluster.run_until(lambda: cluster.nodes["a"].cluster is not None, stride=1)
    assert cluster.nodes["b"].cluster is None
    cluster.crash("b")
    cluster.start("b", expect=2, bond=False)
    cluster.start("c", expect=2, bond=False)
    cluster.bond("b", "c")
    cluster.run(20_000)
    return cluster


def test_a_founder_whose_signature_founded_a_cluster_founds_no_other_after_a_crash(tmp_path):
    cluster = half_founded(tmp_path)
    assert cluster.nodes["b"].cluster is None
    assert cluster.nodes["c"].cluster is None

    cluster.drop = lambda *_: False
    cluster.heal()
    cluster.elect()
    assert len({node.cluster for node in cluster.nodes.values()}) == 1


def test_without_the_remembered_signature_one_founder_founds_two_clusters(tmp_path, monkeypatch):
    monkeypatch.setattr(Signing, "recover", lambda *_: None)
    cluster = half_founded(tmp_path)

    founders_of = {name: node.last_config.voters for name, node in cluster.nodes.items()}
    assert founders_of["a"] == (inc("a"), inc("b"))
    assert founders_of["b"] == founders_of["c"] == (inc("b"), inc("c"))


def founded_with(recovered):
    """Whether a founder that finds this on its disk founds another cluster with whom it meets."""
    cluster = RaftCluster(trust_disk=True)
    cluster.add("b", expect=2, recovered=recovered)
    cluster.add("c", expect=2)
    cluster.run(20_000)
    return cluster.nodes["b"].cluster is not None


def test_a_founder_that_was_in_a_cluster_whose_log_it_never_had_founds_no_other():
    """Whom it signed for is no longer on its disk: the votes and terms of that cluster came after."""
    assert not founded_with(Recovered(7, None, ()))
    assert not founded_with(Recovered(7, inc("a"), ()))
    assert not founded_with(Recovered(7, inc("b"), ()))


def test_without_that_rule_a_founder_founds_a_second_cluster(monkeypatch):
    monkeypatch.setattr(Signing, "recover", lambda *_: None)
    assert founded_with(Recovered(7, None, ()))


def test_a_member_whose_cluster_gave_itself_up_is_free_to_found_after_a_crash(tmp_path):
    cluster = Disks(tmp_path)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    gone = cluster.nodes["a"].cluster
    for node in cluster.nodes.values():
        node.tenure.is_auto = True  # as if one of them had founded it by itself
    over = Presence(None, 0, 0, Bootstrap.AUTO, (), (gone,), 0)
    cluster.drop = lambda *_: True
    for name in "abc":
        other = "b" if name == "a" else "a"
        cluster.step(name, Received(inc(other), over))
    for name in "abc":
        cluster.crash(name)
    cluster.drop = lambda *_: False
    for name in "abc":
        cluster.start(name)
    assert {cluster.files[name].recovered for name in "abc"} == {Recovered(0, None, (), (gone,))}
    cluster.elect()

    assert {node.cluster for node in cluster.nodes.values()}.isdisjoint({gone, None})


def test_no_genesis_signature_leaves_before_it_is_durable(tmp_path):
    cluster = Disks(tmp_path)
    signed = []
    cluster.drop = lambda s, t, m: isinstance(m, GenesisSignature) and signed.append(s)
    cluster.slow = {"b"}
    for name in "abc":
        cluster.start(name)
    cluster.run(5000)
    assert cluster.nodes["b"].signing.given is not None
    assert set(signed) == {"c"}

    cluster.crash("b")
    assert FileStorage(tmp_path / "b", inc("b")).recovered.voted_for is None


def lost_genesis(tmp_path):
    """A collector has every signature, and loses power before its disk has the genesis."""
    cluster = Disks(tmp_path)
    collector = min("abc", key=inc)
    cluster.slow = {collector}
    for name in "abc":
        cluster.start(name)
    cluster.run(3000)
    assert cluster.nodes[collector].cluster is not None
    cluster.crash(collector)
    cluster.slow = set()
    cluster.start(collector)
    cluster.run(20_000)
    return cluster


def test_a_genesis_that_was_lost_with_its_founder_leaves_no_member_in_a_cluster_that_none_holds(tmp_path):
    cluster = lost_genesis(tmp_path)

    assert cluster.leader() is not None
    assert len({node.cluster for node in cluster.nodes.values()}) == 1


def test_a_pre_vote_before_the_genesis_is_durable_strands_its_receiver(tmp_path, monkeypatch):
    monkeypatch.setattr(Member, "_is_promise", lambda _, message: is_promise(message))
    cluster = lost_genesis(tmp_path)

    assert cluster.leader() is None
    assert all(node.cluster is not None and not node.members for node in cluster.nodes.values())


# ---- sessions ---------------------------------------------------------------
def restarted_without_its_session(tmp_path):
    """A member had a command executed, and lost power before its disk had anything of the log."""
    cluster = Disks(tmp_path)
    for name in "ab":
        cluster.start(name, expect=2)
    cluster.elect()
    cluster.slow = {"c"}
    cluster.start("c", bootstrap=Bootstrap.JOIN)
    assert cluster.outcome(cluster.execute("c", 1)).results == (Applied(1),)
    cluster.crash("c")
    cluster.slow = set()
    node = cluster.start("c", bootstrap=Bootstrap.JOIN, bond=False)
    assert cluster.files["c"].recovered.entries == ()
    return cluster, node


def test_a_restarted_member_never_goes_on_in_a_session_that_its_disk_has_lost(tmp_path):
    cluster, _ = restarted_without_its_session(tmp_path)
    cluster.heal()

    assert cluster.outcome(cluster.execute("c", 100)).results == (Applied(101),)
    cluster.run(500)
    assert set(cluster.values().values()) == {101}


def test_in_the_same_session_a_new_command_passes_for_an_old_one_and_never_happens(tmp_path):
    cluster, node = restarted_without_its_session(tmp_path)
    node.session = ClientSession(node, 0)
    cluster.heal()
    ticket = cluster.execute("c", 100)
    cluster.run(10_000)

    assert ticket not in cluster.outcomes
    assert set(cluster.values().values()) == {1}
