"""One connection as RFC 9113 describes it: its beginning, requests, answers, windows, its end."""

import random
from dataclasses import replace

import h2.config
import h2.connection
import h2.events
import pytest

from node.http2.connection import ServerConnection
from node.http2.errors import ErrorCode
from node.http2.events import (
    BodyReceived,
    ConnectionEnded,
    PingAnswered,
    RequestBegun,
    RequestRefused,
    StreamReset,
)
from node.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PAYLOAD_BYTES_MAX,
    PREFACE,
    PRIORITY,
    Kind,
    Setting,
    frame_of,
    settings_frame,
)
from tests.node.http2.wire import (
    ACK,
    GET,
    LIMITS,
    POST,
    START,
    Client,
    block_frames,
    data,
    goaway,
    ping,
    priority,
    raw,
    rst,
    window,
    word,
)


def kinds(frames):
    return [frame.kind for frame in frames]


# ---- the beginning ---------------------------------------------------------------------------
def test_the_server_states_its_limits_first_and_acknowledges_the_clients_settings():
    client = Client()
    settings, update, ack = client.frames

    assert settings.payload == (
        b"\x00\x03" + word(100) + b"\x00\x04" + word(256 * 1024) + b"\x00\x06" + word(32 * 1024)
    )
    assert update.payload == word(LIMITS.connection_window - 65535)
    assert (ack.kind, ack.flags, ack.payload) == (Kind.SETTINGS, ACK, b"")


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        PREFACE[:-1] + b"x",
        PREFACE + ping(),
        PREFACE + frame_of(Kind.SETTINGS, ACK, 0),
    ],
)
def test_what_begins_otherwise_is_not_http_2(start):
    assert Client(start=start).reason == "preface-invalid"


@pytest.mark.parametrize("step", [1, 7, 100])
def test_bytes_mean_the_same_in_whatever_pieces_they_come(step):
    whole, pieces = Client(start=b""), Client(start=b"")
    stream = START + Client().head(1, POST, ends=False) + data(1, b"abc", ends=False) + data(1, b"d") + ping()
    stream += data(1, b"behind the end")
    events = []
    for start in range(0, len(stream), step):
        events += pieces.send(stream[start : start + step])

    assert events == whole.send(stream)
    assert pieces.frames == whole.frames


# ---- requests ---------------------------------------------------------------------------------
def test_a_request_without_a_body_has_ended_with_its_head():
    (begun,) = Client().get(1, ("x", "y"))

    assert (begun.stream_id, begun.ended) == (1, True)
    assert (begun.head.method, begun.head.target) == (b"GET", b"/healthz")
    assert begun.head.fields == [(b"host", b"localhost:8440"), (b"x", b"y")]


def test_a_head_without_fields_is_refused_first_and_later():
    client = Client()
    for stream_id in (1, 3):
        (refused,) = client.send(block_frames(stream_id, b""))
        assert isinstance(refused, RequestRefused)
    client.get(5)
    (refused,) = client.send(block_frames(7, b""))
    assert isinstance(refused, RequestRefused)


def test_a_repeated_head_is_the_same_request_and_another_is_another():
    client = Client()
    (first,) = client.get(1, ("x", "y"))
    (again,) = client.get(3, ("x", "y"))
    (other,) = client.get(5, ("x", "z"))
    (refused,) = client.get(7, ("Upper", "x"))
    (after,) = client.get(9, ("x", "z"))

    assert again.head is first.head
    assert other.head.fields[-1] == (b"x", b"z")
    assert isinstance(refused, RequestRefused)
    assert after.head is other.head


def test_a_head_may_come_in_pieces_with_padding_and_a_priority():
    client = Client()
    block = client.block([*GET, ("x", "y" * 300)])
    first = b"\x03" + word(0) + b"\x10" + block[:10] + b"\x00" * 3
    (begun,) = client.send(
        raw(Kind.HEADERS, PADDED | PRIORITY | END_STREAM, 1, first),
        frame_of(Kind.CONTINUATION, 0, 1, block[10:20]),
        frame_of(Kind.CONTINUATION, END_HEADERS, 1, block[20:]),
    )

    assert begun.head.fields[-1] == (b"x", b"y" * 300)
    assert begun.ended


