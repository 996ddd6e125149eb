"""What a cluster of real processes survives, and what it never answers."""

import json
import os
import signal
import threading
import time

import httpx
import pytest

from node.client import BondstoneClient, ClientError
from tests.support.cluster import until

pytestmark = pytest.mark.cluster


def commit_index(cluster, i: int) -> int:
    with cluster.http(i) as http:
        return http.get("/v1/group").json()["commit_index"]


def put(client: BondstoneClient, key: str, value: str) -> bool:
    try:
        client.put(key, value)
    except ClientError:
        return False
    return True


def test_writes_go_on_after_kill_9_of_the_leader_and_nothing_acknowledged_is_lost(own_cluster):
    cluster = own_cluster
    leader = cluster.leader()
    others = [i for i in range(3) if i != leader]
    with cluster.client(*others) as client:
        acknowledged = [f"before-{i}" for i in range(50) if put(client, f"before-{i}", str(i))]
        cluster.kill(leader)
        acknowledged += [f"after-{i}" for i in range(50) if put(client, f"after-{i}", str(i))]
        new_leader = cluster.leader(*others)

        assert len(acknowledged) == 100
        assert new_leader != leader
        assert [key for key in acknowledged if client.get(key) is None] == []


def test_a_killed_node_started_again_is_a_new_incarnation_and_becomes_a_voter(own_cluster):
    cluster = own_cluster
    leader = cluster.leader()
    victim = (leader + 1) % 3
    old_id = cluster.nodes[victim]["peer_id"]
    cluster.kill(victim)
    with cluster.client(leader) as client:
        client.put("while-away", "yes")
    again = cluster.run_node(cluster.node_config(victim))
    new_id = again.event("listening")["peer_id"]
    again.event("ready")

    def voters():
        with cluster.http(leader) as http:
            return http.get("/v1/group").json()["voters"]

    until(lambda: new_id in voters() and old_id not in voters(), "the new incarnation replaced the old one")
    with cluster.client(victim) as client:
        assert client.get("while-away").value == b"yes"
    assert new_id != old_id


def test_a_stopped_leader_is_replaced_and_answers_nothing_old_when_it_wakes(own_cluster):
    cluster = own_cluster
    leader = cluster.leader()
    others = [i for i in range(3) if i != leader]
    with cluster.client(leader) as client:
        client.put("frozen", "old")
    os.kill(cluster.nodes[leader]["pid"], signal.SIGSTOP)
    try:
        with cluster.client(*others) as client:
            client.put("frozen", "new")
    finally:
        os.kill(cluster.nodes[leader]["pid"], signal.SIGCONT)
    with cluster.client(leader) as client:
        assert client.get("frozen").value == b"new"


def test_the_minority_side_never_answers_a_write(own_cluster):
    """1|2 by stopping two nodes: to the third they are as silent as behind a cut."""
    cluster = own_cluster
    leader = cluster.leader()
    others = [i for i in range(3) if i != leader]
    for i in others:
        os.kill(cluster.nodes[i]["pid"], signal.SIGSTOP)
    try:
        before = commit_index(cluster, leader)
        answers = []
        with cluster.http(leader) as http:
            for i in range(4):
                try:
                    answer = http.post(
                        "/v1/commands",
                        json={"command": {"op": "put", "key": f"cut-{i}", "value": "x"}},
                        timeout=3,
                    )
                    answers.append(answer.status_code)
                except httpx.TimeoutException:
                    answers.append(0)
        assert 200 not in answers
        assert commit_index(cluster, leader) == before
    finally:
        for i in others:
            os.kill(cluster.nodes[i]["pid"], signal.SIGCONT)
    with cluster.client() as client:
        until(lambda: put(client, "healed", "yes"), "the cluster takes writes again")
        assert client.get("healed").value == b"yes"


def test_no_acknowledged_write_is_lost_or_applied_twice_over_repeated_kills(own_cluster):
    """Four writers count in their own keys by compare-and-swap while nodes die and come back."""
    cluster = own_cluster
    stop = threading.Event()
    counted = [0] * 4
    unknown = [0] * 4

    def write(n: int) -> None:
        with cluster.client(deadline_s=15) as client:
            while not stop.is_set():
                try:
                    swapped = client.compare_and_swap(
                        f"count-{n}",
                        expect=str(counted[n]) if counted[n] else None,
                        value=str(counted[n] + 1),
                    )
                except ClientError:
                    item = client.get(f"count-{n}")
                    unknown[n] += 1
                    counted[n] = int(item.value) if item else 0
                    continue
                assert swapped
                counted[n] += 1

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    restarted = []
    for i in (0, 1, 2):
        time.sleep(0.5)  # load between the failures; nothing is asserted on it
        os.kill(cluster.nodes[i]["pid"], signal.SIGKILL)
        cluster.process.event("node-exited")
        again = cluster.run_node(cluster.node_config(i))
        again.event("ready")
        restarted.append(again)
        new_id = next(e for e in again.events if e["event"] == "listening")["peer_id"]

        def votes(i=i, new_id=new_id):
            try:
                with cluster.http(i) as http:
                    return new_id in http.get("/v1/group").json()["voters"]
            except httpx.ConnectError:  # its new certificate is not among the trusted ones yet
                return False

        until(votes, f"node-{i} votes again")
    stop.set()
    for writer in writers:
        writer.join(timeout=60)

    with cluster.client() as client:
        final = [int(client.get(f"count-{n}").value) for n in range(4)]
    assert final == counted
    assert min(final) > 0


def test_the_audit_log_records_departure_and_return(own_cluster):
    cluster = own_cluster
    victim = (cluster.leader() + 1) % 3
    witness = (victim + 1) % 3
    cluster.kill(victim)

    def kinds():
        return [
            event["kind"]
            for event in cluster.audit(witness)
            if cluster.nodes[victim]["peer_id"] in json.dumps(event)
        ]

    until(lambda: "bond-ended" in kinds(), "the end of the bond is in the audit log")
    assert "bond-admitted" in kinds()
