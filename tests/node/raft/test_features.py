"""Feature levels and versions of the machine: where a group begins, and how it goes on."""

from dataclasses import replace

import pytest

from node.errors import RemoteProtocolError
from node.features import (
    HIGHEST,
    LOWEST,
    Build,
    Features,
    Levels,
    Span,
    common_levels,
    objection,
    objection_to_peer,
)
from node.machines.base import CommandError
from node.peers import BondLoss, Preference
from node.raft.entries import (
    EMPTY_PAYLOAD,
    ENTRY_LEVELS,
    check_payload_untrusted,
    decode_config_untrusted,
    decode_number_untrusted,
    encode_config,
    encode_number,
    make_entry,
)
from node.raft.events import (
    BondDown,
    BondUp,
    Cancel,
    ChangeVersion,
    Halted,
    LevelsChanged,
    Received,
    Recovered,
    Tick,
    Unfit,
    Violation,
)
from node.raft.member import Member
from node.raft.messages import Append, AppendReply, GenesisProposal, GenesisSignature, Verdict
from node.raft.types import (
    LOG_START,
    Applied,
    Bootstrap,
    Cursor,
    EntryKind,
    Failed,
    NotExecuted,
    Ok,
    Unknown,
)
from tests.node.raft.cluster import BUILD, LEVELS, RaftCluster, Register, inc, three

OLD_BUILD = Build("", Span(1, 1), BUILD.family, BUILD.versions)
OLD, NEW, NEWEST = Features(1, 1), Features(1, 2, after_ms=60_000), Features(1, 3)


class Versions(Register):
    """Knows versions ``low`` to ``high``; version 2 counts double."""

    def __init__(self, low=1, high=1):
        super().__init__()
        self.known = range(low, high + 1)

    @property
    def versions(self):
        return self.known

    def apply(self, command, context):
        return super().apply(command * context.version, context)


class Migrating(Versions):
    """Turns its state into another version's, unless that is 3 or its value is odd."""

    def migrate(self, old, new):
        self.value += 1000 * new
        if new == 3:
            raise CommandError("refused", "as asked")
        if self.value % 2:
            raise ZeroDivisionError


def group(*features, names="abc", machines=None, **settings):
    cluster = RaftCluster(**settings)
    for position, name in enumerate(names):
        machine = machines[position] if machines else None
        cluster.add(name, expect=len(names), features=features[position], machine=machine)
    cluster.elect()
    cluster.run(300)
    return cluster


def levels(cluster):
    return {node.status().levels for node in cluster.nodes.values()}


def written(cluster, kind=EntryKind.FEATURE):
    node = next(iter(cluster.nodes.values()))
    entries = node.log.slice(1, node.log.last().index, 10**9)
    return [decode_number_untrusted(entry.payload) for entry in entries if entry.kind is kind]


def notices(cluster, name, kind):
    return [notice for notice in cluster.notices[name] if isinstance(notice, kind)]


# ---- what goes together ----------------------------------------------------------
def build(low, high, family="m", first=1, last=1):
    return BUILD.__class__("", Span(low, high), family, Span(first, last))


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (build(1, 2), ""),
        (build(2, 2), ""),
        (build(1, 1), "feature-level-too-low"),
        (build(3, 4), "feature-level-too-high"),
        (build(1, 2, "other"), "machine-family-differs"),
        (build(1, 2, first=2, last=3), "machine-version-too-high"),
    ],
)
def test_a_build_fits_a_group_or_is_refused_with_a_named_reason(one, reason):
    assert objection(one, Levels(2, "m", 1)) == reason


def test_a_machine_that_is_too_old_is_refused_by_name():
    assert objection(build(1, 1, first=1, last=2), Levels(1, "m", 3)) == "machine-version-too-low"


