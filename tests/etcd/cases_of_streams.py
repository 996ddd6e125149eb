"""Leases and watches."""

import queue
import time

import grpc
import target
from calls import (
    META,
    Cmp,
    D,
    K,
    P,
    T,
    Watcher,
    case,
    create,
    delete,
    end,
    eq,
    get,
    kv,
    kvpb,
    lease,
    op,
    pb,
    put,
    refused,
    txn,
)


# ---------------------------------------------------------------- lease
def grant(ttl=60, id_=0):
    return lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl, ID=id_), timeout=T, metadata=META)


@case("LSE-01 id chosen by the server (positive int64) or the client; duplicate id")
def _():
    a = grant()
    assert a.ID > 0
    own = int(time.time() * 1000)
    eq(grant(60, own).ID, own)
    return refused("FAILED_PRECONDITION", "etcdserver: lease already exists", grant, 60, own)


@case("LSE-02 TTL 0, negative, over the maximum")
def _():
    out = []
    for ttl in (0, -1, 9_000_000_001):
        try:
            a = grant(ttl)
            out.append(f"{ttl} -> TTL {a.TTL}")
        except grpc.RpcError as exc:
            out.append(f"{ttl} -> {exc.code().name} {exc.details()}")
    assert "too large lease TTL" in out[2], out
    return " | ".join(out)


@case("LSE-03 a small TTL is raised to the minimum (3/2 of the election timeout, in seconds, rounded up)")
def _():
    return f"asked 1, granted {grant(1).TTL}"


@case("LSE-04 time to live with keys; attached keys; unknown lease answers TTL -1 and no error")
def _():
    a = grant(60)
    put(K("l4", b"b"), lease=a.ID)
    put(K("l4", b"a"), lease=a.ID)
    t = lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=a.ID, keys=True), timeout=T, metadata=META)
    eq(t.grantedTTL, 60)
    assert 55 <= t.TTL <= 60
    eq(sorted(t.keys), [K("l4", b"a"), K("l4", b"b")])
    t = lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=a.ID), timeout=T, metadata=META)
    eq(len(t.keys), 0)
    t = lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=424242), timeout=T, metadata=META)
    return f"unknown: ID={t.ID} TTL={t.TTL} grantedTTL={t.grantedTTL}"


@case("LSE-05 revoke deletes the attached keys; revisions used; unknown lease")
def _():
    a = grant(60)
    p = K("l5")
    put(p + b"a", lease=a.ID)
    r = put(p + b"b", lease=a.ID).header.revision
    w = Watcher(create(p, range_end=end(p)))
    w.next()
    answer = lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=a.ID), timeout=T, metadata=META)
    eq(get(p, range_end=end(p)).count, 0)
    events = w.events(2)
    w.close()
    revisions = sorted({e.kv.mod_revision - r for e in events})
    b = refused(
        "NOT_FOUND",
        "etcdserver: requested lease not found",
        lease.LeaseRevoke,
        pb.LeaseRevokeRequest(ID=a.ID),
        timeout=T,
        metadata=META,
    )
    return f"two keys deleted at revisions {revisions} after, header {answer.header.revision - r:+d} | " + b


@case("LSE-06 keep-alive answers the TTL; unknown lease answers TTL 0, the stream goes on")
def _():
    a = grant(60)
    q = queue.Queue()
    stream = lease.LeaseKeepAlive(iter(q.get, None), metadata=META)
    q.put(pb.LeaseKeepAliveRequest(ID=a.ID))
    one = next(stream)
    eq((one.ID, one.TTL), (a.ID, 60))
    q.put(pb.LeaseKeepAliveRequest(ID=31337))
    one = next(stream)
    eq((one.ID, one.TTL), (31337, 0))
    q.put(pb.LeaseKeepAliveRequest(ID=a.ID))
    eq(next(stream).TTL, 60)
    q.put(None)
    eq(list(stream), [])


@case("LSE-07 expiry deletes the keys and is seen by a watcher; keep-alive prevents it")
def _():
    a, b = grant(2), grant(2)
    put(K("l7", b"a"), lease=a.ID)
    put(K("l7", b"b"), lease=b.ID)
    w = Watcher(create(K("l7", b"a")))
    w.next()
    q = queue.Queue()
    stream = lease.LeaseKeepAlive(iter(q.get, None), metadata=META)
    start = time.monotonic()
    while time.monotonic() - start < 6:
        q.put(pb.LeaseKeepAliveRequest(ID=b.ID))
        eq(next(stream).ID, b.ID)
        time.sleep(0.5)
        if get(K("l7", b"a")).count == 0:
            break
    took = time.monotonic() - start
    event = w.events(1)[0]
    eq(event.type, kvpb.Event.DELETE)
    eq(get(K("l7", b"b")).count, 1)
    q.put(None)
    w.close()
    return f"TTL {a.TTL} s: gone after {took:.1f} s"


