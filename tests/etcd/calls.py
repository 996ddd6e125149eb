"""What the cases of ``semantics.py`` share: stubs, short names for calls, and the list of cases."""

import queue
import threading
import time

import grpc
import stubs
import target

M = stubs.load()
pb, kvpb, rpc = M["rpc_pb2"], M["kv_pb2"], M["rpc_pb2_grpc"]
lockpb, electpb = M["v3lock_pb2"], M["v3election_pb2"]
ch = target.channel()
kv, watch, lease = rpc.KVStub(ch), rpc.WatchStub(ch), rpc.LeaseStub(ch)
cluster, maint, auth = rpc.ClusterStub(ch), rpc.MaintenanceStub(ch), rpc.AuthStub(ch)
lock_stub, elect_stub = M["v3lock_pb2_grpc"].LockStub(ch), M["v3election_pb2_grpc"].ElectionStub(ch)
META = (("token", target.token), ("authorization", target.token)) if target.token else ()
R, P, D = pb.RangeRequest, pb.PutRequest, pb.DeleteRangeRequest
Cmp = pb.Compare
T = 10
CASES = []
RUN = str(int(time.time() * 1000) % 10**9).encode()


def case(name):
    def keep(function):
        CASES.append((name, function))
        return function

    return keep


def K(name, tail=b""):
    return b"sem/" + RUN + b"/" + name.encode() + b"/" + tail


def end(prefix):
    for i in reversed(range(len(prefix))):
        if prefix[i] < 255:
            return prefix[:i] + bytes([prefix[i] + 1])
    return b"\0"


def put(key, value=b"v", **kw):
    return kv.Put(P(key=key, value=value, **kw), timeout=T, metadata=META)


def get(key, **kw):
    return kv.Range(R(key=key, **kw), timeout=T, metadata=META)


def delete(key, **kw):
    return kv.DeleteRange(D(key=key, **kw), timeout=T, metadata=META)


def txn(compare=(), success=(), failure=()):
    return kv.Txn(pb.TxnRequest(compare=compare, success=success, failure=failure), timeout=T, metadata=META)


def op(request):
    name = {R: "request_range", P: "request_put", D: "request_delete_range", pb.TxnRequest: "request_txn"}[
        type(request)
    ]
    return pb.RequestOp(**{name: request})


def refused(code, details, call, *a, **kw):
    try:
        answer = call(*a, **kw)
    except grpc.RpcError as exc:
        got = (exc.code().name, exc.details())
        ok = details if isinstance(details, tuple) else (details,)
        assert got[0] == code and got[1] in ok, f"got {got}, want {(code, details)}"
        return f"{got[0]}: {got[1]}"
    raise AssertionError(f"answered instead of {code}: {str(answer)[:200]}")


def eq(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


class Watcher:
    """One Watch stream: ``send`` requests, ``next`` answers."""

    def __init__(self, *requests, metadata=()):
        self.out = queue.Queue()
        self.answers = queue.Queue()
        for request in requests:
            self.out.put(request)
        self.call = watch.Watch(iter(self.out.get, None), metadata=META + tuple(metadata))
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self):
        try:
            for answer in self.call:
                self.answers.put(answer)
        except grpc.RpcError as exc:
            self.answers.put(exc)

    def send(self, request):
        self.out.put(request)

    def next(self, timeout=5):
        answer = self.answers.get(timeout=timeout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def none(self, timeout=0.4):
        try:
            answer = self.answers.get(timeout=timeout)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected answer {str(answer)[:200]}")

    def events(self, count, timeout=5):
        got = []
        while len(got) < count:
            got += self.next(timeout).events
        return got

    def close(self):
        self.out.put(None)
        self.call.cancel()


def create(key, **kw):
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, **kw))