def test_two_builds_that_have_nothing_in_common_can_be_in_no_group():
    assert objection_to_peer(build(2, 3), build(1, 2)) == ""
    assert objection_to_peer(build(2, 3), build(1, 1)) == "feature-level-too-low"
    assert objection_to_peer(build(1, 1), build(2, 3)) == "feature-level-too-high"
    assert objection_to_peer(build(1, 1, first=2, last=2), build(1, 1)) == "machine-version-too-low"
    assert objection_to_peer(build(1, 1), build(1, 1, "other")) == "machine-family-differs"


def test_what_builds_have_in_common_is_the_highest_that_all_know():
    assert common_levels([build(1, 3, first=1, last=4), build(2, 5, first=3, last=3)]) == Levels(3, "m", 3)
    assert common_levels([build(1, 1), build(2, 2)]) is None
    assert common_levels([build(1, 1), build(1, 1, first=2, last=2)]) is None
    assert common_levels([build(1, 1), build(1, 1, "other")]) is None


# ---- where a group begins ----------------------------------------------------------
@pytest.mark.parametrize(
    ("features", "level"), [((OLD, OLD, OLD), 1), ((NEW, OLD, NEW), 1), ((NEW, NEWEST, NEWEST), 2)]
)
def test_a_group_begins_at_the_highest_level_that_all_its_founders_know(features, level):
    cluster = group(*features)
    assert levels(cluster) == {Levels(level, "test/register", 1)}
    _, founding = decode_config_untrusted(cluster.nodes["a"].log.get(1).payload)

    assert founding.levels == Levels(level, "test/register", 1)
    for name in "abc":
        (told,) = notices(cluster, name, LevelsChanged)
        assert (told.levels, told.at) == (founding.levels, (1, 1))


def test_a_group_begins_at_the_highest_version_of_the_machine_that_all_its_founders_have():
    cluster = group(OLD, OLD, OLD, machines=[Versions(1, 3), Versions(1, 2), Versions(2, 4)])
    assert levels(cluster) == {Levels(1, "test/register", 2)}
    assert cluster.outcome(cluster.execute("a", 4)).results == (Applied(8),)


def test_a_sole_founder_begins_at_its_own_highest_level():
    cluster = RaftCluster(min_voters=1)
    cluster.add("a", bootstrap=Bootstrap.INIT, features=NEWEST, machine=Versions(2, 3))
    cluster.elect()
    assert levels(cluster) == {Levels(3, "test/register", 3)}


@pytest.mark.parametrize(
    "wrong", [Levels(2, "test/register", 1), Levels(1, "other", 1), Levels(1, "test/register", 2)]
)
def test_a_founder_signs_no_genesis_at_other_levels_than_all_founders_know(wrong):
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, features=NEW if name == "a" else OLD)
    cluster.drop = lambda *message: isinstance(message[2], GenesisProposal)
    cluster.run(300)
    first, _, last = sorted(cluster.nodes, key=lambda name: cluster.nodes[name].me)
    voters = tuple(sorted(node.me for node in cluster.nodes.values()))
    proposal = GenesisProposal(1, b"n" * 16, voters, wrong)
    effects = cluster.step(last, Received(inc(first), proposal))

    assert Violation(inc(first), "bad-genesis-proposal") in effects.notices
    assert not any(isinstance(send.message, GenesisSignature) for send in effects.sends)
    assert cluster.nodes[last].signing.given is None


def test_founders_sign_the_levels_too():
    cluster = group(OLD, OLD, OLD)
    node = cluster.nodes["a"]
    config, founding = decode_config_untrusted(node.log.get(1).payload)

    for changed in (Levels(2, "test/register", 1), Levels(1, "test/register", 2), Levels(1, "test", 1)):
        payload = encode_config(config, replace(founding, levels=changed))
        entry = make_entry(LOG_START, term=1, kind=EntryKind.CONFIG, time_ms=5, payload=payload)
        assert not node._is_genesis(entry)
    assert node._is_genesis(node.log.get(1))


# ---- to a higher level -----------------------------------------------------------
def stay(cluster, ms):
    cluster.run(ms)
    assert written(cluster) == []
    return cluster


