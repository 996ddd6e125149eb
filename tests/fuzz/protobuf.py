"""Protocol Buffers of etcd's API against another implementation: ``python -m tests.fuzz.protobuf SECONDS [SEED]``.

Messages are made at random and damaged. What is held: what this implementation takes, the other one
takes too, and sees the same in it, and this one refuses no more than ``STRICTER``; nothing but ``ProtobufError`` ever comes out; what was read is written and read again alike.
"""

import random
import sys
import time

from google.protobuf.message import DecodeError

from node.etcd.protobuf import ProtobufError, decode_untrusted, encode
from tests.node.etcd.test_protobuf import ALL, PEERS, random_message

# The other one skips some fields whose number is 0, or beyond what a number may be.
STRICTER = {"a field has no number", "a field has a number beyond 2**29 - 1"}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with some of them changed, added or taken away; lengths then lie."""
    out = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at:at] = rng.randbytes(rng.randint(1, 4))
            case 1 if at < len(out):
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                out[at:at] = out[: rng.randint(0, 40)]
            case _:
                del out[at : at + rng.randint(1, 4)]
    return bytes(out)


def one(rng: random.Random) -> None:
    """Compare the two implementations once."""
    cls = rng.choice(ALL)
    data = damaged(rng, encode(random_message(rng, cls)))
    peer = PEERS[cls.__name__]()
    try:
        peer.MergeFromString(data)
    except DecodeError:
        try:
            decode_untrusted(cls, data)
        except ProtobufError:
            return
        raise AssertionError(f"{cls.__name__}: only the other one refuses {data.hex()}") from None
    peer.DiscardUnknownFields()
    try:
        mine = decode_untrusted(cls, data)
    except ProtobufError as exc:
        if str(exc) in STRICTER:
            return
        raise AssertionError(f"{cls.__name__}: only this one refuses {data.hex()}") from exc
    written = encode(mine)
    assert written == peer.SerializeToString(deterministic=True), f"{cls.__name__}: {data.hex()}"
    assert decode_untrusted(cls, written) == mine


def main() -> None:
    until = time.monotonic() + float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, count = random.Random(seed), 0
    while time.monotonic() < until:
        one(rng)
        count += 1
    print(f"seed {seed}: {count} messages")


if __name__ == "__main__":
    main()
