"""The access list behind a real log: the same on every member at every index, whatever the network does."""

import random

import pytest

from node.machines.system import CombinedSystem
from node.peers import BondLoss
from node.raft.events import Query
from node.raft.messages import Forward
from node.raft.types import Applied, Bootstrap, Consistency, Failed, NotExecuted, Ok
from node.system.access import CURRENT, PART, AccessState
from node.system.forms import encode_grant
from node.system.grants import AccessRole, CredentialKind, Grant
from tests.node.raft.cluster import three


def token(name, *roles, **more):
    return Grant(
        name=name,
        kind=CredentialKind.TOKEN,
        credential=name.encode().ljust(32, b"."),
        roles=roles or (AccessRole.READ, AccessRole.WRITE),
        **more,
    )


ROOT = token("root", AccessRole.ADMIN)
CI = token("ci")


def group(**overrides):
    return three(system=lambda: CombinedSystem(AccessState([ROOT])), **overrides)


def change(cluster, name, *commands, by=ROOT, **more):
    return cluster.execute(name, *commands, system=True, credential=by.credential, **more)


def grant(cluster, name, which=CI, **more):
    return cluster.outcome(change(cluster, name, ["access-new", encode_grant(which)], **more))


def revoke(cluster, name, which=CI, **more):
    return cluster.outcome(change(cluster, name, ["access-revoke", {"name": which.name}], **more))


def codes(outcome):
    assert isinstance(outcome, Ok), outcome
    return [result.code for result in outcome.results if isinstance(result, Failed)]


def lists(cluster):
    """Return the names in each member's list, and check that equal indices have equal lists."""
    by_index = {}
    for node in cluster.nodes.values():
        by_index.setdefault(node.replica.applied, set()).add(node.replica.system.digest())
    assert all(len(digests) == 1 for digests in by_index.values())
    return {
        name: [one.name for one in node.replica.system[PART].grants] for name, node in cluster.nodes.items()
    }


def test_a_grant_and_a_revocation_hold_on_every_member_from_their_index_on():
    cluster = group()
    assert codes(grant(cluster, cluster.followers()[0])) == []
    for name in "abc":
        assert codes(cluster.outcome(cluster.execute(name, 1, credential=CI.credential))) == []
    assert codes(revoke(cluster, cluster.followers()[1])) == []
    for name in "abc":
        told = cluster.outcome(cluster.execute(name, 1, credential=CI.credential))
        assert codes(told) == ["not-permitted"]
        read = cluster.outcome(cluster.query(name, credential=CI.credential))
        assert read.value.code == "not-permitted"
    cluster.run(500)

    assert set(map(tuple, lists(cluster).values())) == {("root",)}
    assert set(cluster.values().values()) == {3}


def test_a_command_that_its_callers_revocation_overtakes_changes_nothing_anywhere():
    cluster = group()
    grant(cluster, "a")
    leader, (name, _) = cluster.leader(), cluster.followers()
    held = []
    cluster.drop = lambda sender, to, m: isinstance(m, Forward) and not held.append((sender, to, m))
    ticket = cluster.execute(name, 1000, credential=CI.credential)
    cluster.deliver()
    cluster.drop = lambda sender, to, m: False
    revoke(cluster, leader)
    cluster.wire += held

    assert held
    assert codes(cluster.outcome(ticket)) == ["not-permitted"]
    cluster.run(500)
    assert set(cluster.values().values()) == {0}


def test_a_grant_by_an_admin_whose_revocation_is_applied_first_has_no_effect():
    cluster = group()
    second, late = token("second", AccessRole.ADMIN), token("late", AccessRole.ADMIN)
    grant(cluster, "a", second)
    leader, (name, _) = cluster.leader(), cluster.followers()
    held = []
    cluster.drop = lambda sender, to, m: isinstance(m, Forward) and not held.append((sender, to, m))
    ticket = change(cluster, name, ["access-new", encode_grant(late)], by=second)
    cluster.deliver()
    cluster.drop = lambda sender, to, m: False
    revoke(cluster, leader, second)
    cluster.wire += held

    assert held
    assert codes(cluster.outcome(ticket)) == ["not-permitted"]
    cluster.run(500)
    assert set(map(tuple, lists(cluster).values())) == {("root",)}


