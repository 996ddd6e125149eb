"""Frames of RFC 9113 4 and 6: cut from what a client sends, and written for it."""

from enum import IntEnum, IntFlag
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from node.http2.errors import ConnectionFaultError, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# SETTINGS_MAX_FRAME_SIZE at its initial value, which this server leaves as it is, in both directions.
PAYLOAD_BYTES_MAX: Final = 16384
WINDOW_MAX: Final = 2**31 - 1
_HEAD: Final = Layout(">HBBBI")  # length in 24 bits, type, flags, a reserved bit and the stream in 31
_HEAD_BYTES: Final = 9
_ID: Final = 0x7FFFFFFF
_WORD: Final = Layout(">I")
_SETTING: Final = Layout(">HI")


class Kind(IntEnum):
    """Types of frames. All others are ignored, and cost what they cost."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


class Flag(IntFlag):
    """Flags of frames: some bits have another meaning in another type."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """Settings that this server reads or sends."""

    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


# As plain numbers for the code that looks at each frame: members of an IntFlag are slow to combine.
END_STREAM: Final = int(Flag.END_STREAM)
END_HEADERS: Final = int(Flag.END_HEADERS)
PADDED: Final = int(Flag.PADDED)
PRIORITY: Final = int(Flag.PRIORITY)
ACK: Final = int(Flag.ACK)


class Frame(Struct, frozen=True, gc=False):
    """One frame; ``kind`` may be a number that is no ``Kind``."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def invalid(detail: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> ConnectionFaultError:
    """Return the fault of a frame that RFC 9113 does not allow."""
    return ConnectionFaultError(code, "frame-invalid", detail)


class FrameCutter:
    """Cuts bytes into frames. Holds one frame at most beyond what it was given last."""

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the connection."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    @property
    def begun(self) -> int | None:
        """The type of a frame received in part (PING while its type is missing); None: there is none."""
        left = len(self._buffer) - self._at
        if left == 0:
            return None
        return self._buffer[self._at + 3] if left > 3 else Kind.PING

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame, or one that is too large, is there."""
        left = len(self._buffer) - self._at - _HEAD_BYTES
        length = int.from_bytes(self._buffer[self._at : self._at + 3], "big")
        return left >= 0 and (length <= left or length > PAYLOAD_BYTES_MAX)

    def take(self, expected: bytes) -> bool:
        """Take these bytes, which must come next; False: not all of them are here yet.

        Raises:
            ConnectionFaultError: others come.
        """
        have = self._buffer[self._at : self._at + len(expected)]
        if not expected.startswith(have):
            raise ConnectionFaultError(
                ErrorCode.PROTOCOL_ERROR, "preface-invalid", "this is not the beginning of HTTP/2"
            )
        if len(have) < len(expected):
            return False
        self._at += len(expected)
        return True

    def next_frame_untrusted(self) -> Frame | None:
        """Return the next frame, or None if more bytes are needed first.

        Raises:
            ConnectionFaultError: it announces more bytes than a frame may have; none of them is kept.
        """
        buffer, at = self._buffer, self._at
        if len(buffer) - at < _HEAD_BYTES:
            return None
        high, low, kind, flags, stream_id = _HEAD.unpack_from(buffer, at)
        length = high << 8 | low
        if length > PAYLOAD_BYTES_MAX:
            raise ConnectionFaultError(
                ErrorCode.FRAME_SIZE_ERROR,
                "frame-too-large",
                f"a frame has at most {PAYLOAD_BYTES_MAX} bytes",
            )
        start = at + _HEAD_BYTES
        if len(buffer) - start < length:
            return None
        self._at = start + length
        return Frame(kind, flags, stream_id & _ID, buffer[start : start + length])


def unpadded(frame: Frame) -> bytes:
    """Return what a frame carries without its padding (RFC 9113 6.1).

    Raises:
        ConnectionFaultError: the padding is longer than the frame.
    """
    payload = frame.payload
    if not frame.flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise invalid("the padding of a frame is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def frame_of(kind: Kind, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    length = len(payload)
    assert length <= PAYLOAD_BYTES_MAX, "the caller cuts"
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(_SETTING.pack(name, value) for name, value in settings.items())
    return frame_of(Kind.SETTINGS, 0, 0, payload)


def read_settings_untrusted(payload: bytes, entries_max: int) -> dict[int, int]:
    """Return the settings of a frame: of a repeated one the last value, unknown ones too (RFC 9113 6.5).

    Raises:
        ConnectionFaultError: it is not a list of settings, a value is impossible, or there are too many.
    """
    if len(payload) % _SETTING.size:
        raise invalid("a SETTINGS frame has six bytes for each setting", ErrorCode.FRAME_SIZE_ERROR)
    if len(payload) > entries_max * _SETTING.size:
        raise ConnectionFaultError(
            ErrorCode.ENHANCE_YOUR_CALM,
            "frame-flood",
            f"a SETTINGS frame has at most {entries_max} settings",
        )
    settings = dict(_SETTING.iter_unpack(payload))
    if settings.get(Setting.ENABLE_PUSH, 0) > 1:
        raise invalid("ENABLE_PUSH is 0 or 1")
    if settings.get(Setting.INITIAL_WINDOW_SIZE, 0) > WINDOW_MAX:
        raise invalid(f"a window has at most {WINDOW_MAX} bytes", ErrorCode.FLOW_CONTROL_ERROR)
    if not PAYLOAD_BYTES_MAX <= settings.get(Setting.MAX_FRAME_SIZE, PAYLOAD_BYTES_MAX) < 2**24:
        raise invalid("MAX_FRAME_SIZE is out of its range")
    return settings


def reset_frame(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return frame_of(Kind.RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_frame(stream_id: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame_of(Kind.WINDOW_UPDATE, 0, stream_id, _WORD.pack(size))


def goaway_frame(last_id: int, code: ErrorCode, reason: str) -> bytes:
    """Return a GOAWAY frame with the reason as debug data."""
    return frame_of(Kind.GOAWAY, 0, 0, _WORD.pack(last_id) + _WORD.pack(code) + reason.encode("ascii"))


def word_of(frame: Frame) -> int:
    """Return the one number in 32 bits that a frame carries.

    Raises:
        ConnectionFaultError: the frame has another size.
    """
    if len(frame.payload) != _WORD.size:
        raise invalid("this frame has four bytes", ErrorCode.FRAME_SIZE_ERROR)
    number: int = _WORD.unpack(frame.payload)[0]
    return number
