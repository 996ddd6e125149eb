"""What an operator sees of the members, and does with them, over real nodes."""

import json
import time

import pytest

from tests.support.cluster import cli, until

pytestmark = pytest.mark.cluster


def client_flags(cluster, *nodes):
    """Return the flags with which a command asks these nodes; by default all."""
    urls = [cluster.nodes[i]["api"] for i in (nodes or range(cluster.count))]
    return [
        *(part for url in urls for part in ("--url", url)),
        "--token",
        cluster.ready["token"],
        "--ca",
        cluster.ready["ca"],
    ]


def test_the_leader_shows_every_voter_connected_and_caught_up(cluster):
    run = cli("member", "list", "--json", *client_flags(cluster, cluster.leader()))
    shown = json.loads(run.stdout)
    table = cli("member", "list", *client_flags(cluster))

    assert run.returncode == 0
    assert sorted(member["role"] for member in shown["members"]) == ["leader", "voter", "voter"]
    assert all(member["connected"] and member["lag"] is not None for member in shown["members"])
    assert shown["pending_change"] is None
    assert table.returncode == 0
    assert all(name in table.stdout for name in ("node-0", "node-1", "node-2"))


def test_a_follower_of_three_can_stop_and_the_leader_only_after_it_handed_over(cluster):
    leader = cluster.leader()
    follower = next(i for i in range(cluster.count) if i != leader)

    def asked(i, *nodes):
        flags = client_flags(cluster, *nodes)
        run = cli("member", "safe-to-stop", f"node-{i}", "--json", "--wait", "0", *flags)
        return run.returncode, json.loads(run.stdout)["reason"]

    waited = cli("member", "safe-to-stop", f"node-{follower}", "--wait", "30", *client_flags(cluster))
    assert (waited.returncode, waited.stdout) == (0, f"node-{follower} can stop now\n")
    assert asked(follower, follower, leader) == (0, "")
    assert asked(leader) == (1, "leads")
    assert asked(follower, follower) == (3, "not-known")
    assert cli("member", "safe-to-stop", "node-9", *client_flags(cluster)).returncode == 2


def test_the_last_two_of_three_cannot_stop(own_cluster):
    leader = own_cluster.leader()
    gone, last = (i for i in range(3) if i != leader)
    own_cluster.kill(gone)
    with own_cluster.http(leader) as http:
        # Until the leader misses the answers of the killed node it counts that node too.
        deadline = time.monotonic() + 60
        while any(m["connected"] and m["name"] == f"node-{gone}" for m in members(http)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    run = cli("member", "safe-to-stop", f"node-{last}", "--json", *client_flags(own_cluster, leader, last))

    assert run.returncode == 1
    assert json.loads(run.stdout)["reason"] in {"would-lose-quorum", "too-few-copies", "change-pending"}


def members(http):
    return http.get("/v1/members").json()["members"]


def test_the_leadership_goes_to_the_voter_that_is_named(cluster):
    leader = cluster.leader()
    target = next(i for i in range(cluster.count) if i != leader)
    assert cli("member", "wait", "--voters", "3", *client_flags(cluster)).returncode == 0
    waited = cli("member", "safe-to-stop", f"node-{target}", "--wait", "30", *client_flags(cluster))
    run = cli("member", "transfer", f"node-{target}", *client_flags(cluster))

    assert waited.returncode == 0
    assert (run.returncode, run.stdout) == (0, f"node-{target} leads\n")
    with cluster.http(leader) as http:
        (event,) = [
            event
            for event in http.get("/v1/audit/events?limit=1000").json()["events"]
            if event["kind"] == "leadership-transferred"
        ]
    assert event["to"] == f"node-{target}"


def test_waiting_for_more_voters_than_there_are_ends_and_names_what_is_missing(cluster):
    run = cli("member", "wait", "--voters", "4", "--timeout", "0", *client_flags(cluster))

    assert (run.returncode, run.stdout) == (1, "3 voters instead of 4\n")


def test_a_member_is_removed_and_the_next_one_cannot_be_spared(own_cluster):
    leader = own_cluster.leader()
    gone, last = (i for i in range(3) if i != leader)
    assert cli("member", "wait", "--voters", "3", *client_flags(own_cluster)).returncode == 0
    run = cli("member", "remove", f"node-{gone}", *client_flags(own_cluster))

    assert (run.returncode, run.stdout.startswith(f"node-{gone} is removed (")) == (0, True)
    with own_cluster.http(gone) as http:
        until(lambda: http.get("/readyz").json().get("reason") == "removed", "the removed node learns of it")
    with own_cluster.http(leader) as http:
        until(
            lambda: [m["name"] for m in members(http)] == sorted([f"node-{leader}", f"node-{last}"]), "gone"
        )
        assert {m["role"] for m in members(http)} == {"leader", "voter"}
        kinds = [event["kind"] for event in http.get("/v1/audit/events?limit=1000").json()["events"]]
        assert "member-removed" in kinds
    refused = cli("member", "remove", f"node-{last}", *client_flags(own_cluster, leader, last))
    assert refused.returncode == 1
    assert "below-min-voters" in refused.stderr or "min_voters" in refused.stderr
