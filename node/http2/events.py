"""What a connection reports to its driver."""

from msgspec import Struct

from node.http2.fields import Http2Request


class RequestBegun(Struct, frozen=True, gc=False):
    """A request begins; ``ended``: it has no body."""

    stream_id: int
    head: Http2Request
    ended: bool


class BodyReceived(Struct, frozen=True, gc=False):
    """The next bytes of a request's body; ``ended``: the last ones."""

    stream_id: int
    data: bytes
    ended: bool


class RequestRefused(Struct, frozen=True, gc=False):
    """What arrives on a stream is no request, or too much of one. The driver answers it with a problem.

    Attributes:
        code: ``http-invalid``, ``head-too-large`` or ``body-too-large``.
        detail: one sentence for people.
    """

    stream_id: int
    code: str
    detail: str


class StreamReset(Struct, frozen=True, gc=False):
    """The client takes its request back. It counts until its handler has ended."""

    stream_id: int


class PingAnswered(Struct, frozen=True, gc=False):
    """The client has answered the ping with this number: what follows was sent after it was received."""

    number: int


class ConnectionEnded(Struct, frozen=True, gc=False):
    """Nothing further is read. What ``data_to_send`` returns now is the last."""

    reason: str
    detail: str


Event = RequestBegun | BodyReceived | RequestRefused | StreamReset | PingAnswered | ConnectionEnded
