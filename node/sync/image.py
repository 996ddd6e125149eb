"""The bytes of a state: frames, cut into chunks of equal size.

    frame   section (1 byte) || length (8 bytes, big-endian) || deterministic CBOR of a plain value

Sections come in ascending order. What a state's parts freeze decides the frames, and so the chunks: equal
states give equal chunks on every member.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.errors import MalformedError
from node.sync.merkle import leaf_of
from node.sync.packing import Chunks

_LENGTH_BYTES: Final = 8
HEAD_BYTES: Final = 1 + _LENGTH_BYTES


class NotAnImageError(ValueError):
    """These bytes are not the image of a state."""


def frame(section: int, value: Any) -> bytes:
    """Return the frame of one plain value.

    Raises:
        NotAnImageError: it could not be read back, such as a float, or a map whose keys are not text. No log
            may be cut behind it.
        Exception: of any kind: it could not even be encoded.
    """
    body = encode(value)
    _decode(body)
    return bytes((section,)) + len(body).to_bytes(_LENGTH_BYTES) + body


def frame_length(head: bytes) -> int:
    """Return the length of the frame that begins with these ``HEAD_BYTES`` bytes, in bytes, with them."""
    return HEAD_BYTES + int.from_bytes(head[1:HEAD_BYTES])


class Cutter:
    """Cuts frames into chunks.

    Args:
        chunk_bytes: of every chunk but the last.

    Attributes:
        chunks: those that are complete.
        leaves: of each chunk.
        size: of all frames until now, in bytes.
    """

    def __init__(self, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self.chunks = Chunks()
        self.leaves: list[bytes] = []
        self.size = 0
        self._rest = bytearray()

    @property
    def memory_bytes(self) -> int:
        """How many bytes it takes in memory."""
        return self.chunks.memory_bytes + len(self._rest)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) == self.chunk_bytes and not self._rest:
            self._cut(data)  # a chunk of a snapshot that was fetched
            return
        self._rest += data
        while len(self._rest) >= self.chunk_bytes:
            self._cut(bytes(self._rest[: self.chunk_bytes]))
            del self._rest[: self.chunk_bytes]

    def end(self) -> None:
        """Cut off the last chunk."""
        if self._rest:
            self._cut(bytes(self._rest))
            self._rest.clear()

    def _cut(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.leaves.append(leaf_of(chunk))


def read_frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield section and value of each frame, and take from ``chunks`` no more than it needs.

    The chunks are proven against what a quorum of the group agreed on, so no limit but that on the size of
    the whole applies here.

    Raises:
        NotAnImageError: they are not the chunks of an image.
    """
    held = bytearray()
    section = 0
    for chunk in chunks:
        held += chunk
        start = 0
        while len(held) - start >= HEAD_BYTES:
            end = start + frame_length(bytes(held[start : start + HEAD_BYTES]))
            if end > len(held):
                break
            if held[start] < section:
                raise NotAnImageError("sections go back")
            section = held[start]
            yield section, _decode(bytes(held[start + HEAD_BYTES : end]))
            start = end
        del held[:start]
    if held:
        raise NotAnImageError("the last frame is cut off")


def _decode(body: bytes) -> Any:
    try:
        return decode_untrusted(body, bytes_max=len(body), items_max=len(body))
    except MalformedError as exc:
        raise NotAnImageError(str(exc)) from exc