def test_a_body_comes_as_it_arrives_and_ends_where_the_client_ends_it():
    client = Client()
    assert [type(event) for event in client.post(1, ("content-length", "5"))] == [RequestBegun]

    assert client.send(data(1, b"abc", ends=False)) == [BodyReceived(1, b"abc", ended=False)]
    assert client.send(raw(Kind.DATA, PADDED | END_STREAM, 1, b"\x02de\x00\x00")) == [
        BodyReceived(1, b"de", ended=True)
    ]


@pytest.mark.parametrize(
    ("length", "parts"),
    [("3", [b"ab", b"cd"]), ("3", [b"ab"]), ("3", [b""]), ("0", [b"a"]), ("3", [b"abc", b"d"])],
)
def test_a_body_of_another_length_than_declared_is_refused(length, parts):
    client = Client()
    frames = [data(1, part, ends=number == len(parts) - 1) for number, part in enumerate(parts)]
    client.post(1, ("content-length", length))
    client.send(*frames)

    assert client.events[-1] == RequestRefused(
        1, "http-invalid", "the body is as long as Content-Length declares"
    )
    assert not any(isinstance(event, BodyReceived) and event.ended for event in client.events)


def test_a_declared_body_that_is_not_there_is_refused():
    (refused,) = Client().get(1, ("content-length", "1"))

    assert isinstance(refused, RequestRefused)
    (begun,) = Client().get(1, ("content-length", "0"))
    assert isinstance(begun, RequestBegun)


@pytest.mark.parametrize("ends", [True, False])
def test_a_request_has_no_trailer_fields(ends):
    client = Client()
    client.post(1)
    client.send(data(1, b"x", ends=False), client.head(1, [("x", "y")], ends=ends))

    assert client.events[-1] == RequestRefused(
        1, "http-invalid", "a request's body ends without trailer fields"
    )
    # The state of the compression went on.
    (begun,) = client.get(3, ("x", "y"))
    assert begun.head.fields[-1] == (b"x", b"y")


def test_a_refused_request_is_answered_and_what_follows_of_it_is_thrown_away():
    client = Client()
    (refused,) = client.send(client.head(1, [*POST, ("connection", "close")], ends=False))
    assert client.send(data(1, b"x" * 1000, ends=False)) == []
    read = client.answered(refused.stream_id, b"no", 400)

    assert kinds(read) == [Kind.HEADERS, Kind.DATA, Kind.RST_STREAM]
    assert read[-1].payload == word(ErrorCode.PROTOCOL_ERROR)
    assert client.send(data(1, b"y" * 1000), client.head(1, [("x", "y")])) == []
    assert client.streams == 0


