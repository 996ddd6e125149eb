"""Headers, puts, ranges, deletions, transactions, compaction."""

import grpc
from calls import (
    META,
    Cmp,
    D,
    K,
    P,
    R,
    T,
    case,
    delete,
    end,
    eq,
    get,
    kv,
    lease,
    op,
    pb,
    put,
    refused,
    txn,
)


# ---------------------------------------------------------------- headers
@case("HDR-01 header fields: cluster_id, member_id, raft_term non-zero, revision counts")
def _():
    a = put(K("h"))
    b = put(K("h"))
    assert a.header.cluster_id and a.header.member_id and a.header.raft_term
    eq(b.header.revision, a.header.revision + 1)


@case("HDR-02 a Range's header.revision is the store's, also with an older revision asked")
def _():
    r0 = put(K("h2")).header.revision
    r1 = put(K("h2")).header.revision
    answer = get(K("h2"), revision=r0)
    eq(answer.header.revision, r1)
    eq(answer.kvs[0].mod_revision, r0)


# ---------------------------------------------------------------- put
@case("PUT-01 empty key")
def _():
    return refused("INVALID_ARGUMENT", "etcdserver: key is not provided", put, b"")


@case("PUT-02 create/mod/version bookkeeping over put, put, delete, put")
def _():
    k = K("p2")
    r1 = put(k).header.revision
    r2 = put(k, b"w").header.revision
    one = get(k).kvs[0]
    eq((one.create_revision, one.mod_revision, one.version), (r1, r2, 2))
    delete(k)
    r4 = put(k).header.revision
    one = get(k).kvs[0]
    eq((one.create_revision, one.mod_revision, one.version), (r4, r4, 1))
    eq(r4, r2 + 2)


@case("PUT-03 prev_kv: absent for a new key, else the whole KeyValue")
def _():
    k = K("p3")
    assert not put(k, b"1", prev_kv=True).HasField("prev_kv")
    before = put(k, b"2", prev_kv=True).prev_kv
    eq((before.value, before.version), (b"1", 1))
    assert not put(k, b"3").HasField("prev_kv")


@case("PUT-04 ignore_value keeps the value, counts a version; absent key; with a value")
def _():
    k = K("p4")
    a = refused("INVALID_ARGUMENT", "etcdserver: key not found", put, k, b"", ignore_value=True)
    put(k, b"kept")
    put(k, b"", ignore_value=True)
    one = get(k).kvs[0]
    eq((one.value, one.version), (b"kept", 2))
    return (
        a
        + " | "
        + refused("INVALID_ARGUMENT", "etcdserver: value is provided", put, k, b"x", ignore_value=True)
    )


@case("PUT-05 ignore_lease keeps the lease; with a lease; absent key")
def _():
    k = K("p5")
    a = refused("INVALID_ARGUMENT", "etcdserver: key not found", put, k, b"x", ignore_lease=True)
    one = lease.LeaseGrant(pb.LeaseGrantRequest(TTL=60), metadata=META).ID
    put(k, b"1", lease=one)
    put(k, b"2", ignore_lease=True)
    eq(get(k).kvs[0].lease, one)
    b = refused(
        "INVALID_ARGUMENT", "etcdserver: lease is provided", put, k, b"x", lease=one, ignore_lease=True
    )
    put(k, b"3")
    eq(get(k).kvs[0].lease, 0)  # a plain put detaches
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=one), metadata=META)
    eq(get(k).count, 1)
    return a + " | " + b


@case("PUT-06 unknown lease")
def _():
    return refused("NOT_FOUND", "etcdserver: requested lease not found", put, K("p6"), b"x", lease=999999999)