def grown(*features, learner=None):
    """A group founded at level 1 because one of its founders knew no other; that one is replaced now."""
    cluster = group(OLD, *features)
    cluster.kill("a")
    cluster.add("a", bootstrap=Bootstrap.JOIN, features=features[0], life=1)
    leader = cluster.elect()
    cluster.run_until(lambda: cluster.nodes["a"].tenure.is_voter)
    assert len(cluster.nodes[leader].last_config.voters) == 3
    return cluster


def test_the_leader_raises_the_level_when_all_members_have_known_it_for_a_minute():
    cluster = stay(grown(NEW, NEW), 50_000)
    cluster.run_until(lambda: levels(cluster) == {Levels(2, "test/register", 1)}, 20_000)

    assert written(cluster) == [2]
    cluster.run(130_000)
    assert written(cluster) == [2]


def test_it_is_the_highest_that_all_know():
    cluster = grown(NEWEST, NEW)
    cluster.run_until(lambda: written(cluster) == [2], 70_000)
    cluster.run(130_000)
    assert written(cluster) == [2]


def test_one_voter_that_knows_no_higher_level_keeps_it_as_it_is():
    stay(group(OLD, NEW, NEW), 130_000)


def test_one_learner_that_knows_no_higher_level_keeps_it_as_it_is():
    """It applies the same entries."""
    cluster = grown(NEW, NEW)
    cluster.add("o", bootstrap=Bootstrap.JOIN, preference=Preference.OBSERVER, features=OLD)
    stay(cluster, 130_000)
    cluster.kill("o")
    stay(cluster, 50_000)
    cluster.run_until(lambda: written(cluster) == [2], 20_000)


def test_a_voter_that_is_not_there_may_know_nothing():
    cluster = grown(NEW, NEW)
    leader, (gone, _) = cluster.leader(), cluster.followers()
    cluster.nodes[leader]._plan = lambda *_: None  # it stays a voter
    cluster.isolate(gone)
    cluster.run(130_000)
    assert written(cluster) == []


def test_a_member_that_comes_and_goes_restarts_the_minute():
    cluster = stay(grown(NEW, NEW), 40_000)
    cluster.add("o", bootstrap=Bootstrap.JOIN, preference=Preference.OBSERVER, features=OLD)
    cluster.run(1_000)
    cluster.kill("o")
    stay(cluster, 50_000)


def test_a_new_leader_counts_the_minute_itself():
    cluster = stay(grown(NEW, NEW), 50_000)
    first = cluster.leader()
    cluster.isolate(first)
    cluster.run_until(lambda: cluster.leader() not in (None, first))
    cluster.heal()
    stay(cluster, 50_000)
    cluster.run_until(lambda: written(cluster) == [2], 20_000)


class AtOnce(Member):
    def _is_level_known_for_long(self, since_ms):
        return True


def test_the_minute_is_what_keeps_a_level_from_being_written_at_once():
    cluster = RaftCluster(member=AtOnce)
    for name in "abc":
        cluster.add(name, features=OLD if name == "a" else NEW)
    cluster.elect()
    cluster.kill("a")
    cluster.add("a", bootstrap=Bootstrap.JOIN, features=NEW, life=1)
    cluster.run_until(lambda: written(cluster) == [2], 20_000)


# ---- who does not know it ----------------------------------------------------------
def test_a_peer_that_does_not_know_the_groups_level_is_refused_before_anything_is_sent():
    cluster = group(NEW, NEW, NEW)
    leader = cluster.leader()
    stranger = inc("stranger")
    effects = cluster.step(leader, BondUp(stranger, Preference.NORMAL, OLD_BUILD))

    assert Unfit(stranger, "feature-level-too-low") in effects.notices
    assert not any(stranger in send.to for send in effects.sends)
    cluster.step(leader, Received(stranger, Append(cluster.nodes[leader].cluster, 99, (0, 0, b""), (), 0, 1)))
    assert cluster.nodes[leader].term < 99
    cluster.step(leader, BondDown(stranger, BondLoss.LOST))
    later = cluster.step(leader, Tick())
    assert not any(stranger in send.to for send in later.sends)


