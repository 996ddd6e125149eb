"""Patroni's etcd3 backend (PyPI patroni, JSON gateway) driven from Python: three nodes race for the leader key.

No PostgreSQL: the objects of ``patroni.dcs.etcd3`` are called as Patroni's HA loop calls them. Note: Patroni asks ``/version``
and ``/v3/cluster/member/list`` first and from then on talks to the members' ``clientURLs``, so these must be reachable.
"""

import logging
import threading
import time

import target
from patroni.dcs import get_dcs

logging.disable(logging.CRITICAL)
report = target.Report("patroni")
SCOPE = f"race{int(time.time())}"


def node(name):
    etcd3 = {"url": target.endpoint}
    if target.ca:
        etcd3["cacert"] = target.ca
    if target.cert:
        etcd3.update(cert=target.cert, key=target.key)
    if target.user:
        etcd3.update(username=target.user, password=target.password)
    return get_dcs(
        {
            "scope": SCOPE,
            "name": name,
            "namespace": "/service/",
            "loop_wait": 1,
            "ttl": 3,
            "retry_timeout": 5,
            "etcd3": etcd3,
            "postgresql": {},
        }
    )


nodes = {}


def start():
    for n in "abc":
        nodes[n] = node(n)
    for n, d in nodes.items():
        assert d.touch_member({"conn_url": f"postgres://{n}", "state": "running"})
    members = {m.name for m in nodes["a"].get_cluster().members}
    assert members == set("abc"), members


def initialize_once():
    results = [d.initialize(create_new=True, sysid="123") for d in nodes.values()]
    assert [bool(r) for r in results] == [True, False, False], results


def race():
    won, barrier = {}, threading.Barrier(3)

    def go(n):
        barrier.wait()
        won[n] = nodes[n].attempt_to_acquire_leader()

    threads = [threading.Thread(target=go, args=(n,)) for n in nodes]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sum(map(bool, won.values())) == 1, won
    nodes["leader"] = next(n for n in won if won[n])
    for d in (nodes[n] for n in "abc"):
        d.event.clear()
        for _ in range(20):
            c = d.get_cluster()
            if c.leader and c.leader.name == nodes["leader"]:
                break
            time.sleep(0.1)
        assert c.leader.name == nodes["leader"]


def keep():
    d = nodes[nodes["leader"]]
    for _ in range(5):
        assert d.update_leader(d.get_cluster(), 12345)
        time.sleep(1)
    others = [n for n in "abc" if n != nodes["leader"]]
    assert not nodes[others[0]].attempt_to_acquire_leader()
    assert nodes[others[0]].get_cluster().leader.name == nodes["leader"]


def config_cas():
    d = nodes["a"]
    assert d.set_config_value('{"ttl":3}')
    version = None
    for _ in range(30):
        c = d.get_cluster()
        if c.config:
            version = c.config.version
            break
        time.sleep(0.1)
    assert d.set_config_value('{"ttl":4}', version)
    assert not d.set_config_value('{"ttl":5}', version)  # the older mod_revision


def failover_by_expiry():
    """The leader stops refreshing: its lease ends, the watch tells, another takes over; the old one cannot update."""
    old = nodes["leader"]
    others = [n for n in "abc" if n != old]
    start = time.monotonic()
    while time.monotonic() - start < 12:
        won = [n for n in others if nodes[n].attempt_to_acquire_leader()]
        if won:
            break
        time.sleep(0.3)
    assert won, "no new leader in 12 s"
    nodes["leader"] = won[0]
    d = nodes[old]
    for _ in range(30):
        c = d.get_cluster()
        if c.leader and c.leader.name == won[0]:
            break
        time.sleep(0.1)
    assert c.leader.name == won[0]
    try:
        updated = d.update_leader(c, 1)
    except Exception:
        updated = False
    assert not updated
    return f"after {time.monotonic() - start:.1f} s (ttl 3)"


def release():
    d = nodes[nodes["leader"]]
    c = d.get_cluster()
    assert d.delete_leader(c.leader, None)
    for _ in range(30):
        if nodes["a"].get_cluster().is_unlocked():
            break
        time.sleep(0.1)
    assert nodes["a"].get_cluster().is_unlocked()


def leaves_nothing():
    assert nodes["a"].delete_cluster()


for one in (start, initialize_once, race, keep, config_cas, failover_by_expiry, release, leaves_nothing):
    report.run(one.__name__, one)
report.end()