@case("PUT-07 request over 1.5 MiB; just below passes; empty value and binary keys pass")
def _():
    a = refused("INVALID_ARGUMENT", "etcdserver: request is too large", put, K("p7"), b"x" * (1536 * 1024))
    put(K("p7"), b"x" * (1536 * 1024 - 600))
    put(K("p7", b"\x00\xff\xfe"), b"")
    eq(get(K("p7", b"\x00\xff\xfe")).kvs[0].value, b"")
    delete(K("p7"))
    return a


@case("PUT-08 message over the gRPC receive limit (2 MiB by default: request limit + 512 KiB)")
def _():
    def call():
        put(K("p8"), b"x" * (3 * 1024 * 1024))

    try:
        call()
    except grpc.RpcError as exc:
        eq(exc.code().name, "RESOURCE_EXHAUSTED")
        assert "received message larger than max" in exc.details(), exc.details()
        return f"{exc.code().name}: {exc.details()}"
    raise AssertionError("taken")


@case("PUT-09 a large value (1 MiB) is kept byte for byte")
def _():
    value = bytes(range(256)) * 4096
    put(K("p9"), value)
    eq(get(K("p9")).kvs[0].value, value)
    delete(K("p9"))


# ---------------------------------------------------------------- range
@case("RNG-01 empty key")
def _():
    return refused("INVALID_ARGUMENT", "etcdserver: key is not provided", get, b"")


@case("RNG-02 single, half-open, prefix, from-key (range_end 0x00), whole store (0x00,0x00), inverted")
def _():
    p = K("r2")
    for name in (b"a", b"b", b"c"):
        put(p + name)
    eq([x.key for x in get(p + b"a", range_end=p + b"c").kvs], [p + b"a", p + b"b"])
    eq(get(p, range_end=end(p)).count, 3)
    assert get(p + b"b", range_end=b"\0").count >= 2
    assert get(b"\0", range_end=b"\0").count >= 3
    eq(get(p + b"c", range_end=p + b"a").count, 0)
    eq(get(p + b"a", range_end=p + b"a").count, 0)
    eq(get(p + b"zz").count, 0)


@case("RNG-03 limit, more, count (count ignores the limit); limit equal to the number: more false")
def _():
    p = K("r3")
    for i in range(5):
        put(p + b"%d" % i)
    a = get(p, range_end=end(p), limit=2)
    eq((len(a.kvs), a.more, a.count), (2, True, 5))
    a = get(p, range_end=end(p), limit=5)
    eq((len(a.kvs), a.more, a.count), (5, False, 5))
    a = get(p, range_end=end(p), limit=0)
    eq((len(a.kvs), a.more, a.count), (5, False, 5))


@case("RNG-04 count_only, keys_only")
def _():
    p = K("r4")
    put(p + b"a", b"value")
    a = get(p, range_end=end(p), count_only=True)
    eq((len(a.kvs), a.count, a.more), (0, 1, False))
    a = get(p, range_end=end(p), keys_only=True)
    eq((a.kvs[0].key, a.kvs[0].value, a.kvs[0].version), (p + b"a", b"", 1))


@case("RNG-05 count_only with a limit: more stays false in 3.4 and 3.5")
def _():
    p = K("r5")
    for i in range(3):
        put(p + b"%d" % i)
    a = get(p, range_end=end(p), count_only=True, limit=1)
    return f"count={a.count} more={a.more} kvs={len(a.kvs)}"


@case("RNG-06 sort by key/version/create/mod/value, both ways; the limit applies after the sort")
def _():
    p = K("r6")
    put(p + b"a", b"3")
    put(p + b"b", b"1")
    put(p + b"c", b"2")
    put(p + b"a", b"3")
    keys = lambda **kw: [x.key[-1:] for x in get(p, range_end=end(p), **kw).kvs]
    eq(keys(sort_order=R.DESCEND, sort_target=R.KEY), [b"c", b"b", b"a"])
    eq(keys(sort_order=R.ASCEND, sort_target=R.VALUE), [b"b", b"c", b"a"])
    eq(keys(sort_order=R.DESCEND, sort_target=R.VERSION)[0], b"a")
    eq(keys(sort_order=R.ASCEND, sort_target=R.MOD), [b"b", b"c", b"a"])
    eq(keys(sort_order=R.DESCEND, sort_target=R.CREATE), [b"c", b"b", b"a"])
    eq(keys(sort_order=R.DESCEND, sort_target=R.CREATE, limit=1), [b"c"])
    a = get(p, range_end=end(p), sort_order=R.DESCEND, sort_target=R.MOD, limit=1)
    eq((a.more, a.count), (True, 3))


