"""The time in the log (3.8) is the monotonic clock's, slewed towards the wall's: hosts can set the latter."""

import pytest

from node.raft.replication import SLEW_PERCENT, Replication
from node.raft.types import Cursor
from tests.node.raft.cluster import RaftCluster, three

TTL_MS = 60_000
YEARS_MS = 10**12


def newest_ms(cluster: RaftCluster) -> int:
    log = cluster.nodes[cluster.leader()].log
    return log.get(log.last().index).time_ms


def write(cluster: RaftCluster, value: int = 1, **how) -> Cursor:
    return cluster.outcome(cluster.execute(cluster.leader(), value, **how)).at


def test_with_a_right_wall_clock_it_is_the_wall_clocks_time():
    cluster = three()
    for _ in range(5):
        cluster.run(777)
        write(cluster)
        assert abs(newest_ms(cluster) - cluster.wall(cluster.leader())) <= 20


@pytest.mark.parametrize("jump_ms", [110_000, YEARS_MS])
def test_a_jump_of_the_leaders_wall_clock_makes_no_retry_execute_again(jump_ms):
    cluster = three()
    first = write(cluster, 7, key=b"order-1")
    cluster.wall_skew_ms[cluster.leader()] = jump_ms
    write(cluster)
    cluster.run(1000)

    assert write(cluster, 7, key=b"order-1") == first
    assert set(cluster.values().values()) == {8}


def test_a_copied_wall_clock_would_let_the_retry_execute_again(monkeypatch):
    """The attack, with the rule taken out."""
    monkeypatch.setattr(Replication, "_log_time", lambda self, last_ms: max(self.wall, last_ms) * 100)
    cluster = three()
    first = write(cluster, 7, key=b"order-1")
    cluster.wall_skew_ms[cluster.leader()] = 110_000
    write(cluster)

    assert write(cluster, 7, key=b"order-1") != first
    assert set(cluster.values().values()) == {15}


def test_a_jump_ends_no_session():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.outcome(cluster.execute(follower, 1))
    session = cluster.nodes[follower].session.id
    cluster.wall_skew_ms[cluster.leader()] = YEARS_MS
    write(cluster)
    cluster.run(2000)

    assert all(session in node.replica.table for node in cluster.nodes.values())


@pytest.mark.parametrize("skew_ms", [YEARS_MS, -YEARS_MS])
def test_whatever_the_wall_clock_shows_a_key_is_remembered_for_about_its_ttl(skew_ms):
    cluster = three()
    cluster.wall_skew_ms[cluster.leader()] = skew_ms
    first = write(cluster, 7, key=b"order-1")
    early_ms, late_ms = (TTL_MS * 100 // (100 + sign * SLEW_PERCENT) for sign in (1, -1))
    cluster.run(early_ms - 1000)
    assert write(cluster, 7, key=b"order-1") == first
    cluster.run(late_ms - early_ms + 2000)
    assert write(cluster, 7, key=b"order-1") != first


@pytest.mark.parametrize("skew_ms", [5000, -5000])
def test_many_small_steps_lose_no_time_to_rounding(skew_ms):
    """A write each millisecond: a tenth of it is less than the log can express."""
    cluster = three()
    leader = cluster.leader()
    cluster.wall_skew_ms[leader] = skew_ms
    times = []
    for _ in range(300):
        cluster.execute(leader, 1)
        cluster.run(1)
        times.append((cluster.now, newest_ms(cluster)))
    (begin, before), (end, after) = times[0], times[-1]
    gained, elapsed_ms = after - before, end - begin
    slew = SLEW_PERCENT if skew_ms > 0 else -SLEW_PERCENT

    assert abs(gained - elapsed_ms * (100 + slew) // 100) <= 1


def test_a_wrong_clock_is_forgotten_with_its_leader():
    cluster = three()
    wrong = cluster.leader()
    cluster.wall_skew_ms[wrong] = YEARS_MS
    for _ in range(10):
        cluster.run(1000)
        write(cluster)
    ahead_ms = newest_ms(cluster) - cluster.wall(cluster.followers()[0])
    assert 500 < ahead_ms < 1500
    cluster.kill(wrong)
    cluster.elect()
    for _ in range(30):
        cluster.run(1000)
        write(cluster)

    assert abs(newest_ms(cluster) - cluster.wall(cluster.leader())) <= 20
