"""What ends a connection, and what refuses one request."""

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113 7, those that this server sends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFaultError(Exception):
    """Nothing further on this connection is read.

    Args:
        code: for the GOAWAY frame.
        reason: a stable kebab-case code, which the GOAWAY frame carries as its debug data.
        detail: one sentence for people.
    """

    def __init__(self, code: ErrorCode, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail


class BadFieldsError(Exception):
    """These fields are no request with exactly one reading, or too many for one."""

    def __init__(self, detail: str, code: str = "http-invalid") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class HeadTooLargeError(Exception):
    """A header block was given up halfway: the compression of the connection cannot go on."""