@case("RNG-07 sort target without an order sorts ascending; NONE with KEY is key order")
def _():
    p = K("r7")
    put(p + b"a", b"3")
    put(p + b"b", b"1")
    eq([x.key[-1:] for x in get(p, range_end=end(p), sort_target=R.VALUE).kvs], [b"b", b"a"])
    eq([x.key[-1:] for x in get(p, range_end=end(p)).kvs], [b"a", b"b"])


@case(
    "RNG-08 an unknown sort enum value (3.4 answers it; newer ones: INVALID_ARGUMENT 'invalid sort option')"
)
def _():
    try:
        get(K("r8"), sort_order=7, sort_target=0)
        return "answered"
    except grpc.RpcError as exc:
        eq((exc.code().name, exc.details()), ("INVALID_ARGUMENT", "etcdserver: invalid sort option"))
        return exc.details()


@case("RNG-09 future revision")
def _():
    now = put(K("r9")).header.revision
    return refused(
        "OUT_OF_RANGE",
        "etcdserver: mvcc: required revision is a future revision",
        get,
        K("r9"),
        revision=now + 100,
    )


@case("RNG-10 negative revision reads the newest")
def _():
    put(K("r10"), b"new")
    return f"revision=-1 -> count {get(K('r10'), revision=-1).count}"


@case("RNG-11 reads at an older revision: value, deletion, absence")
def _():
    k = K("r11")
    r1 = put(k, b"1").header.revision
    r2 = put(k, b"2").header.revision
    r3 = delete(k).header.revision
    r4 = put(k, b"4").header.revision
    eq(get(k, revision=r1).kvs[0].value, b"1")
    eq(get(k, revision=r2).kvs[0].value, b"2")
    eq(get(k, revision=r3).count, 0)
    eq(get(k, revision=r4).kvs[0].version, 1)


@case("RNG-12 min/max mod/create revision filters; count is that before the filters")
def _():
    p = K("r12")
    r1 = put(p + b"a").header.revision
    r2 = put(p + b"b").header.revision
    put(p + b"a")
    a = get(p, range_end=end(p), min_mod_revision=r2 + 1)
    eq([x.key[-1:] for x in a.kvs], [b"a"])
    b = get(p, range_end=end(p), max_create_revision=r1)
    eq([x.key[-1:] for x in b.kvs], [b"a"])
    c = get(p, range_end=end(p), min_create_revision=r2, max_mod_revision=r2)
    eq([x.key[-1:] for x in c.kvs], [b"b"])
    return f"count with a filter that leaves 1 of 2: {a.count}, more={a.more}"


@case("RNG-13 serializable reads answer")
def _():
    put(K("r13"))
    eq(get(K("r13"), serializable=True).count, 1)


# ---------------------------------------------------------------- delete
@case("DEL-01 empty key; absent key deletes 0 and takes no revision")
def _():
    a = refused("INVALID_ARGUMENT", "etcdserver: key is not provided", delete, b"")
    r = put(K("d1")).header.revision
    answer = delete(K("d1", b"absent"))
    eq((answer.deleted, answer.header.revision), (0, r))
    return a


@case("DEL-02 range delete is one revision; prev_kvs in key order")
def _():
    p = K("d2")
    for name in (b"b", b"a", b"c"):
        r = put(p + name, name).header.revision
    answer = delete(p, range_end=end(p), prev_kv=True)
    eq((answer.deleted, answer.header.revision), (3, r + 1))
    eq([x.value for x in answer.prev_kvs], [b"a", b"b", b"c"])