def test_behind_an_early_answer_the_rest_of_the_body_is_thrown_away_as_it_comes():
    """curl 7.88 shows no answer if its stream is reset while it sends."""
    client = Client()
    client.post(1)
    assert kinds(client.answered(1, b"early")) == [Kind.HEADERS, Kind.DATA]
    for _ in range(LIMITS.discard_bytes_max // PAYLOAD_BYTES_MAX - 1):
        assert client.send(data(1, b"x" * PAYLOAD_BYTES_MAX, ends=False)) == []
    assert client.streams == 1
    assert client.send(data(1, b"x")) == []

    assert client.streams == 0
    assert client.reason is None
    assert client.sent(Kind.RST_STREAM) == []


def test_a_body_that_nobody_wants_has_an_end():
    client = Client()
    client.post(1)
    client.answered(1, b"early")
    for _ in range(LIMITS.discard_bytes_max // PAYLOAD_BYTES_MAX + 10):
        client.send(data(1, b"x" * PAYLOAD_BYTES_MAX, ends=False))
    (frame,) = client.sent(Kind.RST_STREAM)

    assert (frame.stream_id, frame.payload) == (1, word(ErrorCode.NO_ERROR))
    assert client.streams == 0
    assert client.reason is None


def test_a_body_that_nobody_wants_in_small_frames_is_a_flood():
    client = Client()
    client.post(1)
    client.answered(1, b"early")
    client.send(data(1, b"x", ends=False) * (LIMITS.ration + 100))

    assert client.reason == "frame-flood"


@pytest.mark.parametrize("end", ["trailers", "reset"])
def test_a_body_that_nobody_wants_may_end_otherwise(end):
    client = Client()
    client.post(1)
    client.answered(1, b"early")
    assert client.send(rst(1) if end == "reset" else client.head(1, [("x", "y")])) == []

    assert client.streams == 0
    assert client.reason is None


def test_who_goes_away_does_not_wait_for_a_body_that_nobody_wants():
    client = Client()
    client.post(1)
    client.answered(1, b"early")
    client.core.go_away("stopping")

    assert kinds(client.read()) == [Kind.GOAWAY]
    assert client.core.finished


BROKEN = {
    "a-head-on-an-even-stream": frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 2, b"\x82"),
    "a-head-on-stream-0": frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 0, b"\x82"),
    "a-head-on-a-stream-below": frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 3, b"\x82"),
    "a-short-priority": raw(Kind.HEADERS, PRIORITY | END_HEADERS, 7, b"1234"),
    "data-on-stream-0": data(0, b"x"),
    "data-on-an-idle-stream": data(9, b"x"),
    "data-on-a-closed-stream": data(1, b"x"),
    "data-within-a-head": frame_of(Kind.HEADERS, 0, 7, b"\x82") + data(5, b"x"),
    "another-continuation": frame_of(Kind.HEADERS, 0, 7, b"\x82") + frame_of(Kind.CONTINUATION, 4, 9, b""),
    "a-continuation-alone": frame_of(Kind.CONTINUATION, END_HEADERS, 5, b""),
    "unknown-within-a-head": frame_of(Kind.HEADERS, 0, 7, b"\x82") + raw(0x99, 0, 7),
    "push": raw(Kind.PUSH_PROMISE, END_HEADERS, 1, word(2)),
    "reset-of-an-idle-stream": rst(9),
    "reset-of-stream-0": rst(0),
    "reset-of-another-size": raw(Kind.RST_STREAM, 0, 5, b"123"),
    "window-of-an-idle-stream": window(9, 1),
    "window-of-another-size": raw(Kind.WINDOW_UPDATE, 0, 0, b"12345"),
    "window-by-nothing": window(0, 0),
    "window-too-large": window(0, 2**31 - 1),
    "ping-of-another-size": raw(Kind.PING, 0, 0, b"1234567"),
    "ping-on-a-stream": raw(Kind.PING, 0, 5, b"12345678"),
    "settings-on-a-stream": raw(Kind.SETTINGS, 0, 5),
    "settings-of-another-size": raw(Kind.SETTINGS, 0, 0, b"12345"),
    "acknowledgement-with-settings": raw(Kind.SETTINGS, ACK, 0, b"\x00\x04" + word(1)),
    "push-of-two": settings_frame({Setting.ENABLE_PUSH: 2}),
    "initial-window-too-large": settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31}),
    "initial-window-that-makes-one-too-large": window(5, 2**31 - 70_000)
    + settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}),
    "frames-too-small": settings_frame({Setting.MAX_FRAME_SIZE: 16383}),
    "frames-too-large": settings_frame({Setting.MAX_FRAME_SIZE: 2**24}),
    "priority-of-stream-0": priority(0),
    "goaway-on-a-stream": raw(Kind.GOAWAY, 0, 5, bytes(8)),
    "goaway-of-another-size": raw(Kind.GOAWAY, 0, 0, bytes(7)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_rfc_9113_does_not_allow_ends_the_connection(name):
    client = Client()
    client.get(1)
    client.answered(1, b"x")
    client.post(5)
    client.send(BROKEN[name])

    assert isinstance(client.events[-1], ConnectionEnded)
    assert kinds(client.frames)[-1] == Kind.GOAWAY
    assert client.send(ping()) == []


# ---- answers ------------------------------------------------------------------------------------
def oracle():
    """The other implementation, as a client of ours: what it reads is right."""
    return h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))