@case("LSE-08 leases are listed; re-attaching a key to another lease detaches it from the first")
def _():
    a, b = grant(60), grant(60)
    listed = {x.ID for x in lease.LeaseLeases(pb.LeaseLeasesRequest(), timeout=T, metadata=META).leases}
    assert {a.ID, b.ID} <= listed
    put(K("l8"), lease=a.ID)
    put(K("l8"), lease=b.ID)
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=a.ID), metadata=META)
    eq(get(K("l8")).count, 1)
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=b.ID), metadata=META)
    eq(get(K("l8")).count, 0)


@case("LSE-09 lease compare in a txn")
def _():
    a = grant(60)
    put(K("l9"), lease=a.ID)
    assert txn(compare=[Cmp(key=K("l9"), target=Cmp.LEASE, result=Cmp.EQUAL, lease=a.ID)]).succeeded


# ---------------------------------------------------------------- watch
@case("WCH-01 created answer: created=true, watch_id from 0, header.revision")
def _():
    now = put(K("w1")).header.revision
    w = Watcher(create(K("w1")), create(K("w1")))
    a, b = w.next(), w.next()
    eq((a.created, a.watch_id, a.header.revision), (True, 0, now))
    eq((b.created, b.watch_id), (True, 1))
    w.close()


@case(
    "WCH-02 events: PUT with kv, version 1 = create; DELETE has only key and mod_revision; prev_kv when asked"
)
def _():
    k = K("w2")
    w = Watcher(create(k, prev_kv=True))
    w.next()
    put(k, b"1")
    put(k, b"2")
    r = delete(k).header.revision
    a, b, c = w.events(3)
    eq((a.type, a.kv.value, a.kv.version, a.HasField("prev_kv")), (kvpb.Event.PUT, b"1", 1, False))
    eq((b.kv.value, b.prev_kv.value), (b"2", b"1"))
    eq(
        (
            c.type,
            c.kv.key,
            c.kv.mod_revision,
            c.kv.value,
            c.kv.create_revision,
            c.kv.version,
            c.prev_kv.value,
        ),
        (kvpb.Event.DELETE, k, r, b"", 0, 0, b"2"),
    )
    w.close()


@case("WCH-03 start_revision in the past replays history in order; one txn's events arrive in one answer")
def _():
    k = K("w3")
    r = put(k + b"a", b"0").header.revision
    put(k + b"a", b"1")
    txn(success=[op(P(key=k + b"a", value=b"2")), op(P(key=k + b"b", value=b"2"))])
    w = Watcher(create(k, range_end=end(k), start_revision=r))
    assert w.next().created
    events, sizes = [], []
    while len(events) < 4:
        answer = w.next()
        sizes.append(len(answer.events))
        events += answer.events
    eq([e.kv.mod_revision - r for e in events], [0, 1, 2, 2])
    w.close()
    return f"answer sizes {sizes}"


@case("WCH-04 start_revision in the future: silent until then")
def _():
    k = K("w4")
    r = put(k).header.revision
    w = Watcher(create(k, start_revision=r + 3))
    assert w.next().created
    for _ in range(4):
        put(k)
    events = w.events(2)
    eq([e.kv.mod_revision - r for e in events], [3, 4])
    w.close()


@case("WCH-05 start_revision compacted: created, then canceled with compact_revision")
def _():
    k = K("w5")
    r = put(k).header.revision
    put(k)
    now = put(k).header.revision
    kv.Compact(pb.CompactionRequest(revision=now), timeout=T, metadata=META)
    w = Watcher(create(k, start_revision=r))
    a = w.next()
    b = w.next()
    w.close()
    assert a.created and not a.canceled
    assert b.canceled and b.compact_revision == now, b
    return f"created then canceled, compact_revision={b.compact_revision - now:+d} reason={b.cancel_reason!r} header.revision={b.header.revision - now:+d}"


@case("WCH-06 cancel: canceled=true answer; nothing after; an unknown id is silent")
def _():
    k = K("w6")
    w = Watcher(create(k))
    w.next()
    w.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=77)))
    w.none()
    w.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=0)))
    a = w.next()
    eq((a.canceled, a.watch_id, a.cancel_reason), (True, 0, ""))
    put(k)
    w.none()
    w.close()


@case("WCH-07 client-chosen watch_id; a duplicate one is refused in-stream, the stream goes on")
def _():
    k = K("w7")
    w = Watcher(create(k, watch_id=55))
    eq(w.next().watch_id, 55)
    w.send(create(k, watch_id=55))
    a = w.next()
    w.send(create(k))
    b = w.next()
    w.close()
    return f"duplicate: created={a.created} canceled={a.canceled} id={a.watch_id} reason={a.cancel_reason!r}; next own id {b.watch_id}"


@case("WCH-08 empty key watches from 0x00; empty key with range_end 0x00 watches everything")
def _():
    w = Watcher(create(b"", range_end=b"\0"))
    assert w.next().created
    put(K("w8"))
    eq(w.events(1)[0].kv.key, K("w8"))
    w.close()


