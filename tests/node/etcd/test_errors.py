"""The words in which refusals reach clients of etcd: clientv3 compares code and text."""

import asyncio

import pytest

from node.etcd.errors import EtcdError, not_executed, refused, unknown
from node.etcd.services.call import Call
from node.peers import Incarnation
from node.raft.types import NotExecuted, Unknown

LEADER = Incarnation("node-b", bytes(32))


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("key-not-provided", 3, "etcdserver: key is not provided"),
        ("key-not-found", 3, "etcdserver: key not found"),
        ("value-provided", 3, "etcdserver: value is provided"),
        ("lease-provided", 3, "etcdserver: lease is provided"),
        ("duplicate-key", 3, "etcdserver: duplicate key given in txn request"),
        ("too-many-operations", 3, "etcdserver: too many operations in txn request"),
        ("lease-not-found", 5, "etcdserver: requested lease not found"),
        ("lease-exists", 9, "etcdserver: lease already exists"),
        ("lease-ttl-too-large", 11, "etcdserver: too large lease TTL"),
        ("revision-compacted", 11, "etcdserver: mvcc: required revision has been compacted"),
        ("revision-future", 11, "etcdserver: mvcc: required revision is a future revision"),
        ("store-full", 8, "etcdserver: mvcc: database space exceeded"),
        ("not-permitted", 7, "etcdserver: permission denied"),
        ("access-unknown", 16, "etcdserver: invalid auth token"),
    ],
)
def test_a_refusal_of_the_machine_has_the_code_and_the_text_that_clients_compare(code, status, text):
    error = refused(code, "for people")
    assert (error.code, error.message) == (status, text)


def test_a_refusal_that_etcd_has_no_words_for_is_marked_as_ours():
    error = refused("compaction-policy", "the group compacts by itself")
    assert (error.code, error.message) == (3, "bondstone: compaction-policy: the group compacts by itself")


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        (NotExecuted("not-leader", LEADER), 14, "etcdserver: leader changed"),
        (NotExecuted("session-expired", None), 14, "etcdserver: no leader"),
        (NotExecuted("session-expired", LEADER), 14, "etcdserver: leader changed"),
        (NotExecuted("overloaded", LEADER), 8, "etcdserver: too many requests"),
        (NotExecuted("command-too-large", LEADER), 3, "etcdserver: request is too large"),
    ],
)
def test_what_did_not_happen_is_unavailable_in_the_words_that_clients_know(outcome, status, text):
    error = not_executed(outcome)
    assert (error.code, error.message) == (status, text)


def test_an_unknown_outcome_is_a_request_that_timed_out():
    assert unknown(Unknown("deadline")).message == "etcdserver: request timed out"
    lost = unknown(Unknown("leader-lost"))
    assert lost.code == 14
    assert lost.message == "etcdserver: request timed out, possibly due to previous leader failure"


def test_a_call_goes_on_until_its_deadline_and_never_longer_than_the_limit():
    async def ask():
        now = asyncio.get_running_loop().time()
        left = [_call(deadline).left_s(5) for deadline in (None, now + 100, now + 2)]
        with pytest.raises(EtcdError) as over:
            _call(now - 1).left_s(5)
        return left, over.value

    left, over = asyncio.run(ask())
    assert left[:2] == [5, 5]
    assert 0 < left[2] <= 2
    assert (over.code, over.message) == (4, "context deadline exceeded")


def _call(deadline):
    return Call(grant=None, deadline=deadline, metadata={}, idempotency_key=None)
