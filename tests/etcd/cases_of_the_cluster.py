"""Maintenance, members, users, locks, elections, and gRPC itself."""

import time

import grpc
from calls import (
    META,
    K,
    P,
    R,
    T,
    auth,
    case,
    ch,
    cluster,
    elect_stub,
    electpb,
    eq,
    kv,
    lease,
    lock_stub,
    lockpb,
    maint,
    pb,
    put,
    refused,
)
from cases_of_streams import grant


# ---------------------------------------------------------------- maintenance, cluster
@case("MNT-01 status fields")
def _():
    s = maint.Status(pb.StatusRequest(), timeout=T, metadata=META)
    assert s.version and s.leader and s.raftTerm and s.raftIndex and s.raftAppliedIndex and s.header.member_id
    return f"version={s.version} dbSize={s.dbSize} inUse={s.dbSizeInUse} isLearner={s.isLearner} errors={list(s.errors)} header.revision={s.header.revision}"


@case("MNT-02 alarm list is empty; disarm of nothing")
def _():
    a = maint.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.GET), timeout=T, metadata=META)
    eq(len(a.alarms), 0)
    eq(
        len(
            maint.Alarm(
                pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, alarm=pb.NOSPACE), timeout=T, metadata=META
            ).alarms
        ),
        0,
    )


@case("MNT-03 hash, hashkv; hashkv of a future revision")
def _():
    now = put(K("m3")).header.revision
    h = maint.HashKV(pb.HashKVRequest(revision=0), timeout=T, metadata=META)
    h2 = maint.HashKV(pb.HashKVRequest(revision=now), timeout=T, metadata=META)
    eq(h.hash, h2.hash)
    maint.Hash(pb.HashRequest(), timeout=T, metadata=META)
    return f"compact_revision={h.compact_revision} " + refused(
        "OUT_OF_RANGE",
        "etcdserver: mvcc: required revision is a future revision",
        maint.HashKV,
        pb.HashKVRequest(revision=now + 1000),
        timeout=T,
        metadata=META,
    )


@case("MNT-04 defragment answers")
def _():
    maint.Defragment(pb.DefragmentRequest(), timeout=T, metadata=META)


@case(
    "MNT-05 snapshot streams blobs; remaining_bytes falls to 0; the last 32 bytes are a SHA-256 of the rest"
)
def _():
    import hashlib

    blobs, last = [], None
    for a in maint.Snapshot(pb.SnapshotRequest(), timeout=60, metadata=META):
        blobs.append(a.blob)
        last = a.remaining_bytes
    data = b"".join(blobs)
    eq(last, 0)
    eq(hashlib.sha256(data[:-32]).digest(), data[-32:])
    return f"{len(data)} bytes in {len(blobs)} blobs"


@case("MNT-06 move leader: to an unknown member, or on a single member")
def _():
    try:
        maint.MoveLeader(pb.MoveLeaderRequest(targetID=12345), timeout=T, metadata=META)
    except grpc.RpcError as exc:
        return f"{exc.code().name}: {exc.details()}"
    raise AssertionError("taken")


@case("CLU-01 member list")
def _():
    a = cluster.MemberList(pb.MemberListRequest(), timeout=T, metadata=META)
    m = a.members[0]
    assert m.ID and m.clientURLs and m.peerURLs
    assert any(a.header.member_id == x.ID for x in a.members)
    return f"{len(a.members)} members, name={m.name!r} urls={list(m.clientURLs)}"


@case("CLU-02 remove and update of an unknown member; add without urls; promote unknown")
def _():
    out = []
    for call, request in (
        (cluster.MemberRemove, pb.MemberRemoveRequest(ID=123)),
        (cluster.MemberUpdate, pb.MemberUpdateRequest(ID=123, peerURLs=["http://127.0.0.1:1"])),
        (cluster.MemberPromote, pb.MemberPromoteRequest(ID=123)),
        (cluster.MemberAdd, pb.MemberAddRequest(peerURLs=[])),
        (cluster.MemberAdd, pb.MemberAddRequest(peerURLs=["not a url"])),
    ):
        try:
            call(request, timeout=T, metadata=META)
            out.append("taken")
        except grpc.RpcError as exc:
            out.append(f"{exc.code().name}: {exc.details()}")
    return " | ".join(out)


# ---------------------------------------------------------------- auth (does not enable it)
@case("AUT-01 authenticate while authentication is off")
def _():
    return refused(
        "FAILED_PRECONDITION",
        "etcdserver: authentication is not enabled",
        auth.Authenticate,
        pb.AuthenticateRequest(name="root", password="x"),
        timeout=T,
        metadata=META,
    )


@case("AUT-02 enable without root; unknown user; unknown role; empty name")
def _():
    out = []
    for call, request in (
        (auth.AuthEnable, pb.AuthEnableRequest()),
        (auth.UserGet, pb.AuthUserGetRequest(name="nobody")),
        (auth.RoleGet, pb.AuthRoleGetRequest(role="none")),
        (auth.UserAdd, pb.AuthUserAddRequest(name="")),
        (auth.RoleAdd, pb.AuthRoleAddRequest(name="")),
        (auth.UserDelete, pb.AuthUserDeleteRequest(name="nobody")),
    ):
        try:
            call(request, timeout=T, metadata=META)
            out.append("taken")
        except grpc.RpcError as exc:
            out.append(f"{exc.code().name}: {exc.details()}")
    return " | ".join(out)