@case("WCH-09 inverted range: refused in-stream with watch_id -1")
def _():
    w = Watcher(create(b"b", range_end=b"a"))
    a = w.next()
    w.close()
    return f"created={a.created} canceled={a.canceled} id={a.watch_id} reason={a.cancel_reason!r}"


@case("WCH-10 filters NOPUT and NODELETE")
def _():
    k = K("w10")
    F = pb.WatchCreateRequest
    w = Watcher(create(k, filters=[F.NOPUT]), create(k, filters=[F.NODELETE]))
    w.next(), w.next()
    put(k)
    delete(k)
    got = {}
    for _ in range(2):
        a = w.next()
        got[a.watch_id] = [e.type for e in a.events]
    eq(got, {0: [kvpb.Event.DELETE], 1: [kvpb.Event.PUT]})
    w.none(0.2)
    w.close()


@case("WCH-11 progress request: an answer without events; watch_id -1 (3.4: only when synced)")
def _():
    now = put(K("w11")).header.revision
    w = Watcher(create(K("w11")))
    w.next()
    time.sleep(0.3)
    w.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    a = w.next()
    eq((len(a.events), a.created, a.canceled), (0, False, False))
    assert a.header.revision >= now
    w.close()
    return f"watch_id={a.watch_id}"


@case("WCH-12 watch all of a txn: put+delete of different keys, order inside the revision")
def _():
    k = K("w12")
    put(k + b"z")
    w = Watcher(create(k, range_end=end(k)))
    w.next()
    txn(success=[op(P(key=k + b"c")), op(D(key=k + b"z")), op(P(key=k + b"a"))])
    a = w.next()
    eq([(e.type, e.kv.key[-1:]) for e in a.events], [(0, b"c"), (1, b"z"), (0, b"a")])
    eq(len({e.kv.mod_revision for e in a.events}), 1)
    w.close()


@case("WCH-13 range delete: one answer, events in key order, one revision")
def _():
    k = K("w13")
    for c in (b"b", b"a", b"c"):
        put(k + c)
    w = Watcher(create(k, range_end=end(k)))
    w.next()
    delete(k, range_end=end(k))
    a = w.next()
    eq([e.kv.key[-1:] for e in a.events], [b"a", b"b", b"c"])
    w.close()


@case("WCH-14 prev_kv of a replayed event whose predecessor was compacted away is absent")
def _():
    k = K("w14")
    put(k, b"1")
    r2 = put(k, b"2").header.revision
    r3 = put(k, b"3").header.revision
    out = []
    for at in (r2, r3):
        kv.Compact(pb.CompactionRequest(revision=at, physical=True), timeout=T, metadata=META)
        w = Watcher(create(k, start_revision=r3, prev_kv=True))
        w.next()
        e = w.events(1)[0]
        w.close()
        out.append(e.HasField("prev_kv"))
    eq(
        out, [True, False]
    )  # the predecessor is readable while the event's revision minus one is not below the compaction


@case("WCH-15 fragment=true splits a huge answer, fragment flag on all but the last")
def _():
    k = K("w15")
    r = None
    for i in range(6):
        a = put(k + b"%d" % i, b"x" * 700_000)
        r = r or a.header.revision
    w = Watcher(create(k, range_end=end(k), start_revision=r, fragment=True))
    w.next()
    flags, count = [], 0
    while count < 6:
        a = w.next(10)
        flags.append(a.fragment)
        count += len(a.events)
    w.close()
    delete(k, range_end=end(k))
    return f"fragment flags {flags}"


@case("WCH-16 hasleader metadata is taken; a watch with it works")
def _():
    w = Watcher(create(K("w16")), metadata=(("hasleader", "true"),))
    assert w.next().created
    put(K("w16"))
    eq(len(w.events(1)), 1)
    w.close()


@case("WCH-17 closing the sending side: the stream ends without an error")
def _():
    w = Watcher(create(K("w17")))
    w.next()
    w.out.put(None)
    try:
        a = w.answers.get(timeout=2)
        return f"then {a!r}"[:120]
    except queue.Empty:
        code = w.call.code() if w.call.done() else "still open"
        return f"done={w.call.done()} code={code}"


@case("WCH-18 lease expiry's and revoke's deletions are ordinary DELETE events with prev_kv")
def _():
    a = grant(60)
    put(K("w18"), b"x", lease=a.ID)
    w = Watcher(create(K("w18"), prev_kv=True))
    w.next()
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=a.ID), metadata=META)
    e = w.events(1)[0]
    eq((e.type, e.prev_kv.value, e.prev_kv.lease), (kvpb.Event.DELETE, b"x", a.ID))
    w.close()


@case("WCH-19 progress_notify with no traffic: an empty answer within the interval (default 10 min)")
def _():
    w = Watcher(create(K("w19"), progress_notify=True))
    w.next()
    try:
        a = w.next(5)
    except queue.Empty:
        w.close()
        raise target.Skip(
            "none in 5 s (start etcd 3.5 with --experimental-watch-progress-notify-interval=2s)"
        )
    w.close()
    eq((len(a.events), a.watch_id), (0, 0))
