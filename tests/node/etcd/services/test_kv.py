"""Puts, ranges, deletions and transactions, from message to message, over the real machine."""

import pytest

from node.etcd import messages as m
from node.etcd.errors import EtcdError
from node.etcd.services.kv import REQUEST_BYTES_MAX
from node.machines.counter import Counter
from node.raft.types import NotExecuted, Unknown
from node.system.grants import AccessRole
from tests.node.api.fakes import ME
from tests.node.etcd.services.served import Etcd


def test_the_header_names_cluster_member_term_and_revision():  # HDR-01, HDR-03
    etcd = Etcd()
    header = etcd.kv("put", m.PutRequest(key=b"a", value=b"1")).header
    assert header.cluster_id == int.from_bytes(bytes([9]) * 8)
    assert header.member_id == int.from_bytes(ME.id[:8])
    assert (header.raft_term, header.revision) == (3, 2)
    assert etcd.kv("put", m.PutRequest(key=b"a")).header.revision == 3
    assert etcd.kv("delete_range", m.DeleteRangeRequest(key=b"absent")).header.revision == 3


def test_a_put_returns_the_whole_pair_of_before_and_nothing_for_a_new_key():  # PUT-02
    etcd = Etcd()
    assert etcd.kv("put", m.PutRequest(key=b"a", value=b"1", prev_kv=True)).prev_kv is None
    before = etcd.kv("put", m.PutRequest(key=b"a", value=b"2", prev_kv=True)).prev_kv
    assert before == m.KeyValue(key=b"a", value=b"1", create_revision=2, mod_revision=2, version=1)


def test_a_range_has_the_pairs_the_count_and_whether_there_are_more():  # RNG-03, RNG-04
    etcd = Etcd()
    for key in (b"a", b"b", b"c"):
        etcd.kv("put", m.PutRequest(key=key, value=key))
    answer = etcd.kv("range", m.RangeRequest(key=b"a", range_end=b"\0", limit=2))
    assert ([each.key for each in answer.kvs], answer.more, answer.count) == ([b"a", b"b"], True, 3)
    assert etcd.kv("range", m.RangeRequest(key=b"a", keys_only=True)).kvs[0].value == b""
    counted = etcd.kv("range", m.RangeRequest(key=b"a", range_end=b"\0", count_only=True, limit=1))
    assert (counted.kvs, counted.more, counted.count) == ([], False, 3)


def test_a_range_hands_on_the_bytes_of_the_machine_and_no_copy():  # RNG-08
    etcd = Etcd()
    value = bytes(100_000)
    etcd.kv("put", m.PutRequest(key=b"a", value=value))
    assert etcd.kv("range", m.RangeRequest(key=b"a")).kvs[0].value is value


def test_an_unknown_order_is_refused_in_the_words_of_newer_releases():
    etcd = Etcd()
    assert etcd.refused("kv", "range", m.RangeRequest(key=b"a", sort_order=7)) == (
        3,
        "etcdserver: invalid sort option",
    )


def test_a_transaction_carries_every_kind_of_operation_there_and_back():  # TXN-05
    etcd = Etcd()
    etcd.kv("put", m.PutRequest(key=b"gone", value=b"x"))
    inner = m.TxnRequest(
        compare=[m.Compare(key=b"none", target=m.CompareTarget.VERSION, version=0)],
        success=[m.RequestOp(request_range=m.RangeRequest(key=b"none"))],
    )
    answer = etcd.kv(
        "txn",
        m.TxnRequest(
            compare=[
                m.Compare(key=b"gone", target=m.CompareTarget.VALUE, value=b"x"),
                m.Compare(key=b"gone", target=m.CompareTarget.MOD, mod_revision=2),
                m.Compare(key=b"gone", target=m.CompareTarget.CREATE, result=1, create_revision=1),
                m.Compare(key=b"gone", target=m.CompareTarget.LEASE, lease=0),
            ],
            success=[
                m.RequestOp(request_put=m.PutRequest(key=b"a", value=b"1", prev_kv=True)),
                m.RequestOp(request_range=m.RangeRequest(key=b"a")),
                m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=b"gone", prev_kv=True)),
                m.RequestOp(request_txn=inner),
            ],
        ),
    )
    put, seen, deleted, nested = answer.responses
    assert answer.succeeded
    assert answer.header.revision == 3
    assert put.response_put.header.revision == 3
    assert (seen.response_range.kvs[0].value, seen.response_range.count) == (b"1", 1)
    assert (deleted.response_delete_range.deleted, deleted.response_delete_range.prev_kvs[0].value) == (
        1,
        b"x",
    )
    assert nested.response_txn.succeeded
    assert nested.response_txn.responses[0].response_range.count == 0