def exchanged(core, other, now=0.0):
    """Bring each side what the other has to send; return the other's events."""
    core.receive_data(other.data_to_send())
    events = core.next_events_untrusted(now)
    return events, other.receive_data(core.data_to_send(2**30))


def test_the_other_implementation_reads_our_answers():
    core, other = ServerConnection(LIMITS, 0.0), oracle()
    other.initiate_connection()
    other.send_headers(1, GET, end_stream=True)
    exchanged(core, other)
    fields = [(b"content-type", b"application/json"), (b"content-length", b"30000"), (b"x-y", b"\xff")]
    core.answer(1, 207, fields, b"z" * 30_000)
    events = other.receive_data(core.data_to_send(2**30))

    head = next(event for event in events if isinstance(event, h2.events.ResponseReceived))
    assert [tuple(map(bytes, field)) for field in head.headers] == [(b":status", b"207"), *fields]
    body = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert body == b"z" * 30_000
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    core.handler_ended(1)
    assert len(core._streams) == 0


def test_answers_share_the_connection_frame_by_frame():
    client = Client()
    client.send(window(0, 10**6))
    for stream_id in (1, 3):
        client.get(stream_id)
    for stream_id in (1, 3):
        client.core.answer(stream_id, 200, [], b"x" * 40_000)
    order = [frame.stream_id for frame in client.read() if frame.kind == Kind.DATA]

    assert order == [1, 3, 1, 3, 1, 3]


def test_an_answer_stops_at_its_window_and_goes_on_when_it_grows():
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
    client.get(1)
    first = client.answered(1, b"x" * 25)
    client.send(window(1, 10))
    client.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))  # takes 10 back: 10 are too many now
    client.send(window(1, 10))
    client.send(window(1, 10))

    sizes = [len(frame.payload) for frame in client.sent(Kind.DATA)]
    assert len(first) == 2
    assert sizes == [10, 10, 5]
    assert client.sent(Kind.DATA)[-1].flags == END_STREAM
    assert client.streams == 0


def test_answers_stop_at_the_window_of_the_connection_and_all_go_on_when_it_grows():
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**20}))
    for stream_id in (1, 3):
        client.get(stream_id)
        client.answered(stream_id, b"x" * 50_000)
    assert sum(len(frame.payload) for frame in client.sent(Kind.DATA)) == 65535
    client.send(window(0, 2**20))

    assert sum(len(frame.payload) for frame in client.sent(Kind.DATA)) == 100_000
    assert client.streams == 0


def test_a_write_takes_little_more_than_it_asks_for():
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**20}))
    client.send(window(0, 2**20))
    client.get(1)
    client.core.answer(1, 200, [], b"x" * 500_000)

    assert 64 * 1024 <= len(client.core.data_to_send(64 * 1024)) <= 64 * 1024 + PAYLOAD_BYTES_MAX + 100


def test_a_handler_that_gives_no_answer_resets_its_stream():
    client = Client()
    client.get(1)
    client.core.handler_ended(1)
    (frame,) = client.read()

    assert (frame.kind, frame.payload) == (Kind.RST_STREAM, word(ErrorCode.INTERNAL_ERROR))
    assert client.streams == 0


def test_an_answer_for_a_client_that_took_its_request_back_goes_nowhere():
    client = Client()
    client.get(1)
    assert client.send(rst(1)) == [StreamReset(1)]

    assert client.answered(1, b"x") == []
    assert client.streams == 0


def test_a_stream_that_is_reset_in_the_middle_of_its_answer_sends_no_more():
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
    client.get(1)
    client.answered(1, b"x" * 25)
    client.send(rst(1))

    assert client.streams == 0
    assert client.read() == []


def test_100_continue_comes_before_the_answer_and_not_after():
    client = Client()
    (begun,) = client.post(1, ("expect", "100-continue"))
    assert begun.head.expects_continue
    client.core.go_on(1)
    (frame,) = client.read()
    assert (frame.kind, frame.flags) == (Kind.HEADERS, END_HEADERS)
    client.core.answer(1, 200, [], b"")
    client.core.go_on(1)

    assert kinds(client.read()) == [Kind.HEADERS]


