"""What is kept of an executed entry's results, for a caller that asks again with its idempotency key.

Small results are kept whole, in few bytes. Of large results only their digest and size are kept. A refusal is
always kept: otherwise a copy would be answered as executed. Every node keeps the same.
"""

import hashlib
from typing import Final

import msgspec

from attestation.encoding.canonical import encode
from node.raft.types import BATCH_ABORTED, AlreadyExecuted, Applied, Cursor, Failed, Ok, Result

# About how many bytes the results of one entry may take to be kept whole.
WHOLE_BYTES_MAX: Final = 4096
REFUSAL_CHARS_MAX: Final = 512  # of its message, when it is kept
DIGEST_BYTES: Final = 32
_SIZE_BYTES: Final = 4

# The first byte of what is kept: whether it is the values, a refusal, or only digest and size.
BRIEF: Final = 2
_WHOLE, _REFUSED, _BRIEF = b"\x00", b"\x01", bytes((BRIEF,))
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


def keep(results: tuple[Result, ...], size: int, *, whole: bool) -> bytes:
    """Return what to keep of ``results``, which take about ``size`` bytes; ``whole``: keep them if small."""
    if whole and size <= WHOLE_BYTES_MAX and len(results) == 1 and type(results[0]) is Applied:
        return _whole([results[0].value])  # nearly all results
    refused = [(sub, result) for sub, result in enumerate(results) if type(result) is Failed]
    if refused:
        sub, cause = next((one for one in refused if one[1].code != BATCH_ABORTED), refused[0])
        message = cause.message[: REFUSAL_CHARS_MAX if whole else 0]
        return _REFUSED + _pack([sub, len(results), cause.code, message])
    values = [result.value for result in results if type(result) is Applied]
    return _whole(values) if whole and size <= WHOLE_BYTES_MAX else _brief(values)


def _whole(values: list[object]) -> bytes:
    try:
        return _WHOLE + _pack(values)
    except OverflowError:  # an integer of more than 64 bits
        return _brief(values)


def _brief(values: list[object]) -> bytes:
    encoded = encode(values)
    return _BRIEF + hashlib.sha256(encoded).digest() + len(encoded).to_bytes(_SIZE_BYTES)


def outcome_of(kept: bytes, at: Cursor) -> Ok | AlreadyExecuted:
    """Return the outcome of the entry at ``at``, of which ``keep`` returned ``kept``."""
    form, rest = kept[:1], kept[1:]
    if form == _WHOLE:
        return Ok(tuple(map(Applied, _unpack(rest))), at)
    if form == _REFUSED:
        sub, count, code, message = _unpack(rest)
        return Ok(aborted(count, sub, Failed(code, message)), at)
    return AlreadyExecuted(at, rest[:DIGEST_BYTES], int.from_bytes(rest[DIGEST_BYTES:]))


def aborted(count: int, sub: int, cause: Failed) -> tuple[Failed, ...]:
    """Return the results of ``count`` commands. The one at ``sub`` was refused, so no command took effect."""
    other = Failed(BATCH_ABORTED, f"command {sub} of the batch was refused")
    return tuple(cause if position == sub else other for position in range(count))