# ---------------------------------------------------------------- txn
@case("TXN-01 compare targets and results; version 0 / create 0 / mod 0 means absent")
def _():
    k = K("t1")
    ok = lambda *c: txn(compare=c, success=[op(R(key=k))]).succeeded
    for target_, field in (
        (Cmp.VERSION, "version"),
        (Cmp.CREATE, "create_revision"),
        (Cmp.MOD, "mod_revision"),
    ):
        assert ok(Cmp(key=k, target=target_, result=Cmp.EQUAL, **{field: 0})), field
        assert not ok(Cmp(key=k, target=target_, result=Cmp.GREATER, **{field: 0})), field
    r = put(k, b"m").header.revision
    assert ok(Cmp(key=k, target=Cmp.VALUE, result=Cmp.EQUAL, value=b"m"))
    assert ok(Cmp(key=k, target=Cmp.VALUE, result=Cmp.LESS, value=b"n"))
    assert ok(Cmp(key=k, target=Cmp.VALUE, result=Cmp.GREATER, value=b"l"))
    assert ok(Cmp(key=k, target=Cmp.MOD, result=Cmp.EQUAL, mod_revision=r))
    assert ok(Cmp(key=k, target=Cmp.VERSION, result=Cmp.NOT_EQUAL, version=5))
    assert ok(Cmp(key=k, target=Cmp.LEASE, result=Cmp.EQUAL, lease=0))


@case("TXN-02 a value compare on an absent key is false, whatever the result asked")
def _():
    k = K("t2")
    for result in (Cmp.EQUAL, Cmp.NOT_EQUAL, Cmp.GREATER, Cmp.LESS):
        assert not txn(compare=[Cmp(key=k, target=Cmp.VALUE, result=result, value=b"")]).succeeded, result


@case("TXN-03 compares over a range: all keys must match; an empty range compares as one zero KeyValue")
def _():
    p = K("t3")
    put(p + b"a")
    put(p + b"b")
    put(p + b"b")
    c = lambda **kw: txn(compare=[Cmp(key=p, range_end=end(p), **kw)]).succeeded
    assert c(target=Cmp.VERSION, result=Cmp.GREATER, version=0)
    assert not c(target=Cmp.VERSION, result=Cmp.EQUAL, version=1)
    q = K("t3none")
    empty = txn(
        compare=[Cmp(key=q, range_end=end(q), target=Cmp.VERSION, result=Cmp.EQUAL, version=0)]
    ).succeeded
    empty2 = txn(
        compare=[Cmp(key=q, range_end=end(q), target=Cmp.VERSION, result=Cmp.GREATER, version=0)]
    ).succeeded
    return f"empty range: version == 0 {empty}, version > 0 {empty2}"


@case("TXN-04 all writes of a txn carry one revision; reads inside see earlier writes")
def _():
    k = K("t4")
    r0 = put(k + b"0").header.revision
    a = txn(
        success=[
            op(P(key=k + b"1", value=b"1")),
            op(R(key=k + b"1")),
            op(P(key=k + b"2")),
            op(D(key=k + b"0")),
        ]
    )
    eq(a.header.revision, r0 + 1)
    seen = a.responses[1].response_range.kvs[0]
    eq((seen.value, seen.mod_revision), (b"1", r0 + 1))
    eq(get(k + b"2").kvs[0].mod_revision, r0 + 1)
    return f"header.revision inside: put {a.responses[0].response_put.header.revision - r0:+d}, range {a.responses[1].response_range.header.revision - r0:+d}, delete {a.responses[3].response_delete_range.header.revision - r0:+d}"


@case("TXN-05 the same key put twice")
def _():
    k = K("t5")
    return refused(
        "INVALID_ARGUMENT",
        "etcdserver: duplicate key given in txn request",
        txn,
        (),
        [op(P(key=k)), op(P(key=k))],
    )


