"""gRPC over HTTP/2, on the API's port: calls of the methods in ``node.etcd.table``.

A call of one message and one answer costs one task and no object of an HTTP framework. A stream reads its
next message when its handler asks for it: what the client sends ahead waits in the window of the stream.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

from node.api.access import VOUCHED
from node.api.freshness import SENT_AFTER
from node.api.header_fields import FIELDS
from node.api.http2_stream import OfCall
from node.api.seat import Seat
from node.api.turns import Asking
from node.etcd.admission import CallAdmission, fields_of_call, in_words_of_etcd
from node.etcd.errors import SERVER_STOPPED, TOO_MANY_REQUESTS, Code, EtcdError
from node.etcd.messages import Message
from node.etcd.protobuf import BYTES_MAX, ProtobufError, decode_untrusted, encode
from node.etcd.services.call import Call
from node.etcd.table import METHODS, CallKind, Method
from node.http2.events import RequestBegun
from node.http2.fields import Http2Request
from node.places import Room, Stay, Usage

logger = logging.getLogger(__name__)

_CONTENT_TYPE: Final = b"application/grpc"
_HEAD_BYTES: Final = 5  # in front of each message: whether it is compressed, and its size
_FIELDS: Final = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")]
_DONE: Final = [(b"grpc-status", b"0")]
_MESSAGE_CHARACTERS_MAX: Final = 1024  # of a refusal, before it is encoded
# Of an answer in pieces, what may wait for its client. The handler goes on when less than this waits.
UNSENT_BYTES_MAX: Final = 64 * 1024
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMED_OUT: Final = (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
_BY_PATH: Final = {method.path: method for method in METHODS}


def framed(message: Message) -> bytes:
    """Return a message as gRPC sends it."""
    data = encode(message)
    return b"\0" + len(data).to_bytes(4, "big") + data


def trailers_of(refusal: EtcdError) -> list[tuple[bytes, bytes]]:
    """Return the trailer fields of a call that was refused."""
    text = refusal.message[:_MESSAGE_CHARACTERS_MAX]
    # All visible ASCII but the percent sign stays as it is (gRPC over HTTP/2, Responses).
    encoded = quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode("ascii").strip()
    return [(b"grpc-status", b"%d" % refusal.code), (b"grpc-message", encoded)]


class GrpcDoor:
    """Takes the calls of all connections (``node.api.http2_stream.Door``).

    Args:
        services: by name, as in gRPC's paths. A method of another service is unknown.
        admission: of the API.
        calls_max: at a time.
    """

    def __init__(self, services: Mapping[str, object], admission: CallAdmission, calls_max: int) -> None:
        self._services = services
        self.admission = admission
        self.calls = Room("api-calls", calls_max)

    def usages(self) -> tuple[Usage, ...]:
        """Return how much of this object's pools is in use."""
        return (self.calls.usage,)

    def opens(self, head: Http2Request) -> bool:
        """Return whether a request is a call: another one goes to the application."""
        return any(name == b"content-type" and value.startswith(_CONTENT_TYPE) for name, value in head.fields)

    def begin(
        self, begun: RequestBegun, connection: OfCall, *, seat: Seat, room: Room, sent_after: float
    ) -> "GrpcCall":
        """Return a call, which does nothing before its ``start``."""
        return GrpcCall(begun, connection, self, seat=seat, room=room, sent_after=sent_after)

    def find(self, path: str) -> tuple[Method, Any]:
        """Return the method of a path, and its handler.

        Raises:
            EtcdError: UNIMPLEMENTED.
        """
        method = _BY_PATH.get(path)
        if method is not None and method.service in self._services:
            return method, getattr(self._services[method.service], method.handler)
        service, _, name = path.removeprefix("/").rpartition("/")
        if service in self._services:
            raise EtcdError(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        raise EtcdError(Code.UNIMPLEMENTED, f"unknown service {service}")


def timeout_s_of(value: bytes) -> float:
    """Return the seconds that a client gives to its call.

    Raises:
        EtcdError: INTERNAL, as etcd has it.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise EtcdError(Code.INTERNAL, "malformed grpc-timeout")
    return int(match[1]) * _UNIT_S[match[2]]


class GrpcCall:
    """One call. It counts until its handler has ended.

    Attributes:
        stay: what its messages hold of the room of all bodies.
        endless, ended, lost, answered, begun_at: as ``node.api.http2_stream.OneRequest`` has them.
    """

    def __init__(
        self,
        begun: RequestBegun,
        connection: OfCall,
        door: GrpcDoor,
        *,
        seat: Seat,
        room: Room,
        sent_after: float,
    ) -> None:
        self.id = begun.stream_id
        self.ended = begun.ended
        self.lost = self.answered = self.endless = False
        self.stay = Stay(room, seat.caller)
        self._head = begun.head
        self._connection = connection
        self._door = door
        self._seat = seat
        self._sent_after = sent_after
        self._loop = asyncio.get_running_loop()
        self.begun_at = self._loop.time()
        self._counted: tuple[Any] | None = None  # whose place it has among all calls
        self._buffer = bytearray()
        self._granted = 0  # of the bytes in the buffer, for how many the client has a window again
        self._request: bytes | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._begun = False  # the head of an answer in pieces was sent

    # ---- what the connection reports ---------------------------------------------------
    def start(self) -> None:
        """Find the method, and run it when its message is there."""
        try:
            if not self._door.calls.take(1, self._seat.caller):
                raise EtcdError(*TOO_MANY_REQUESTS)
            self._counted = (self._seat.caller,)
            self._method, self._handler = self._door.find(self._head.target.decode("ascii"))
            self._metadata = {
                name.decode("ascii"): value.decode("latin-1") for name, value in self._head.fields
            }
            for name, value in self._head.fields:
                if name == b"grpc-timeout":
                    self._deadline = self.begun_at + timeout_s_of(value)
        except EtcdError as refusal:
            self._finish(refusal)
            self._leave()
            return
        if self._deadline is not None:
            self._timer = self._loop.call_at(self._deadline, self._stop_with, EtcdError(*_TIMED_OUT))
        if self._method.kind is CallKind.BOTH:
            self.endless = True
            self._run()
        elif self.ended:
            self._advance()

    def receive_body(self, data: bytes, *, ended: bool) -> None:
        """Take the next bytes of the messages."""
        self.ended = ended
        if self.lost or (self.answered and not self.endless):
            return
        if not self.stay.take(len(data)):
            self._stop_with(EtcdError(*TOO_MANY_REQUESTS))
            return
        self._buffer += data
        if self._task is None:
            self._advance()
        else:
            self.wake()

    def lose(self) -> None:
        """The client takes its call back, or is gone."""
        self.lost = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._leave()

    def stop(self) -> None:
        """The node stops: a call with one answer gets it, a stream ends."""
        if self._task is not None and self._method.kind is not CallKind.UNARY:
            self._stop_with(EtcdError(*SERVER_STOPPED))

    def wake(self) -> None:
        """Look again: something has been received or sent."""
        for waiting in (self._readable, self._writable):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _run(self) -> None:
        self._task = self._connection.run(self)
        self._task.add_done_callback(lambda _: self._leave())  # also if it is cancelled before its first step

    # ---- messages ------------------------------------------------------------------------
    def _advance(self) -> None:
        """Run the handler of a call with one message once that message is there."""
        try:
            self._request = self._take_message()
            if self._request is None and self.ended:
                raise EtcdError(Code.INTERNAL, "bondstone: the call ends without a message")
        except EtcdError as refusal:
            self._finish(refusal)
            self._leave()
            return
        if self._request is None:
            self._grant()
        else:
            self._run()

    def _take_message(self) -> bytes | None:
        """Return the next message; None: not all of it is here.

        Raises:
            EtcdError: it is too large or compressed.
        """
        buffer = self._buffer
        if len(buffer) < _HEAD_BYTES:
            return None
        size = int.from_bytes(buffer[1:_HEAD_BYTES], "big")
        if size > BYTES_MAX:
            raise EtcdError(
                Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {BYTES_MAX})"
            )
        if buffer[0]:
            encoding = self._metadata.get("grpc-encoding", "identity")
            raise EtcdError(
                Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"'
            )
        end = _HEAD_BYTES + size
        if len(buffer) < end:
            return None
        message = bytes(buffer[_HEAD_BYTES:end])
        del buffer[:end]
        self._connection.message_read(self.id)
        if self._method.kind is CallKind.BOTH:
            self.stay.give_back(end)
            self._connection.body_read(self.id, max(end - self._granted, 0))
            self._granted = max(self._granted - end, 0)
        return message

    def _grant(self) -> None:
        """Let the client send the rest of a message."""
        self._connection.body_read(self.id, len(self._buffer) - self._granted)
        self._granted = len(self._buffer)

    def _read(self, data: bytes) -> Any:
        try:
            return decode_untrusted(self._method.request, data)
        except ProtobufError as exc:
            raise EtcdError(Code.INTERNAL, f"grpc: error unmarshalling request: {exc}") from exc

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            message = self._take_message()
            while message is None:
                if self.ended:
                    return
                self._grant()
                self._readable = self._loop.create_future()
                await self._readable
                message = self._take_message()
            yield self._read(message)

    # ---- the handler -----------------------------------------------------------------------
    async def run(self) -> None:
        """Run the handler, and answer."""
        try:
            await self._serve()
        except Exception as exc:
            refusal = in_words_of_etcd(exc)
            if refusal is None:
                logger.exception("%s failed", self._method.path)
                refusal = EtcdError(Code.INTERNAL, "bondstone: this is a bug of the node")
            self._finish(refusal)

    async def _serve(self) -> None:
        method = self._method
        request = None if self._request is None else self._read(self._request)
        scope = {
            FIELDS: fields_of_call(self._head.fields),
            "extensions": self._seat.extensions,
            "state": {SENT_AFTER: self._sent_after, VOUCHED: [self._vouched]},
            "client": self._connection.client,
        }
        call: Call | Asking
        if method.access is None:
            call = Asking.of(scope)
        else:
            call = await self._door.admission.call(method, scope, self._metadata, self._deadline)
        if method.kind is CallKind.UNARY:
            body = framed(await self._handler(request, call))
            if not (self.answered or self.lost):
                self.answered = True
                self._connection.answer_call(self.id, _FIELDS, body, _DONE)
                while len(body) > UNSENT_BYTES_MAX and not self._connection.is_sent(self.id):
                    await self._until_sent()
            return
        self._begin_answer()
        requests = self._requests() if method.kind is CallKind.BOTH else request
        async with aclosing(self._handler(requests, call)) as answers:
            async for answer in answers:
                waiting = self._connection.send_piece(self.id, framed(answer))
                while waiting > UNSENT_BYTES_MAX:
                    await self._until_sent()
                    waiting = self._connection.unsent_bytes(self.id)
        self._finish(None)

    async def _until_sent(self) -> None:
        self._writable = self._loop.create_future()
        await self._writable

    def _begin_answer(self) -> None:
        self.answered = self._begun = True
        self._connection.begin_answer(self.id, _FIELDS)

    def _finish(self, refusal: EtcdError | None) -> None:
        """End the answer. Does nothing if it has ended, or nobody wants it."""
        if self.lost or (self.answered and not self._begun):
            return
        trailers = _DONE if refusal is None else trailers_of(refusal)
        if self._begun:
            self._begun = False
            self._connection.finish_answer(self.id, trailers)
        else:
            self.answered = True
            self._connection.answer_call(self.id, [*_FIELDS, *trailers], b"", None)

    def _stop_with(self, refusal: EtcdError) -> None:
        """End the call from outside its handler, which is cancelled."""
        self._finish(refusal)
        if self._task is None:
            self._leave()
        else:
            self._task.cancel()

    def _vouched(self, credential: bytes) -> None:
        self._seat.vouched(credential, self.stay)
        assert self._counted is not None
        if not self._door.calls.move(1, self._counted[0], credential):
            raise EtcdError(*TOO_MANY_REQUESTS)
        self._counted = (credential,)

    def _leave(self) -> None:
        """The call has ended: it has no task, or its task has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._counted is not None:
            self._door.calls.give_back(1, self._counted[0])
            self._counted = None
        self._connection.ended(self)