def test_a_change_is_made_once_however_often_it_is_asked():
    cluster = group()
    first = grant(cluster, "a", key=b"new")
    assert {grant(cluster, name, key=b"new").at for name in "abc"} == {first.at}
    gone = revoke(cluster, "b", key=b"gone")
    grant(cluster, "c")
    assert revoke(cluster, "a", key=b"gone") == gone
    cluster.run(500)

    assert set(map(tuple, lists(cluster).values())) == {("root", "ci")}


def test_a_caller_that_is_not_an_admin_changes_nothing_and_neither_does_a_member_without_a_caller():
    cluster = group()
    grant(cluster, "a")
    ours = encode_grant(token("mallory", AccessRole.ADMIN))

    assert codes(cluster.outcome(change(cluster, "a", ["access-new", ours], by=CI))) == ["not-permitted"]
    by_itself = cluster.execute("a", ["access-new", ours], system=True)
    assert codes(cluster.outcome(by_itself)) == ["not-permitted"]
    unknown = change(cluster, "a", ["access-new", ours], by=token("nobody"))
    assert codes(cluster.outcome(unknown)) == ["not-permitted"]
    assert set(map(tuple, lists(cluster).values())) == {("root", "ci")}


def test_a_credential_expires_at_one_index_on_all_members_whatever_their_clocks_show():
    cluster = group()
    now_ms = cluster.nodes[cluster.leader()].replica.applied_ms
    grant(cluster, "a", token("ci", expires_ms=now_ms + 3000))
    for skew, name in enumerate(cluster.followers()):
        cluster.wall_skew_ms[name] = 10**9 * (1 - 2 * skew)
    outcomes = []
    for number in range(12):
        ticket = cluster.execute("abc"[number % 3], 1, credential=CI.credential)
        outcomes.append(codes(cluster.outcome(ticket)))
        cluster.run(500)

    good = outcomes.count([])
    assert outcomes == [[]] * good + [["not-permitted"]] * (12 - good)
    assert 0 < good < 12
    assert set(cluster.values().values()) == {good}


def test_a_member_that_is_cut_off_cannot_prove_that_its_list_is_current():
    cluster = group()
    name = cluster.followers()[0]
    cluster.isolate(name, BondLoss.LOST)
    grant(cluster, cluster.leader())
    cluster.tokens += 1
    cluster.step(name, Query(cluster.tokens, [CURRENT], Consistency.STRONG, system=True))
    cluster.run(3000)

    assert (name, cluster.tokens) not in cluster.outcomes
    assert lists(cluster)[name] == ["root"]
    cluster.heal()
    assert cluster.outcome((name, cluster.tokens)).value is None
    assert lists(cluster)[name] == ["root", "ci"]


def race(seed):
    """Grants, revocations and commands of several callers race, over lost messages and changes of the leader."""
    chance = random.Random(seed)
    cluster = group(seed=seed)
    callers = [token(name) for name in ("x", "y", "z")]
    tickets = []
    cluster.drop = lambda sender, to, m: chance.random() < 0.05
    for _ in range(60):
        name, who = chance.choice("abc"), chance.choice(callers)
        match chance.randrange(4):
            case 0:
                change(cluster, name, ["access-new", encode_grant(who)])
            case 1:
                change(cluster, name, ["access-revoke", {"name": who.name}])
            case _:
                tickets.append(cluster.execute(name, 1, credential=who.credential))
        cluster.run(chance.randrange(120))
        lists(cluster)
    cluster.drop = lambda sender, to, m: False
    cluster.elect()
    cluster.run(5000)

    told = [cluster.outcomes[ticket] for ticket in tickets if ticket in cluster.outcomes]
    executed = sum(isinstance(one, Ok) and isinstance(one.results[0], Applied) for one in told)
    refused = sum(isinstance(one, Ok) and codes(one) == ["not-permitted"] for one in told)
    assert len(told) == len(tickets)
    assert all(isinstance(one, Ok | NotExecuted) for one in told)
    victim = cluster.followers()[0]
    cluster.kill(victim)
    cluster.add(victim, bootstrap=Bootstrap.JOIN, life=1)  # replays the log, and judges everybody again
    cluster.run(5000)
    assert len({node.replica.applied for node in cluster.nodes.values()}) == 1
    assert len({node.replica.system.digest() for node in cluster.nodes.values()}) == 1
    assert set(cluster.values().values()) == {executed}
    return executed, refused


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6, 206))
def test_members_agree_on_the_access_list_in_many_more_races(seed):
    race(seed)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_network_loses_members_agree_on_the_access_list_and_on_what_was_executed(seed):
    executed, refused = race(seed)

    assert executed > 3
    assert refused > 3