@case("TXN-06 a put inside a deleted range, either order; two overlapping deletes pass")
def _():
    p = K("t6")
    a = refused(
        "INVALID_ARGUMENT",
        "etcdserver: duplicate key given in txn request",
        txn,
        (),
        [op(P(key=p + b"x")), op(D(key=p, range_end=end(p)))],
    )
    refused(
        "INVALID_ARGUMENT",
        "etcdserver: duplicate key given in txn request",
        txn,
        (),
        [op(D(key=p, range_end=end(p))), op(P(key=p + b"x"))],
    )
    put(p + b"y")
    b = txn(success=[op(D(key=p, range_end=end(p))), op(D(key=p + b"y"))])
    eq([x.response_delete_range.deleted for x in b.responses], [1, 0])
    return a


@case("TXN-07 the same key in success and failure passes")
def _():
    k = K("t7")
    assert txn(success=[op(P(key=k))], failure=[op(P(key=k))]).succeeded


@case("TXN-08 more than 128 operations or compares; exactly 128 passes")
def _():
    p = K("t8")
    ops = [op(P(key=p + b"%d" % i)) for i in range(129)]
    a = refused("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", txn, (), ops)
    txn(success=ops[:128])
    cmps = [Cmp(key=p + b"%d" % i, target=Cmp.VERSION, result=Cmp.GREATER, version=0) for i in range(129)]
    refused("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", txn, cmps, [])
    assert txn(compare=cmps[:128]).succeeded
    return a


@case("TXN-09 nested txns: structure of answers, writes of the inner branch, duplicates across levels")
def _():
    k = K("t9")
    inner = pb.TxnRequest(
        compare=[Cmp(key=k, target=Cmp.VERSION, result=Cmp.EQUAL, version=0)],
        success=[op(P(key=k + b"i"))],
        failure=[op(P(key=k + b"no"))],
    )
    a = txn(success=[op(P(key=k + b"o")), op(inner)])
    nested = a.responses[1].response_txn
    assert nested.succeeded
    eq(get(k + b"i").kvs[0].mod_revision, get(k + b"o").kvs[0].mod_revision)
    eq(get(k + b"no").count, 0)
    return refused(
        "INVALID_ARGUMENT",
        "etcdserver: duplicate key given in txn request",
        txn,
        (),
        [op(P(key=k + b"i")), op(inner)],
    )


@case("TXN-10 nested compares see the state after the outer branch's earlier writes, or before?")
def _():
    k = K("t10")
    inner = pb.TxnRequest(
        compare=[Cmp(key=k, target=Cmp.VERSION, result=Cmp.EQUAL, version=0)], success=[op(R(key=k))]
    )
    a = txn(success=[op(P(key=k)), op(inner)])
    return f"inner compare 'absent' after outer put: {a.responses[1].response_txn.succeeded}"


@case("TXN-11 empty txn succeeds and takes no revision; a read-only txn takes none")
def _():
    r = put(K("t11")).header.revision
    a = txn()
    assert a.succeeded
    eq(a.header.revision, r)
    eq(txn(success=[op(R(key=K("t11")))]).header.revision, r)


@case("TXN-12 txn of deletes that delete nothing takes no revision")
def _():
    r = put(K("t12")).header.revision
    eq(txn(success=[op(D(key=K("t12", b"absent")))]).header.revision, r)


@case("TXN-13 empty keys in compare, put, range, delete inside")
def _():
    e = "etcdserver: key is not provided"
    refused("INVALID_ARGUMENT", e, txn, [Cmp(key=b"", target=Cmp.VERSION, version=0)])
    refused("INVALID_ARGUMENT", e, txn, (), [op(P(key=b""))])
    refused("INVALID_ARGUMENT", e, txn, (), [op(R(key=b""))])
    return refused("INVALID_ARGUMENT", e, txn, (), [op(D(key=b""))])