def test_the_bond_to_a_peer_that_does_not_know_the_new_level_ends_in_the_step_that_applies_it():
    cluster = grown(NEW, NEW)
    leader = cluster.leader()
    node = cluster.nodes[leader]
    late = inc("late")
    cluster.run_until(lambda: node.tenure.leadership.feature is not None)
    node._builds = lambda: [node.build]  # as if it had bonded just after the leader looked
    cluster.step(leader, BondUp(late, Preference.OBSERVER, OLD_BUILD))
    cluster.run_until(lambda: node.status().levels.level == 2, 70_000)

    assert Unfit(late, "feature-level-too-low") in cluster.notices[leader]
    assert late not in node.peers
    assert late not in node.audience


def test_a_member_whose_software_does_not_know_what_follows_stops_before_it():
    cluster = group(NEW, NEW, OLD)
    leader = cluster.leader()
    node = cluster.nodes[leader]
    node._builds = lambda: [node.build]
    node.features = Features(1, 2, after_ms=0)
    cluster.run(1_000)

    assert cluster.nodes["c"].halted == "feature-level-too-low" or leader == "c"


def test_a_log_of_a_higher_level_than_an_image_knows_stops_it_by_name():
    """The host started an older image on it."""
    cluster = RaftCluster(trust_disk=True, min_voters=1)
    node = cluster.add("a", bootstrap=Bootstrap.INIT, features=NEW)
    cluster.elect()
    log = node.log.slice(1, node.log.last().index, 10**9)
    cluster.kill("a")
    again = cluster.add(
        "a", bootstrap=Bootstrap.INIT, features=OLD, recovered=Recovered(node.term, node.voted_for, log)
    )

    assert cluster.notices["a"] == [Halted("feature-level-too-low")]
    assert cluster.outcome(cluster.execute("a", 1)) == NotExecuted("halted")
    assert again.status().halted == "feature-level-too-low"
    cluster.run(3_000)
    assert cluster.notices["a"] == [Halted("feature-level-too-low")]


def test_what_belongs_to_a_higher_level_is_not_written_before_that_is_applied():
    cluster = three()
    leader = cluster.leader()
    node = cluster.nodes[leader]
    cluster.outcome(cluster.execute(leader, 1))
    node._level_of = lambda kind: HIGHEST + 1 if kind is EntryKind.COMMAND else 1
    last = node.log.last()
    assert cluster.outcome(cluster.execute(leader, 1)) == Unknown("halted")

    assert node.halted == "entry-above-feature-level"
    assert node.log.last() == last


def test_every_kind_of_entry_has_a_level_or_is_refused():
    for kind in EntryKind:
        if kind in ENTRY_LEVELS:
            assert LOWEST <= ENTRY_LEVELS[kind] <= HIGHEST
        else:
            with pytest.raises(RemoteProtocolError, match="not known here"):
                check_payload_untrusted(kind, EMPTY_PAYLOAD)


@pytest.mark.parametrize(
    "payload", [b"", EMPTY_PAYLOAD, b"\x81\x00", b"\x81\x1a\x00\x01\x00\x00", b"\x81\xf5"]
)
@pytest.mark.parametrize("kind", [EntryKind.FEATURE, EntryKind.MACHINE])
def test_an_invalid_level_or_version_is_refused(kind, payload):
    check_payload_untrusted(kind, encode_number(65_535))
    with pytest.raises(RemoteProtocolError):
        check_payload_untrusted(kind, payload)


# ---- the machine's version ------------------------------------------------------------
def versions(*machines):
    return group(*(OLD for _ in machines), names="abc"[: len(machines)], machines=machines)


def change(cluster, name, version):
    cluster.tokens += 1
    cluster.step(name, ChangeVersion(cluster.tokens, version))
    return name, cluster.tokens


def old_group(*machines):
    """A group founded at version 1 with a member that knew no other, of which that one is gone."""
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, machine=Versions(1, 1) if name == "a" else machines["bc".index(name)])
    cluster.elect()
    cluster.kill("a")
    leader = cluster.elect()
    cluster.run_until(lambda: len(cluster.nodes[leader].members) == 2)
    return cluster, leader


