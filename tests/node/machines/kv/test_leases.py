"""Leases on the lease clock, the quota, and who may do what; the rest is compared in ``test_model``."""

import pytest

from node.machines.base import ApplyContext, CommandError
from node.machines.keys import KeyRange
from node.machines.kv import KeyValue
from node.machines.kv.leases import EXPIRED_PER_TICK_MAX


def context(index=1, *, term=1, credential=None, quota_bytes=2**30):
    return ApplyContext(term, index, 0, 0, bytes(32), credential, 3, quota_bytes)


def apply(machine, command, **more):
    return machine.apply(command, context(**more))


def tick(machine, clock_ms, settled_ms=None, renewed=(), **more):
    settled_ms = clock_ms if settled_ms is None else settled_ms
    return apply(machine, ["lease-tick", 1, clock_ms, settled_ms, list(renewed)], **more)


def refused(machine, command, **more):
    before = machine.snapshot()
    savepoint = machine.savepoint()
    with pytest.raises(CommandError) as caught:
        apply(machine, command, **more)
    if not isinstance(
        before, dict
    ):  # the first command of version 3 makes its store, even one that is refused
        assert machine.snapshot() == before
    machine.rollback(savepoint)
    assert machine.snapshot() == before
    return caught.value.code


def ttl(machine, lease_id):
    return machine.query(["lease-ttl", lease_id, False])[1:3]


def test_lse_01_an_id_of_the_machine_is_positive_new_and_taken_by_nobody_else():
    machine = KeyValue()
    ids = {apply(machine, ["lease-grant", 0, 60], index=index)[1] for index in range(1, 200)}

    assert len(ids) == 199
    assert all(0 < one < 2**63 for one in ids)
    assert refused(machine, ["lease-grant", min(ids), 60]) == "lease-exists"


def test_lse_02_a_short_ttl_is_raised_and_told_and_a_long_one_refused():
    machine = KeyValue()
    assert apply(machine, ["lease-grant", 1, -3]) == [1, 1, 2]
    assert apply(machine, ["lease-grant", 2, 9_000_000_000])[2] == 9_000_000_000
    assert refused(machine, ["lease-grant", 3, 9_000_000_001]) == "lease-ttl-too-large"


def test_lse_04_an_unknown_lease_has_a_ttl_of_minus_one():
    machine = KeyValue()
    apply(machine, ["lease-grant", 1, 5])
    apply(machine, ["put", b"b", b"", 1, 0])
    apply(machine, ["put", b"a", b"", 1, 0])

    assert machine.query(["lease-ttl", 1, True]) == [3, 5, 5, [b"a", b"b"]]
    assert machine.query(["lease-ttl", 2, True]) == [3, -1, 0, []]


def test_lse_05_revoking_deletes_every_key_at_one_revision_in_the_order_of_the_keys():
    machine = KeyValue()
    apply(machine, ["lease-grant", 1, 5])
    for key in (b"c", b"a", b"b"):
        apply(machine, ["put", key, b"x", 1, 0])

    assert apply(machine, ["lease-revoke", 1]) == [5, 3]
    ((revision, events),) = machine.events(5, 5, b"", None)
    assert (revision, [one.key for one in events]) == (5, [b"a", b"b", b"c"])
    assert {one.before.lease for one in events} == {1}
    assert refused(machine, ["lease-revoke", 1]) == "lease-not-found"


def test_lse_08_a_key_belongs_to_the_lease_of_its_last_put():
    machine = KeyValue()
    for lease in (1, 2):
        apply(machine, ["lease-grant", lease, 5])
        apply(machine, ["put", b"k", b"x", lease, 0])

    assert apply(machine, ["lease-revoke", 1]) == [3, 0]
    assert apply(machine, ["put", b"k", b"y", 0, 0]) == [4, None]
    assert apply(machine, ["lease-revoke", 2]) == [4, 0]


def test_lse_10_a_grant_has_its_whole_ttl_from_a_tick_whose_maker_had_applied_it():
    machine = KeyValue()
    apply(machine, ["lease-grant", 1, 2])
    # It may have been under way when the lease was granted, so what it names is too early.
    assert tick(machine, 100_000)[1] == []
    assert ttl(machine, 1) == [2, 2]
    assert tick(machine, 100_600, 100_100)[1] == []
    assert tick(machine, 102_099)[1] == []
    assert tick(machine, 102_100)[1] == [1]


