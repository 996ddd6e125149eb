"""HTTP/2 against another implementation (python-hyper's h2): ``python -m tests.fuzz.http2 SECONDS [SEED]``.

Both read the same bytes of a client: well-formed conversations, and such that were damaged. What is held:

* Of a well-formed conversation both see the same requests, with the same bodies.
* Of a damaged one, every request that this server takes as whole, the other one takes too, and sees the same in
  it, as long as it goes on. The other way round is not asked for: this server refuses more.
* What the other one gives a connection up for, this one does not overlook.
* In whatever pieces the bytes come, the events are the same, and so is what is sent.
* The other side, as a client, reads the answers as they were given.
* Nothing but events ever comes out, and no conversation leaves more behind than its limits allow.
"""

import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack

from node.http2.connection import ServerConnection
from node.http2.events import BodyReceived, ConnectionEnded, Event, RequestBegun, RequestRefused
from node.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PAYLOAD_BYTES_MAX,
    PREFACE,
    Kind,
    Setting,
    frame_of,
    settings_frame,
)
from node.http2.limits import Http2Limits

# Wide where the other implementation has no limit: what is compared is the reading.
LIMITS = Http2Limits(
    head_bytes_max=32 * 1024,
    fields_max=100,
    body_frames_max=4096,
    discard_bytes_max=2**25,
    ration=10**6,
    streams_max=100,
)
BODY_BYTES_MAX = 40_000
CONVERSATION_S_MAX = 5.0
Fields = list[tuple[bytes, bytes]]


@dataclass
class Whole:
    """A request that came whole."""

    fields: Fields
    body: bytes


@dataclass
class Seen:
    """What one side has seen: whole requests by stream, and whether it has given the connection up."""

    begun: dict[int, Fields] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    whole: dict[int, Whole] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    ended: bool = False
    taken: int = 0  # bytes in front of those for which the connection was given up

    def end(self, stream_id: int) -> None:
        if stream_id in self.begun:
            self.whole[stream_id] = Whole(self.begun[stream_id], self.bodies[stream_id])