# ---- a body's window ---------------------------------------------------------------------------
def test_a_body_gets_as_much_window_as_its_handler_has_read():
    client = Client()
    client.post(1)
    half = LIMITS.stream_window // 2
    client.send(data(1, b"x" * 16384, ends=False) * (half // 16384))
    assert not [frame for frame in client.sent(Kind.WINDOW_UPDATE) if frame.stream_id]
    client.core.body_read(1, half)
    (frame,) = [frame for frame in client.read() if frame.stream_id == 1]

    assert (frame.kind, frame.payload) == (Kind.WINDOW_UPDATE, word(half))


# ---- pings, and the end ---------------------------------------------------------------------------
def test_a_ping_is_echoed():
    client = Client()
    client.send(ping(0xABCDEF))

    assert client.frames[-1].payload == (0xABCDEF).to_bytes(8, "big")
    assert client.frames[-1].flags == ACK


def test_an_answered_ping_answers_those_before_it_and_no_other_counts():
    client = Client()
    for number in (1, 2, 3):
        client.core.ping(number)

    assert client.send(ping(9, ACK), ping(2, ACK), ping(1, ACK), ping(2, ACK)) == [PingAnswered(2)]
    assert client.send(ping(3, ACK)) == [PingAnswered(3)]


def test_who_goes_away_begins_no_further_request_and_ends_those_that_run():
    client = Client()
    client.get(1)
    client.core.go_away("stopping")
    assert client.read() == []
    assert client.post(3, body=b"late") == []
    assert (client.frames[-1].stream_id, client.frames[-1].payload) == (3, word(ErrorCode.REFUSED_STREAM))
    assert not client.core.finished

    assert kinds(client.answered(1, b"x")) == [Kind.HEADERS, Kind.DATA]
    assert client.core.finished
    (frame,) = client.read()
    assert frame.payload == word(3) + word(ErrorCode.NO_ERROR) + b"stopping"
    assert client.read() == []


def test_a_client_that_goes_away_gets_what_it_has_asked_for():
    client = Client()
    client.get(1)
    client.send(goaway())
    assert not client.core.finished
    client.answered(1, b"x")

    assert client.core.finished


def test_what_is_unfinished_has_a_number_that_changes_when_it_goes_on():
    client = Client()
    assert client.core.unfinished is None
    client.send(b"\x00")
    first = client.core.unfinished
    client.send(b"\x00\x08\x06\x00")
    assert client.core.unfinished == first is not None
    client.send(bytes(4 + 8))
    assert client.core.unfinished is None
    client.send(frame_of(Kind.HEADERS, END_STREAM, 1, client.block(GET)))
    second = client.core.unfinished
    client.send(frame_of(Kind.CONTINUATION, 0, 1))
    assert second == client.core.unfinished != first
    client.send(frame_of(Kind.CONTINUATION, END_HEADERS, 1))
    assert client.core.unfinished is None
    client.post(3)
    client.send(data(3, b"xyz", ends=False)[:-1])
    assert client.core.unfinished is None  # a body has a time limit of its own


def test_random_bytes_behind_the_preface_only_ever_end_the_connection():
    rng = random.Random(3)
    for _ in range(300):
        client = Client()
        client.post(1)
        client.send(bytes(rng.choice([0, 0, 0, 1, 4, 5, rng.randrange(256)]) for _ in range(400)))
        assert client.streams <= LIMITS.streams_max


def test_a_limit_of_streams_is_one_for_each_connection():
    client = Client(replace(LIMITS, streams_max=2))
    for stream_id in (1, 3):
        client.send(block_frames(stream_id, client.block(GET)))
    client.send(block_frames(5, client.block(GET)))

    assert client.frames[-1].payload == word(ErrorCode.REFUSED_STREAM)
    client.answered(1)
    assert [type(event) for event in client.get(7)] == [RequestBegun]