def test_lse_10_a_renewal_counts_from_where_its_tick_was_applied():
    machine = KeyValue()
    apply(machine, ["lease-grant", 1, 2])
    tick(machine, 500)
    tick(machine, 1000)
    assert tick(machine, 2999, renewed=[1, 7])[1:] == [[], [2, 0]]
    assert tick(machine, 50_000, 3400)[1] == [1]
    apply(machine, ["lease-grant", 2, 2])
    assert apply(machine, ["lease-renew", [2, 1]])[1] == [2, 0]
    assert [tick(machine, at)[1] for at in (60_000, 60_001, 62_000, 62_001)] == [[], [], [], [2]]


def test_lse_10_a_tick_of_a_member_that_leads_no_more_and_of_a_caller_does_nothing():
    machine = KeyValue()
    apply(machine, ["lease-grant", 1, 2])
    assert refused(machine, ["lease-tick", 1, 9, 9, []], term=2) == "lease-tick-stale"
    assert refused(machine, ["lease-tick", 1, 9, 9, []], credential=b"caller") == "member-only"
    assert refused(machine, ["lease-renew", [1]], credential=b"caller") == "member-only"
    tick(machine, 1000)
    tick(machine, 500)
    assert machine.leases.clock_ms == 1000


def test_a_storm_of_leases_ends_in_parts_each_whole():
    machine = KeyValue()
    for lease in range(1, EXPIRED_PER_TICK_MAX + 501):
        apply(machine, ["lease-grant", lease, 2])
        apply(machine, ["put", b"%d" % lease, b"", lease, 0])
    tick(machine, 1)
    tick(machine, 2)
    assert len(tick(machine, 9000)[1]) == EXPIRED_PER_TICK_MAX
    assert len(tick(machine, 9000)[1]) == 500
    assert machine.query(["leases"])[1] == []
    assert machine.query(["store"])[2] == 0


def test_mnt_03_a_full_store_refuses_growth_and_ends_by_itself_when_a_compaction_makes_room():
    machine = KeyValue()
    quota = {"quota_bytes": 5000}
    apply(machine, ["lease-grant", 1, 2], **quota)
    apply(machine, ["put", b"k", b"x" * 1000, 1, 0], **quota)
    while machine.query(["store"])[3] + 1200 <= 5000:
        apply(machine, ["put", b"k", b"x" * 1000, 1, 0], **quota)
    for command in (
        ["put", b"k", b"x" * 1000, 1, 0],
        ["txn", [], [["put", b"k", b"x" * 1000, 1, 0]], []],
        {"op": "put", "key": "k", "value": "x" * 1000},
    ):
        assert refused(machine, command, **quota) == "store-full"
    apply(machine, ["delete", b"k", b"", 0], **quota)
    apply(machine, ["lease-revoke", 1], **quota)
    apply(machine, ["compact", machine.revision], **quota)
    assert apply(machine, ["put", b"k", b"x" * 1000, 0, 0], **quota)[1] is None
    assert all(map(machine.frees, [["delete", b"k", b"", 0], ["compact", 3], ["lease-revoke", 1]]))


def test_txn_10_every_branch_counts_for_access_and_so_do_rows_before_and_compares():
    machine = KeyValue()
    nested = ["txn", [[0, 0, b"cmp", b"", 1]], [["delete", b"d", b"e", 1]], [["put", b"f", b"", 0, 1]]]
    touched = machine.keys_of(["txn", [], [["put", b"a", b"", 0, 0]], [nested]])

    assert touched.writes == (KeyRange.of_key(b"a"), KeyRange(b"d", b"e"), KeyRange.of_key(b"f"))
    assert set(touched.reads) == {KeyRange.of_key(b"cmp"), KeyRange(b"d", b"e"), KeyRange.of_key(b"f")}
    for command in (["lease-revoke", 1], ["compact", 1], ["lease-tick", 1, 1, 1, []]):
        assert machine.keys_of(command).writes == (KeyRange(b"", None),)


def test_txn_07_what_is_nested_too_deep_or_has_too_many_operations_is_refused_before_it_costs():
    machine = KeyValue()
    deep = ["put", b"a", b"", 0, 0]
    for _ in range(9):
        deep = ["txn", [], [deep], []]
    wide = ["txn", [], [["txn", [], [["delete", b"a", b"", 0]] * 128, []]] * 40, []]

    for command in (deep, wide, ["txn", [], [["delete", b"a", b"", 0]] * 129, []]):
        assert refused(machine, command) == "too-many-operations"