def test_every_member_migrates_at_the_same_index():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    assert cluster.outcome(cluster.execute(leader, 4)).results == (Applied(4),)
    done = cluster.outcome(change(cluster, leader, 2))
    assert cluster.outcome(cluster.execute(leader, 4)).results == (Applied(2012),)
    cluster.run(300)

    assert done.results == (Applied(None),)
    assert levels(cluster) == {Levels(HIGHEST, "test/register", 2)}
    assert set(cluster.values().values()) == {2012}
    assert written(cluster, EntryKind.MACHINE) == [2]


@pytest.mark.parametrize(
    ("first", "version", "code"), [(4, 3, "refused"), (5, 2, "migrate-raised")], ids=["refuses", "raises"]
)
def test_a_machine_that_refuses_goes_on_as_it_was_on_every_member(first, version, code):
    cluster, leader = old_group(Migrating(1, 3), Migrating(1, 3))
    cluster.outcome(cluster.execute(leader, first))
    (result,) = cluster.outcome(change(cluster, leader, version)).results
    assert cluster.outcome(cluster.execute(leader, 1)).results == (Applied(first + 1),)
    cluster.run(300)

    assert isinstance(result, Failed)
    assert result.code == code
    assert levels(cluster) == {Levels(HIGHEST, "test/register", 1)}
    assert set(cluster.values().values()) == {first + 1}


def test_a_version_change_that_the_machine_cannot_migrate_to_is_refused_with_a_named_reason():
    cluster, leader = old_group(Versions(1, 2), Versions(1, 2))
    (result,) = cluster.outcome(change(cluster, leader, 2)).results
    assert result.code == "machine-version-change-unsupported"


def test_a_version_that_some_member_does_not_know_is_refused_before_it_is_written():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 1))
    assert cluster.outcome(change(cluster, leader, 2)) == NotExecuted(
        "machine-version-change-unsupported", cluster.nodes[leader].me
    )
    assert written(cluster, EntryKind.MACHINE) == []


def test_only_the_leader_changes_the_version():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    (follower,) = cluster.followers()
    assert cluster.outcome(change(cluster, follower, 2)) == NotExecuted(
        "not-leader", cluster.nodes[leader].me
    )


def test_a_caller_that_stops_waiting_for_a_version_change_gets_unknown():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    cluster.drop = lambda *_: True
    ticket = change(cluster, leader, 2)
    cluster.step(leader, Cancel(ticket[1]))
    assert cluster.outcomes[ticket] == Unknown("cancelled")


def test_a_leader_that_steps_down_does_not_know_what_became_of_it():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    cluster.drop = lambda *_: True
    ticket = change(cluster, leader, 2)
    node, (follower,) = cluster.nodes[leader], cluster.followers()
    later = AppendReply(node.cluster, node.term + 1, Verdict.STALE, 0, 0, Cursor(0, 0))
    cluster.step(leader, Received(cluster.nodes[follower].me, later))
    assert cluster.outcomes[ticket] == Unknown("leader-lost")


def test_a_learner_whose_machine_does_not_know_the_groups_version_is_refused():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    cluster.outcome(change(cluster, leader, 2))
    effects = cluster.step(leader, BondUp(inc("old"), Preference.NORMAL, BUILD))
    assert Unfit(inc("old"), "machine-version-too-low") in effects.notices


def test_levels_come_back_from_a_log_that_was_kept():
    cluster, leader = old_group(Migrating(1, 2), Migrating(1, 2))
    assert Levels(HIGHEST, "test/register", 1) == LEVELS
    assert isinstance(cluster.outcome(change(cluster, leader, 2)), Ok)
    cluster.add("d", bootstrap=Bootstrap.JOIN, machine=Migrating(1, 2))
    cluster.run_until(lambda: len(cluster.nodes[leader].members) == 3)
    cluster.run(300)
    assert levels(cluster) == {Levels(HIGHEST, "test/register", 2)}