@case("TXN-14 an operation without content")
def _():
    try:
        txn(success=[pb.RequestOp()])
    except grpc.RpcError as exc:
        return f"{exc.code().name}: {exc.details()}"
    return "passes"


@case("TXN-15 a failing put (unknown lease) inside a txn: code, and nothing of the txn is applied")
def _():
    k = K("t15")
    a = refused(
        "NOT_FOUND",
        "etcdserver: requested lease not found",
        txn,
        (),
        [op(P(key=k + b"1")), op(P(key=k + b"2", lease=987654321))],
    )
    eq(get(k, range_end=end(k)).count, 0)
    return a


@case("TXN-16 a future revision in an inner range; ignore_value on an absent key inside")
def _():
    k = K("t16")
    now = put(k).header.revision
    a = refused(
        "OUT_OF_RANGE",
        "etcdserver: mvcc: required revision is a future revision",
        txn,
        (),
        [op(P(key=k + b"x")), op(R(key=k, revision=now + 50))],
    )
    eq(get(k + b"x").count, 0)
    b = refused(
        "INVALID_ARGUMENT", "etcdserver: key not found", txn, (), [op(P(key=k + b"y", ignore_value=True))]
    )
    return a + " | " + b


@case("TXN-17 the revision that the txn makes is 'future' for reads with it inside the txn")
def _():
    k = K("t17")
    now = put(k).header.revision
    try:
        a = txn(success=[op(P(key=k, value=b"2")), op(R(key=k, revision=now + 1))])
        return f"answered: {a.responses[1].response_range.kvs}"
    except grpc.RpcError as exc:
        return f"{exc.code().name}: {exc.details()}"


@case("TXN-18 prev_kv of put and delete inside a txn")
def _():
    k = K("t18")
    put(k, b"old")
    a = txn(success=[op(P(key=k, value=b"new", prev_kv=True))])
    eq(a.responses[0].response_put.prev_kv.value, b"old")
    a = txn(success=[op(D(key=k, prev_kv=True))])
    eq(a.responses[0].response_delete_range.prev_kvs[0].value, b"new")


# ---------------------------------------------------------------- compaction
@case("CMP-01 reads below: error; at the compacted revision: works")
def _():
    k = K("c1")
    r1 = put(k, b"1").header.revision
    r2 = put(k, b"2").header.revision
    put(k, b"3")
    kv.Compact(pb.CompactionRequest(revision=r2), timeout=T, metadata=META)
    eq(get(k, revision=r2).kvs[0].value, b"2")
    return refused(
        "OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", get, k, revision=r1
    )


@case("CMP-02 compacting again below, at the same, in the future")
def _():
    k = K("c2")
    put(k)
    r = put(k).header.revision
    compact = lambda n, **kw: kv.Compact(pb.CompactionRequest(revision=n, **kw), timeout=T, metadata=META)
    compact(r, physical=True)
    a = refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", compact, r)
    refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", compact, r - 1)
    b = refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision", compact, r + 1000)
    now = put(k).header.revision
    compact(now)  # the current revision may be compacted
    eq(get(k).count, 1)
    try:
        compact(0)
        c = "revision 0 passes"
    except grpc.RpcError as exc:
        c = f"revision 0: {exc.code().name} {exc.details()}"
    return a + " | " + b + " | " + c


@case("CMP-03 live keys older than the compaction stay, with their revisions; tombstones vanish")
def _():
    k = K("c3")
    r = put(k + b"live").header.revision
    put(k + b"dead")
    delete(k + b"dead")
    now = put(k + b"x").header.revision
    kv.Compact(pb.CompactionRequest(revision=now, physical=True), timeout=T, metadata=META)
    eq(get(k + b"live").kvs[0].mod_revision, r)
    eq(get(k + b"dead").count, 0)