@pytest.mark.parametrize(
    ("method", "request_", "refusal"),
    [
        ("put", m.PutRequest(key=b""), (3, "etcdserver: key is not provided")),
        ("range", m.RangeRequest(key=b""), (3, "etcdserver: key is not provided")),
        ("put", m.PutRequest(key=b"a", value=b"v", ignore_value=True), (3, "etcdserver: value is provided")),
        ("put", m.PutRequest(key=b"a", ignore_value=True), (3, "etcdserver: key not found")),
        ("put", m.PutRequest(key=b"a", lease=7, ignore_lease=True), (3, "etcdserver: lease is provided")),
        ("put", m.PutRequest(key=b"a", lease=7), (5, "etcdserver: requested lease not found")),
        ("txn", m.TxnRequest(success=[m.RequestOp()]), (3, "etcdserver: key not found")),
        (
            "compact",
            m.CompactionRequest(revision=0),
            (11, "etcdserver: mvcc: required revision has been compacted"),
        ),
        (
            "compact",
            m.CompactionRequest(revision=99),
            (11, "etcdserver: mvcc: required revision is a future revision"),
        ),
        (
            "txn",
            m.TxnRequest(success=[m.RequestOp(request_put=m.PutRequest(key=b"k"))] * 2),
            (3, "etcdserver: duplicate key given in txn request"),
        ),
    ],
)
def test_what_the_machine_refuses_reaches_the_client_in_etcds_words(method, request_, refusal):
    assert Etcd().refused("kv", method, request_) == refusal


def test_a_request_of_more_than_one_and_a_half_mebibytes_is_too_large():  # PUT-06
    etcd = Etcd()
    etcd.kv("put", m.PutRequest(key=b"a", value=bytes(REQUEST_BYTES_MAX - 600)))
    large = m.PutRequest(key=b"a", value=bytes(REQUEST_BYTES_MAX))
    too_large = (3, "etcdserver: request is too large")
    assert etcd.refused("kv", "put", large) == too_large
    half = m.RequestOp(request_put=m.PutRequest(key=b"a", value=bytes(REQUEST_BYTES_MAX // 2)))
    assert etcd.refused("kv", "txn", m.TxnRequest(success=[half], failure=[half])) == too_large


def test_what_was_not_executed_is_repeated_until_it_is():
    etcd = Etcd()
    etcd.service.not_executed = 3
    assert etcd.kv("put", m.PutRequest(key=b"a")).header.revision == 2
    assert etcd.service.not_executed == 0
    assert len(etcd.service.executed) == 1


def test_what_repeating_cannot_change_is_answered_at_once():
    etcd = Etcd()
    etcd.service.end_with = NotExecuted("overloaded")
    assert etcd.refused("kv", "put", m.PutRequest(key=b"a")) == (8, "etcdserver: too many requests")


def test_without_a_leader_the_answer_comes_at_the_deadline():
    etcd = Etcd()
    etcd.service.end_with = NotExecuted("not-leader")
    assert etcd.refused("kv", "put", m.PutRequest(key=b"a"), within_s=0.05) in (
        (14, "etcdserver: leader changed"),
        (4, "context deadline exceeded"),
    )


def test_an_unknown_outcome_is_never_repeated():
    etcd = Etcd()
    etcd.service.end_with = Unknown("leader-lost")
    code, text = etcd.refused("kv", "put", m.PutRequest(key=b"a"))
    assert (code, text[:30]) == (14, "etcdserver: request timed out,")


def test_a_write_with_an_idempotency_key_happens_once():  # JSN-08
    etcd = Etcd()
    first = etcd.kv("put", m.PutRequest(key=b"a"), idempotency_key=b"k" * 32)
    second = etcd.kv("put", m.PutRequest(key=b"a"), idempotency_key=b"k" * 32)
    assert first == second
    assert len(etcd.service.executed) == 1


@pytest.mark.parametrize("method", ["put", "delete_range"])
def test_a_reader_may_not_write(method):
    request = m.PutRequest(key=b"a") if method == "put" else m.DeleteRangeRequest(key=b"a")
    denied = (7, "etcdserver: permission denied")
    assert Etcd().refused("kv", method, request, role=AccessRole.READ) == denied


def test_a_writer_may_not_read():
    etcd = Etcd()
    denied = (7, "etcdserver: permission denied")
    assert etcd.refused("kv", "range", m.RangeRequest(key=b"a"), role=AccessRole.WRITE) == denied
    reading = m.TxnRequest(failure=[m.RequestOp(request_range=m.RangeRequest(key=b"a"))])
    assert etcd.refused("kv", "txn", reading, role=AccessRole.WRITE) == denied
    before = m.PutRequest(key=b"a", prev_kv=True)
    assert etcd.refused("kv", "put", before, role=AccessRole.WRITE) == denied


def test_a_serializable_read_waits_for_no_quorum_and_needs_a_current_access_list():  # RNG-07
    etcd = Etcd()
    etcd.kv("range", m.RangeRequest(key=b"a", serializable=True))
    assert etcd.service.queried[-1][1].value == "weak"
    etcd.gate.current = False
    assert etcd.refused("kv", "range", m.RangeRequest(key=b"a", serializable=True)) == (
        14,
        "etcdserver: no leader",
    )


def test_a_group_of_another_machine_answers_that_it_is_no_store():
    etcd = Etcd()
    etcd.service.machine = Counter()
    with pytest.raises(EtcdError) as refusal:
        etcd.backend.head()
    assert refusal.value.code == 12
