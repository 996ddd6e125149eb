"""Over HTTP/2 too, no request outlives the memory of its key, though requests do not wait for each other.

Over HTTP/1.1 an answer proves that what follows it was sent later. Here the node asks for signs of life.
"""

import asyncio
import contextlib

import hpack
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from attestation.background import Background
from node.api.app import create_app
from node.api.http2_protocol import Http2Protocol
from node.api.limits import REPEATED_OF_TTL
from node.http2.frames import ACK, PREFACE, FrameCutter, Kind, frame_of, settings_frame
from node.places import Places, Room
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS
from tests.node.api.test_freshness import AGE_S, COMMAND, LIMITS, TTL_S, Group, Wire
from tests.node.http2.wire import block_frames, data

ROUND_TRIP_S = 0.05


class Connection:
    """A client whose requests the test delivers when it likes; ``signs``: it answers pings when it reads."""

    def __init__(self, group, *, signs=True):
        self._group, self._signs = group, signs
        config = Config(create_app(group, LIMITS, age_clock=group.clock), log_config=None)
        config.load()
        self.wire = Wire()
        self._protocol = Http2Protocol(
            config,
            ServerState(),
            limits=LIMITS,
            places=Places("connections", LIMITS.connections_max),
            room=Room("bodies", LIMITS.bodies_bytes_max),
            background=Background(),
            loop=asyncio.get_running_loop(),
            made_at=group.clock(),
            clock=group.clock,
        )
        self._protocol.connection_made(self.wire)
        self._encoder, self._decoder, self._reader = hpack.Encoder(), hpack.Decoder(), FrameCutter()
        self._next = 1
        self._protocol.data_received(PREFACE + settings_frame({}))

    def request(self, key):
        """Write a command; the test sends it."""
        fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/v1/commands"),
            (":authority", "localhost"),
            ("content-type", "application/json"),
            ("authorization", f"Bearer {TOKENS[AccessRole.WRITE]}"),
            ("idempotency-key", key),
        ]
        stream_id, self._next = self._next, self._next + 2
        return block_frames(stream_id, self._encoder.encode(fields), ends=False) + data(stream_id, COMMAND)

    async def arrives(self, request):
        """Deliver, let the node work, and return the statuses of its answers."""
        self._protocol.data_received(request)
        for _ in range(20):
            await asyncio.sleep(0)
        return self.read()

    def read(self):
        self._reader.receive_data(self.wire.written)
        self.wire.written = b""
        statuses, signs = [], b""
        while (frame := self._reader.next_frame_untrusted()) is not None:
            if frame.kind == Kind.HEADERS:
                statuses.append(int(dict(self._decoder.decode(frame.payload))[":status"]))
            if frame.kind == Kind.PING and not frame.flags & ACK and self._signs:
                signs += frame_of(Kind.PING, ACK, 0, frame.payload)
        if signs:
            self._group.clock.now += ROUND_TRIP_S
            self._protocol.data_received(signs)
        return statuses

    def look(self):
        self._protocol._timer.cancel()
        self._protocol._look()

    def end(self):
        self._protocol.connection_lost(None)


def play(scene):
    async def run():
        group = Group()
        with contextlib.ExitStack() as stack:

            def connect(**how):
                one = Connection(group, **how)
                stack.callback(one.end)
                return one

            await scene(group, connect)

    asyncio.run(run())


async def replay(group, connect):
    """Two requests are sent together. The network holds the second one back while the first is answered."""
    held = connect()
    first, second = held.request("other"), held.request("once")
    assert await held.arrives(first) == [200]
    group.clock.now += REPEATED_OF_TTL * TTL_S
    assert await connect().arrives(connect().request("once")) == [200]
    group.clock.now += TTL_S
    return await held.arrives(second)


def test_a_copy_that_the_network_held_back_behind_another_request_is_not_executed():
    async def scene(group, connect):
        assert await replay(group, connect) == [503]
        assert len(group.executed) == 2

    play(scene)


def test_it_would_be_if_an_answer_proved_as_much_as_over_http_1_1(monkeypatch):
    answer = Http2Protocol.answer

    def proves(self, *arguments, **more):
        self._in_touch_at = self._clock() + 2 * TTL_S
        return answer(self, *arguments, **more)

    monkeypatch.setattr(Http2Protocol, "answer", proves)

    async def scene(group, connect):
        assert await replay(group, connect) == [200]
        assert len(group.executed) == 3

    play(scene)


def test_a_connection_that_is_used_and_gives_signs_of_life_can_always_repeat_commands():
    async def scene(group, connect):
        one = connect()
        for number in range(60):
            assert await one.arrives(one.request(f"key-{number}")) == [200]
            group.clock.now += LIMITS.idle_s_max / 2
            if number % 2:
                one.look()
                one.read()

    play(scene)


def test_a_client_that_reads_only_while_it_waits_can_too():
    """httpx without threads: what the node sent meanwhile is answered behind the next request."""

    async def scene(group, connect):
        one = connect()
        for number in range(20):
            assert await one.arrives(one.request(f"key-{number}")) == [200]
            for _ in range(3):
                group.clock.now += LIMITS.idle_s_max / 3
                one.look()

    play(scene)


@pytest.mark.parametrize(("age_s", "status"), [(AGE_S - 0.01, 200), (AGE_S, 503)])
def test_without_a_sign_of_life_only_the_beginning_of_the_connection_counts(age_s, status):
    async def scene(group, connect):
        one = connect(signs=False)
        assert await one.arrives(one.request("first")) == [200]
        group.clock.now += age_s
        assert await one.arrives(one.request("second")) == [status]

    play(scene)


def test_an_answer_to_a_ping_that_was_never_sent_proves_nothing():
    async def scene(group, connect):
        one = connect(signs=False)
        group.clock.now += AGE_S
        await one.arrives(b"")
        forged = b"".join(frame_of(Kind.PING, ACK, 0, n.to_bytes(8, "big")) for n in (0, 2, 3, 2**63))
        assert await one.arrives(forged + one.request("key")) == [503]

    play(scene)


def test_a_sign_of_life_counts_from_when_it_was_asked_for():
    async def scene(group, connect):
        one = connect(signs=False)
        group.clock.now += AGE_S / 2
        one.look()  # asks
        group.clock.now += AGE_S - 0.01
        sign = frame_of(Kind.PING, ACK, 0, (1).to_bytes(8, "big"))
        assert await one.arrives(sign + one.request("in-time")) == [200]
        group.clock.now += 0.02
        assert await one.arrives(one.request("too-late")) == [503]

    play(scene)


def test_pings_that_nobody_answers_are_few():
    async def scene(group, connect):
        one = connect(signs=False)
        reader, pings = FrameCutter(), 0
        for _ in range(20):
            group.clock.now += AGE_S
            one.look()
        reader.receive_data(one.wire.written)
        while (frame := reader.next_frame_untrusted()) is not None:
            pings += frame.kind == Kind.PING
        assert pings == 4

    play(scene)
