"""Services of which each method shows one thing about its transport, and another implementation's client."""

import asyncio
from contextlib import contextmanager

import grpc

from node.etcd.admission import CallAdmission
from node.etcd.errors import Code, EtcdError
from node.etcd.grpc import GrpcDoor
from node.etcd.health import HealthService
from node.etcd.messages import (
    DeleteRangeResponse,
    KeyValue,
    LeaseKeepAliveResponse,
    PutResponse,
    RangeResponse,
    SnapshotResponse,
    TxnResponse,
    WatchResponse,
)
from node.etcd.protobuf import decode_untrusted, encode
from node.etcd.table import METHODS
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served

BY_NAME = {method.name: method for method in METHODS}


class KvService:
    """``range`` gives back what it got; ``put`` waits until it is told to end; ``txn`` has a bug."""

    def __init__(self):
        self.calls = []
        self.waiting = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def range(self, request, call):
        self.calls.append(call)
        if request.key == b"refuse":
            raise EtcdError(Code.OUT_OF_RANGE, "etcdserver: mvcc: 100 % \u2603 compacted")
        return RangeResponse(kvs=[KeyValue(key=request.key, value=bytes(request.limit))], count=1)

    async def put(self, request, call):
        self.waiting += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return PutResponse()

    async def delete_range(self, request, call):
        return DeleteRangeResponse(deleted=len(request.key))

    async def txn(self, request, call):
        if request.compare:
            raise ZeroDivisionError
        return TxnResponse(succeeded=True)


class StreamService:
    """``watch`` answers each request; ``keep_alive`` never reads; ``snapshot`` sends as much as it is let."""

    def __init__(self):
        self.sent = 0
        self.ended = 0

    async def watch(self, requests, call):
        try:
            async for request in requests:
                cancel = request.cancel_request
                if cancel is not None:
                    raise EtcdError(Code.CANCELLED, "watch canceled")
                yield WatchResponse(watch_id=request.create_request.watch_id, created=True)
        finally:
            self.ended += 1

    async def keep_alive(self, requests, call):
        try:
            await asyncio.Event().wait()
            yield LeaseKeepAliveResponse()
        finally:
            self.ended += 1

    async def snapshot(self, request, call):
        try:
            for number in range(1000):
                self.sent = number + 1
                yield SnapshotResponse(remaining_bytes=999 - number, blob=bytes(32 * 1024))
        finally:
            self.ended += 1


class Door(GrpcDoor):
    """Remembers its connections."""

    def __init__(self, *args):
        super().__init__(*args)
        self.connections = set()

    def begin(self, begun, connection, **more):
        self.connections.add(connection)
        return super().begin(begun, connection, **more)


class Server:
    """The services and the port of a server."""

    def __init__(self, port, kv, streams, door, loop):
        self.port, self.kv, self.streams, self.door, self._loop = port, kv, streams, door, loop

    def in_loop(self, function):
        """Call a function in the server's loop."""
        self._loop.call_soon_threadsafe(function)

    def begin_to_stop(self):
        """Do with each connection what the end of the server does first."""
        for connection in self.door.connections:
            self.in_loop(connection.shutdown)


@contextmanager
def grpc_server(service=None, limits=None):
    """Serve the services above in a thread."""
    service = service or FakeService()
    made = []

    def door_of(app, service, limits):
        kv, streams = KvService(), StreamService()
        services = {
            "etcdserverpb.KV": kv,
            "etcdserverpb.Watch": streams,
            "etcdserverpb.Lease": streams,
            "etcdserverpb.Maintenance": streams,
        }
        services["grpc.health.v1.Health"] = HealthService(service.leaderless, services)
        door = Door(services, CallAdmission(app.gate, app.hand_over), limits.calls_max)
        made.append((kv, streams, door, asyncio.get_running_loop()))
        return door

    with served(service, limits=limits, door_of=door_of) as port:
        yield Server(port, *made[0])


@contextmanager
def channel_to(port):
    """Connect the other implementation (C-core)."""
    credentials = grpc.ssl_channel_credentials(root_certificates=IDENTITY.certificate_pem())
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        yield channel


def stub(channel, name, shape="unary_unary"):
    """Return a function that calls a method."""
    method = BY_NAME[name]
    return getattr(channel, shape)(
        method.path,
        request_serializer=encode,
        response_deserializer=lambda data: decode_untrusted(method.response, data),
    )


def token(role, name="token"):
    return ((name, TOKENS[role]),)