# ---- a client ------------------------------------------------------------------------------
class Talk:
    """Writes a conversation of a client, frame by frame."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.frames = [PREFACE, settings_frame(self._settings())]
        self._encoder = hpack.Encoder()
        self._open: dict[int, int] = {}  # streams whose body goes on: bytes left
        self._next = 1

    def _settings(self) -> dict[Setting, int]:
        rng = self.rng
        chosen = {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: rng.choice([0, 1, 1000, 65535, 2**20]),
            Setting.MAX_FRAME_SIZE: rng.choice([16384, 2**20]),
        }
        return {name: value for name, value in chosen.items() if rng.random() < 0.5}

    def write(self, steps: int) -> list[bytes]:
        for _ in range(steps):
            step = self.rng.choices(
                [self._request, self._body, self._other], weights=[3, 4 if self._open else 0, 2]
            )[0]
            step()
        while self._open:
            self._body()
        return self.frames

    def _fields(self, body_bytes: int | None) -> Fields:
        rng = self.rng
        method = b"GET" if body_bytes is None else b"POST"
        pseudo = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":path", rng.choice([b"/", b"/v1/commands", b"/a?b=%20", b"/x" * rng.randrange(1, 300)])),
            (b":authority", rng.choice([b"a", b"localhost:8440", b"[::1]:1"])),
        ]
        rng.shuffle(pseudo)
        fields = [
            (
                rng.choice([b"a", b"x-y", b"accept", b"te!"]),
                bytes(rng.choices(b"abc ~\xff", k=rng.randrange(9))).strip(),
            )
            for _ in range(rng.randrange(6))
        ]
        if body_bytes is not None and rng.random() < 0.5:
            fields.append((b"content-length", b"%d" % body_bytes))
        if rng.random() < 0.2:
            fields.append((b"x-long", b"y" * rng.randrange(20_000)))
        return [*pseudo, *fields]

    def _request(self) -> None:
        rng, stream_id = self.rng, self._next
        self._next += 2 * rng.choice([1, 1, 1, 5])
        size = None if rng.random() < 0.4 else rng.choice([0, 1, 100, rng.randrange(BODY_BYTES_MAX)])
        fields = [
            hpack.HeaderTuple(*one) if rng.random() < 0.7 else hpack.NeverIndexedHeaderTuple(*one)
            for one in self._fields(size)
        ]
        if rng.random() < 0.1:
            self._encoder.header_table_size = rng.choice([0, 100, 4096])
        block = self._encoder.encode(fields, huffman=rng.random() < 0.7)
        self._block(stream_id, block, ends=size is None)
        if size is not None:
            self._open[stream_id] = size

    def _block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        rng = self.rng
        cuts = sorted(
            {0, len(block), *(rng.randrange(len(block) + 1) for _ in range(rng.choice([0, 0, 1, 3])))}
        )
        parts = [block[start:end] for start, end in pairwise(cuts)]
        parts = [part[at : at + 16000] for part in parts for at in range(0, len(part), 16000)] or [b""]
        flags = (END_STREAM if ends else 0) | (END_HEADERS if len(parts) == 1 else 0)
        first, padding = parts[0], rng.choice([None, None, 0, 7])
        if padding is not None:
            flags, first = flags | PADDED, bytes([padding]) + first + bytes(padding)
        frames = [frame_of(Kind.HEADERS, flags, stream_id, first)]
        frames += [
            frame_of(Kind.CONTINUATION, 0 if left else END_HEADERS, stream_id, part)
            for left, part in zip(reversed(range(len(parts) - 1)), parts[1:], strict=True)
        ]
        self.frames.append(b"".join(frames))

    def _body(self) -> None:
        rng = self.rng
        stream_id = rng.choice(list(self._open))
        left = self._open[stream_id]
        size = min(left, rng.choice([0, 1, 500, 16000]))
        ends = size == left and (size > 0 or rng.random() < 0.5)
        payload, flags = rng.randbytes(size), END_STREAM if ends else 0
        if rng.random() < 0.2:
            padding = rng.choice([0, 1, 255])
            payload, flags = bytes([padding]) + payload + bytes(padding), flags | PADDED
        self.frames.append(frame_of(Kind.DATA, flags, stream_id, payload))
        self._open[stream_id] -= size
        if ends:
            del self._open[stream_id]

    def _other(self) -> None:
        rng = self.rng
        used = rng.randrange(1, self._next + 1) | 1
        self.frames.append(
            rng.choice(
                [
                    frame_of(Kind.PING, 0, 0, rng.randbytes(8)),
                    frame_of(Kind.WINDOW_UPDATE, 0, 0, rng.randrange(1, 5000).to_bytes(4, "big")),
                    frame_of(Kind.PRIORITY, 0, self._next + 100, (used + 200).to_bytes(4, "big") + b"\x01"),
                    settings_frame(self._settings()),
                    b"\x00\x00\x03" + bytes([rng.randrange(16, 256), 255]) + used.to_bytes(4, "big") + b"abc",
                ]
            )
        )


def damaged(rng: random.Random, frames: list[bytes]) -> bytes:
    """Return a conversation in which something is wrong."""
    frames = list(frames)
    at = rng.randrange(1, len(frames))
    match rng.randrange(6):
        case 0:
            frames[at] = bytes(byte ^ (rng.random() < 0.02) * rng.randrange(256) for byte in frames[at])
        case 1:
            del frames[at]
        case 2:
            frames.insert(at, rng.choice(frames[1:]))
        case 3:
            frames[at] = frames[at][: rng.randrange(len(frames[at]) + 1)]
        case 4:
            other = rng.randrange(1, len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        case _:
            one = bytearray(frames[at])
            one[rng.randrange(min(9, len(one)))] ^= 1 << rng.randrange(8)
            frames[at] = bytes(one)
    return b"".join(frames)


# ---- both sides -------------------------------------------------------------------------------
def ours(data: bytes, step: int) -> tuple[Seen, list[Event], bytes]:
    """Return what this server sees in these bytes, its events, and what it sends."""
    core, seen = ServerConnection(LIMITS, 0.0), Seen()
    events: list[Event] = []
    for start in range(0, len(data), step):
        core.receive_data(data[start : start + step])
        more = True
        while more:
            for event in core.next_events_untrusted(0.0):
                events.append(event)
                _note(core, seen, event)
            more = core.work_left
        assert len(core._streams) <= LIMITS.streams_max
    sent = core.data_to_send(2**30)
    return seen, events, sent


def _note(core: ServerConnection, seen: Seen, event: Event) -> None:
    match event:
        case RequestBegun(stream_id, head, ended):
            seen.begun[stream_id] = [
                (b":method", head.method),
                (b":path", head.target),
                (b":authority", head.fields[0][1]),
                *head.fields[1:],
            ]
            if ended:
                seen.end(stream_id)
        case BodyReceived(stream_id, data, ended):
            seen.bodies[stream_id] += data
            core.body_read(stream_id, len(data))
            if ended:
                seen.end(stream_id)
        case RequestRefused(stream_id):
            seen.refused.add(stream_id)
        case ConnectionEnded():
            seen.ended = True
        case _:
            pass


def theirs(data: bytes) -> Seen:
    """Return what the other implementation sees, up to the first bytes that it does not take."""
    other = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    other.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: LIMITS.streams_max,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LIMITS.stream_window,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: LIMITS.head_bytes_max,
        },
    )
    other.initiate_connection()
    other.increment_flow_control_window(LIMITS.connection_window - 65535)
    seen = Seen()
    for piece in pieces_of(data):
        try:
            events = other.receive_data(piece)
        except (h2.exceptions.H2Error, hpack.HPACKError, ValueError, KeyError, IndexError):
            seen.ended = True
            return seen
        seen.taken += len(piece)
        for event in events:
            _note_theirs(other, seen, event)
    return seen


def _note_theirs(other: h2.connection.H2Connection, seen: Seen, event: h2.events.Event) -> None:
    match event:
        case h2.events.RequestReceived():
            assert event.stream_id is not None
            fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            pseudo = dict(fields)
            order = (b":method", b":path", b":authority")
            seen.begun[event.stream_id] = [
                *((name, pseudo.get(name, b"")) for name in order),
                *(one for one in fields if not one[0].startswith(b":") and one[0] != b"host"),
            ]
        case h2.events.DataReceived():
            assert event.stream_id is not None
            seen.bodies[event.stream_id] += event.data or b""
            if event.flow_controlled_length:
                other.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        case h2.events.StreamEnded():
            assert event.stream_id is not None
            seen.end(event.stream_id)
        case _:
            pass


def pieces_of(data: bytes) -> list[bytes]:
    """Return the whole frames, so that a fault in one does not take the events of those before it."""
    pieces, at = [data[: len(PREFACE)]], len(PREFACE)
    while at + 9 <= len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        end = at + 9 + length
        if end > len(data) and length <= PAYLOAD_BYTES_MAX:
            break  # the rest of it never comes
        pieces.append(data[at:end])
        at = end
    return pieces


# ---- what is held -----------------------------------------------------------------------------
def hold(seed: int) -> None:
    """Hold one conversation, its damaged form, and the answers to it.

    Raises:
        AssertionError: something of this module's documentation is not so.
    """
    rng = random.Random(seed)
    frames = Talk(rng).write(rng.randrange(1, 25))
    good = b"".join(frames)
    seen, _, _ = ours(good, len(good))
    other = theirs(good)
    assert not seen.ended, (seed, "a good conversation was given up")
    assert not seen.refused, (seed, "a good request was refused")
    assert not other.ended, (seed, "the other side gives a good conversation up")
    assert seen.whole == other.whole, (seed, "they see different requests")

    bad = damaged(rng, frames)
    start = time.process_time()
    seen, events, sent = ours(bad, len(bad))
    assert time.process_time() - start < CONVERSATION_S_MAX, (seed, "too slow")
    pieces = ours(bad, rng.choice([1, 2, 9, 100]))
    assert pieces[1:] == (events, sent), (seed, "pieces make a difference")
    other = theirs(bad)
    assert not other.ended or seen.ended or seen.refused, (seed, "the other side alone objects")
    until = bad[: other.taken] if other.ended else bad
    for stream_id, request in ours(until, len(until))[0].whole.items():
        assert stream_id in other.whole, (seed, stream_id, "a request that the other side does not see")
        assert other.whole[stream_id] == request, (seed, stream_id, request, other.whole[stream_id])
    _hold_answers(rng, seed)


def _hold_answers(rng: random.Random, seed: int) -> None:
    """The other side, as a client, asks; the answers arrive as they were given."""
    core = ServerConnection(LIMITS, 0.0)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.local_settings = h2.settings.Settings(
        client=True,
        initial_values={
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: rng.choice([5000, 65535, 2**20]),
            h2.settings.SettingCodes.HEADER_TABLE_SIZE: rng.choice([0, 4096]),
        },
    )
    client.initiate_connection()
    given: dict[int, tuple[Fields, bytes]] = {}
    got: dict[int, tuple[Fields, bytes]] = {}
    head = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")]
    for stream_id in range(1, 2 * rng.randrange(2, 12), 2):
        client.send_headers(stream_id, head, end_stream=True)
    for _ in range(5000):
        core.receive_data(client.data_to_send())
        for begun in core.next_events_untrusted(0.0):
            assert isinstance(begun, RequestBegun), (seed, begun)
            body = rng.randbytes(rng.choice([0, 1, 5000, 100_000]))
            fields = [(b"content-length", b"%d" % len(body)), (b"x", rng.choice([b"", b"\xff", b"y" * 100]))]
            given[begun.stream_id] = [(b":status", b"200"), *fields], body
            core.answer(begun.stream_id, 200, fields, body)
            core.handler_ended(begun.stream_id)
        for event in client.receive_data(core.data_to_send(rng.choice([1, 20_000, 2**30]))):
            if isinstance(event, h2.events.ResponseReceived):
                assert event.stream_id is not None
                got[event.stream_id] = [(bytes(n), bytes(v)) for n, v in event.headers or ()], b""
            elif isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                assert event.data is not None
                fields, body = got[event.stream_id]
                got[event.stream_id] = fields, body + event.data
                client.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        if got == given and len(core._streams) == 0:
            return
    raise AssertionError((seed, "the answers do not arrive"))


def main(arguments: list[str]) -> int:
    if len(arguments) not in {1, 2} or not all(one.isdigit() for one in arguments):
        print("usage: python -m tests.fuzz.http2 SECONDS [SEED]", file=sys.stderr)
        return 2
    first = int(arguments[1]) if len(arguments) == 2 else random.randrange(2**32)
    until, seed = time.monotonic() + int(arguments[0]), first
    while time.monotonic() < until:
        hold(seed)
        seed += 1
    print(f"{seed - first} conversations from seed {first}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