# ---------------------------------------------------------------- lock and election services
@case("LCK-01 lock: key is NAME/LEASEID in hex; a second one waits; unlock hands over; a dead lease frees it")
def _():
    a, b = grant(60).ID, grant(60).ID
    name = K("lock")
    one = lock_stub.Lock(lockpb.LockRequest(name=name, lease=a), timeout=T, metadata=META)
    eq(one.key, name + b"/%x" % a)
    pending = lock_stub.Lock.future(lockpb.LockRequest(name=name, lease=b), metadata=META)
    time.sleep(0.3)
    assert not pending.done()
    lock_stub.Unlock(lockpb.UnlockRequest(key=one.key), timeout=T, metadata=META)
    two = pending.result(timeout=5)
    eq(two.key, name + b"/%x" % b)
    again = lock_stub.Lock.future(lockpb.LockRequest(name=name, lease=a), metadata=META)
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=b), metadata=META)
    eq(again.result(timeout=5).key, one.key)
    lock_stub.Unlock(lockpb.UnlockRequest(key=one.key), timeout=T, metadata=META)


@case("LCK-02 lock with an unknown lease; lock again with the same lease; unlock of a free key")
def _():
    try:
        lock_stub.Lock(lockpb.LockRequest(name=K("lk2"), lease=4444), timeout=T, metadata=META)
        out = "unknown lease: taken"
    except grpc.RpcError as exc:
        out = f"unknown lease: {exc.code().name}: {exc.details()}"
    a = grant(60).ID
    x = lock_stub.Lock(lockpb.LockRequest(name=K("lk2"), lease=a), timeout=T, metadata=META)
    y = lock_stub.Lock(lockpb.LockRequest(name=K("lk2"), lease=a), timeout=T, metadata=META)
    eq(x.key, y.key)
    lock_stub.Unlock(lockpb.UnlockRequest(key=x.key), timeout=T, metadata=META)
    lock_stub.Unlock(lockpb.UnlockRequest(key=x.key), timeout=T, metadata=META)
    return out


@case("ELE-01 campaign, leader, proclaim, observe, resign; leader of an empty election")
def _():
    a = grant(60).ID
    name = K("el1")
    out = refused(
        "UNKNOWN",
        "election: no leader",
        elect_stub.Leader,
        electpb.LeaderRequest(name=name),
        timeout=T,
        metadata=META,
    )
    won = elect_stub.Campaign(
        electpb.CampaignRequest(name=name, lease=a, value=b"one"), timeout=T, metadata=META
    )
    eq((won.leader.name, won.leader.key, won.leader.lease), (name, name + b"/%x" % a, a))
    assert won.leader.rev
    eq(elect_stub.Leader(electpb.LeaderRequest(name=name), timeout=T, metadata=META).kv.value, b"one")
    stream = elect_stub.Observe(electpb.LeaderRequest(name=name), metadata=META)
    eq(next(stream).kv.value, b"one")
    elect_stub.Proclaim(electpb.ProclaimRequest(leader=won.leader, value=b"two"), timeout=T, metadata=META)
    eq(next(stream).kv.value, b"two")
    stream.cancel()
    elect_stub.Resign(electpb.ResignRequest(leader=won.leader), timeout=T, metadata=META)
    out += " | proclaim after resign: " + refused(
        "UNKNOWN",
        "election: not leader",
        elect_stub.Proclaim,
        electpb.ProclaimRequest(leader=won.leader, value=b"3"),
        timeout=T,
        metadata=META,
    )
    return out


# ---------------------------------------------------------------- gRPC itself
@case("GRP-01 an unknown method and an unknown service: UNIMPLEMENTED with grpc-go's words")
def _():
    out = []
    for path in ("/etcdserverpb.KV/Nope", "/nope.Nope/Nope"):
        call = ch.unary_unary(path, lambda x: x, lambda x: x)
        try:
            call(b"", timeout=T)
        except grpc.RpcError as exc:
            eq(exc.code().name, "UNIMPLEMENTED")
            out.append(exc.details())
    return " | ".join(out)


@case("GRP-02 a body that is not protobuf: INTERNAL")
def _():
    call = ch.unary_unary("/etcdserverpb.KV/Range", lambda x: x, lambda x: x)
    try:
        call(b"\xff\xff\xff", timeout=T)
    except grpc.RpcError as exc:
        return f"{exc.code().name}: {exc.details()}"
    raise AssertionError("taken")


@case("GRP-03 an expired deadline is DEADLINE_EXCEEDED; unknown fields are ignored")
def _():
    call = ch.unary_unary("/etcdserverpb.KV/Range", lambda x: x, R.FromString and pb.RangeResponse.FromString)
    call(R(key=b"x").SerializeToString() + b"\xaa\x06\x03abc", timeout=T, metadata=META)
    try:
        lock_name = K("g3")
        a, b = grant(60).ID, grant(60).ID
        lock_stub.Lock(lockpb.LockRequest(name=lock_name, lease=a), timeout=T, metadata=META)
        lock_stub.Lock(lockpb.LockRequest(name=lock_name, lease=b), timeout=0.3, metadata=META)
    except (
        grpc.RpcError
    ) as exc:  # etcd's lock service may be quicker than the client's own clock, with UNKNOWN
        assert (exc.code().name, exc.details()) == (
            "UNKNOWN",
            "context deadline exceeded",
        ) or exc.code().name == "DEADLINE_EXCEEDED"
        return f"{exc.code().name}: {exc.details()}"
    raise AssertionError("taken")


@case("GRP-04 gRPC health service")
def _():
    call = ch.unary_unary("/grpc.health.v1.Health/Check", lambda x: x, lambda x: x)
    eq(call(b"", timeout=T), b"\x08\x01")


@case("GRP-05 concurrent puts on one connection: each its own revision")
def _():
    futures = [kv.Put.future(P(key=K("g5", b"%d" % i)), metadata=META) for i in range(200)]
    revisions = [f.result(timeout=20).header.revision for f in futures]
    eq(len(set(revisions)), 200)
