"""Attacks on HTTP/2 by their names. Each is stopped by one limit, and goes on once that limit is wide."""

from dataclasses import replace

import hpack
import pytest

from node.http2 import fields as fields_module
from node.http2 import ration
from node.http2.errors import ErrorCode
from node.http2.events import BodyReceived, ConnectionEnded, RequestBegun, RequestRefused, StreamReset
from node.http2.fields import HeaderDecoder
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
from tests.node.http2.wire import (
    ACK,
    GET,
    LIMITS,
    POST,
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

WIDE = replace(LIMITS, ration=10**9, ration_per_s=0, control_bytes_max=10**9)


def reset_code(frame):
    return ErrorCode(int.from_bytes(frame.payload, "big"))


def goaway_of(client):
    (frame,) = client.sent(Kind.GOAWAY)
    return ErrorCode(int.from_bytes(frame.payload[4:8], "big")), frame.payload[8:].decode()


# ---- floods of frames that are no part of a request ----------------------------------------
FLOODS = {
    "settings": settings_frame({Setting.INITIAL_WINDOW_SIZE: 1}),
    "settings-acknowledgements": frame_of(Kind.SETTINGS, ACK, 0),
    "empty-settings": settings_frame({}),
    "ping": ping(),
    "ping-acknowledgements": ping(flags=ACK),
    "window-updates": window(0, 1),
    "window-updates-of-a-stream": window(1, 1),
    "priority": priority(1, 3),
    "priority-of-streams-that-never-were": priority(99999),
    "unknown-frames": raw(0x42, 0, 0, b"x"),
    "priority-update": raw(0x10, 0, 0, word(1) + b"u=1"),
    "resets-of-a-stream-that-ended": rst(1),
    "goaway": goaway(),
    "empty-data": data(1, b"", ends=False),
    "padding-alone": raw(Kind.DATA, PADDED, 1, b"\x03\x00\x00\x00"),
}


def flooded(name, limits):
    client = Client(limits)
    client.post(1)
    if name == "resets-of-a-stream-that-ended":
        client.send(data(1, b""))
        client.answered(1)
    client.send(FLOODS[name] * 1100)
    return client


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_these_frames_ends_the_connection(name):
    client = flooded(name, replace(LIMITS, control_bytes_max=10**9))

    assert client.reason == "frame-flood"
    assert goaway_of(client) == (ErrorCode.ENHANCE_YOUR_CALM, "frame-flood")


@pytest.mark.parametrize("name", FLOODS)
def test_it_would_go_on_if_frames_cost_nothing(name):
    assert flooded(name, WIDE).reason is None


def test_a_flood_ends_within_the_frames_of_a_ration_whatever_follows():
    client = Client()
    client.core.receive_data(ping() * 10_000)
    turns = 0
    while client.core.work_left or turns == 0:
        client.core.next_events_untrusted(0.0)
        turns += 1

    assert client.core.ended
    assert turns <= LIMITS.ration // 256 + 1


def test_pings_at_the_pace_of_a_client_that_keeps_its_connection_alive_go_on_for_ever():
    client = Client()
    for second in range(5000):
        client.now = float(second)
        client.send(ping())
        assert client.reason is None


def test_a_client_that_acknowledges_each_frame_of_its_answers_is_not_a_flood():
    client = Client()
    for number in range(200):
        stream_id = 2 * number + 1
        client.get(stream_id)
        for frame in client.answered(stream_id, b"x" * 60_000):
            if frame.kind == Kind.DATA:
                client.send(window(0, len(frame.payload)), window(stream_id, len(frame.payload)))
        client.send(priority(stream_id), raw(0x10, 0, 0, word(stream_id) + b"u=1"), ping(), rst(stream_id))
        assert client.reason is None


# ---- CVE-2023-44487, rapid reset -----------------------------------------------------------
def begin_and_reset(client, count):
    """Requests that the client takes back at once; the handlers of all of them go on."""
    begun = 0
    for number in range(count):
        events = client.send(client.head(2 * number + 1, GET), rst(2 * number + 1))
        begun += sum(isinstance(event, RequestBegun) for event in events)
        if client.reason is not None:
            break
    return begun


def test_rapid_reset_never_has_more_handlers_than_streams_may_be_open():
    client = Client(WIDE)

    assert begin_and_reset(client, 500) == LIMITS.streams_max
    assert client.streams == LIMITS.streams_max
    assert {reset_code(frame) for frame in client.sent(Kind.RST_STREAM)} == {ErrorCode.REFUSED_STREAM}


def test_rapid_reset_ends_the_connection():
    client = Client()
    begin_and_reset(client, 500)

    assert client.reason == "frame-flood"


def test_it_would_have_if_a_reset_stream_no_longer_counted(monkeypatch):
    monkeypatch.setattr("node.http2.stream.Stream.over", property(lambda stream: stream.sent or stream.reset))

    assert begin_and_reset(Client(WIDE), 500) == 500


def test_a_stream_that_was_reset_counts_until_its_handler_has_ended():
    client = Client(replace(LIMITS, streams_max=1))
    client.get(1)
    client.send(rst(1))
    assert [type(event) for event in client.events] == [StreamReset]
    assert client.get(3) == []
    client.core.handler_ended(1)

    assert [type(event) for event in client.get(5)] == [RequestBegun]


# ---- CVE-2025-8671, made you reset: the client makes the server reset the stream -------------
MADE_YOU = {
    "a-window-that-grows-by-nothing": window(1, 0),
    "a-window-that-grows-too-large": window(1, 2**31 - 1),
    "data-behind-the-end": data(1, b"x"),
    "headers-behind-the-end": frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\x82"),
    "a-priority-of-another-size": raw(Kind.PRIORITY, 0, 1, b"1234"),
}


@pytest.mark.parametrize("name", MADE_YOU)
def test_what_would_make_the_server_reset_a_stream_ends_the_connection_instead(name):
    client = Client(WIDE)
    client.get(1)
    client.send(MADE_YOU[name])

    assert isinstance(client.events[-1], ConnectionEnded)
    assert client.sent(Kind.RST_STREAM) == []
    assert client.get(3) == []


def malformed(client, count):
    """Requests whose body is longer than declared: the server refuses each, the handler goes on."""
    begun = 0
    for number in range(count):
        events = client.post(2 * number + 1, ("content-length", "1"), body=b"xx")
        begun += sum(isinstance(event, RequestBegun) for event in events)
        if events and isinstance(events[-1], RequestRefused):
            client.core.answer(2 * number + 1, 400, [], b"")
            client.read()
        if client.reason is not None:
            break
    return begun


def test_a_request_that_the_server_refuses_counts_until_its_handler_has_ended():
    client = Client(WIDE)

    assert malformed(client, 500) == LIMITS.streams_max
    assert client.streams == LIMITS.streams_max


def test_requests_that_are_refused_cost_the_connection():
    client = Client()
    malformed(client, 500)

    assert client.reason == "frame-flood"


# ---- CVE-2024-27316, CONTINUATION floods, and what a header block may be ------------------------
def test_a_continuation_flood_ends_within_the_bytes_of_one_head():
    client = Client()
    client.send(frame_of(Kind.HEADERS, END_STREAM, 1, b""))
    for _ in range(3):
        client.send(frame_of(Kind.CONTINUATION, 0, 1, b"\x00" * PAYLOAD_BYTES_MAX))
    assert client.reason == "head-too-large"
    refused = client.events[0]

    assert (refused.stream_id, refused.code) == (1, "head-too-large")


def test_a_continuation_flood_of_empty_frames_ends_within_a_few():
    client = Client()
    client.send(frame_of(Kind.HEADERS, END_STREAM, 1, b""))
    client.send(frame_of(Kind.CONTINUATION, 0, 1) * (LIMITS.continuations_max + 1))

    assert client.reason == "head-too-large"


def test_they_would_go_on_if_continuations_were_not_counted():
    limits = replace(WIDE, continuations_max=10**9, head_bytes_max=10**9)
    client = Client(limits)
    client.send(frame_of(Kind.HEADERS, END_STREAM, 1, b""))
    client.send(frame_of(Kind.CONTINUATION, 0, 1) * 2000)
    client.send(frame_of(Kind.CONTINUATION, 0, 1, b"\x00" * PAYLOAD_BYTES_MAX) * 100)

    assert client.reason is None


def test_a_head_that_is_too_large_is_answered_before_the_connection_ends():
    client = Client()
    client.core.receive_data(client.head(1, [*GET, *((f"x-{n}", "y" * 4000) for n in range(9))]))
    first, last = client.core.next_events_untrusted(0.0)
    client.core.answer(first.stream_id, 431, [(b"content-length", b"0")], b"")

    assert (first.code, last.reason) == ("head-too-large", "head-too-large")
    assert [frame.kind for frame in client.read()] == [Kind.HEADERS, Kind.GOAWAY]


def test_a_header_bomb_is_given_up_at_the_limit_of_the_fields():
    """One field of 4,000 bytes in the table, named again by one byte each time: 1:4,000."""
    client = Client()
    client.get(1, ("x", "y" * 3900))
    bomb = client.block([*GET, ("x", "y" * 3900)])
    client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 3, bomb + bomb[-1:] * 10_000))

    assert client.reason == "head-too-large"


def test_it_would_have_unfolded_if_only_the_compressed_bytes_counted(monkeypatch):
    client = Client()
    client.core._decoder = HeaderDecoder(10**9)
    client.get(1, ("x", "y" * 3900))
    bomb = client.block([*GET, ("x", "y" * 3900)])
    seen = []
    monkeypatch.setattr(
        "node.http2.connection.read_request_untrusted",
        lambda fields, _: seen.append(sum(len(v) for _, v in fields)) or (_ for _ in ()).throw(ValueError),
    )
    with pytest.raises(ValueError):
        client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 3, bomb + bomb[-1:] * 10_000))

    assert seen[0] > 30_000_000


def test_a_table_larger_than_granted_is_refused():
    client = Client()
    client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\x3f\xe2\x1f" + client.block(GET)))

    assert client.reason == "compression-invalid"


def test_a_block_of_updates_of_the_tables_size_is_refused_unread(monkeypatch):
    """32 KiB of them cost 30 ms; two are the most that can be needed."""
    client = Client()
    client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\x20\x3f\xe1\x1f" + client.block(GET)))
    assert [type(event) for event in client.events] == [RequestBegun]
    decoded = []
    real = hpack.Decoder.decode
    monkeypatch.setattr(
        hpack.Decoder,
        "decode",
        lambda self, block, raw=False: decoded.append(block) or real(self, block, raw),
    )
    client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 3, b"\x20" * 10_000))

    assert (client.reason, decoded) == ("compression-invalid", [])


def test_the_decoder_would_have_read_it(monkeypatch):
    monkeypatch.setattr(fields_module, "_UPDATES", fields_module._NAME)
    decoder = HeaderDecoder(LIMITS.head_bytes_max)

    assert decoder.decode_untrusted(b"\x20" * 10_000) == []


@pytest.mark.parametrize(
    "block",
    [
        b"\xff" * 40,  # an integer without end
        b"\x80",  # index 0
        b"\xbf\xff\x7f",  # an index that no table has
        b"\x40\x7f",  # a name that is cut off
        b"\x82\x20",  # an update behind a field
        b"\x00\x81\xff\x00",  # Huffman padding that is no end
        b"\x00\x84\xff\xff\xff\xff\x00",  # Huffman EOS
    ],
)
def test_what_is_not_hpack_ends_the_connection(block):
    client = Client()
    client.send(frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, 1, block))

    assert client.reason == "compression-invalid"
    assert goaway_of(client)[0] is ErrorCode.COMPRESSION_ERROR


def test_a_turn_of_work_has_one_large_head_and_leaves_the_others_for_later():
    client = Client()
    large = hpack.Encoder().encode([*GET, *((f"x-{n}", "y" * 250) for n in range(60))])
    client.core.receive_data(b"".join(block_frames(2 * n + 1, large) for n in range(10)))
    client.core.next_events_untrusted(0.0)

    assert client.core.work_left
    assert client.streams == 2


def test_a_turn_of_work_begins_a_few_requests_and_leaves_the_others_for_later():
    client = Client()
    client.core.receive_data(b"".join(client.head(2 * n + 1, GET) for n in range(90)))
    begun = [len(client.core.next_events_untrusted(0.0)) for _ in range(4)]

    assert sum(begun) == 90
    assert max(begun) <= 32


# ---- padding, and frames of any size --------------------------------------------------------
def test_padding_counts_as_what_the_client_sent_and_comes_back():
    client = Client()
    client.post(1)
    for _ in range(20):
        client.send(raw(Kind.DATA, PADDED, 1, b"\xff" + b"x" * 15_000 + b"\x00" * 255))
        client.core.body_read(1, 15_000)
        client.read()

    assert client.reason is None
    granted = sum(
        int.from_bytes(frame.payload, "big")
        for frame in client.sent(Kind.WINDOW_UPDATE)
        if frame.stream_id == 1
    )
    assert granted > 0
    assert granted % (15_000 + 256) == 0


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.HEADERS])
@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05\x00\x00\x00\x00"])
def test_padding_that_is_longer_than_its_frame_ends_the_connection(kind, payload):
    client = Client()
    client.post(1)
    client.send(raw(kind, PADDED | END_HEADERS, 3 if kind == Kind.HEADERS else 1, payload))

    assert client.reason == "frame-invalid"


def test_a_frame_that_is_too_large_is_refused_at_its_head():
    client = Client()
    client.send(b"\xff\xff\xff" + bytes([Kind.DATA, 0]) + word(1))

    assert client.reason == "frame-too-large"
    assert goaway_of(client)[0] is ErrorCode.FRAME_SIZE_ERROR


def test_a_frame_that_is_too_large_is_refused_at_the_end_of_a_turn_too():
    """Found by comparing whole conversations with pieces: the turn ended right in front of it."""
    client = Client()
    client.send(ping() * 256, b"\xff\xff\xff" + bytes([Kind.DATA, 0]) + word(1))

    assert client.reason == "frame-too-large"


def test_a_body_in_tiny_frames_is_refused():
    client = Client(replace(LIMITS, body_frames_max=50))
    client.post(1)
    client.send(data(1, b"x", ends=False) * 51)

    assert [type(event) for event in client.events[:50]] == [BodyReceived] * 50
    assert client.events[50:] == [
        RequestRefused(1, "body-too-large", "a body comes in at most 50 DATA frames")
    ]


# ---- windows --------------------------------------------------------------------------------
def test_a_body_beyond_the_window_of_its_stream_ends_the_connection():
    client = Client()
    client.post(1)
    whole = LIMITS.stream_window // PAYLOAD_BYTES_MAX
    client.send(data(1, b"x" * PAYLOAD_BYTES_MAX, ends=False) * whole)
    assert client.reason is None
    client.send(data(1, b"x"))

    assert client.reason == "window-exceeded"
    assert goaway_of(client)[0] is ErrorCode.FLOW_CONTROL_ERROR


def test_a_body_that_nobody_reads_takes_no_more_than_its_window_and_holds_up_no_other():
    client = Client()
    client.post(1)
    whole = LIMITS.stream_window // PAYLOAD_BYTES_MAX
    client.send(data(1, b"x" * PAYLOAD_BYTES_MAX, ends=False) * whole)
    for number in range(20):
        stream_id = 2 * number + 3
        client.post(stream_id)
        client.send(data(stream_id, b"x" * PAYLOAD_BYTES_MAX, ends=False) * whole)
        assert client.reason is None


def test_bodies_beyond_the_window_of_the_connection_end_it():
    client = Client(replace(LIMITS, stream_window=10 * 2**20, connection_window=2**16))
    client.post(1)
    client.core.receive_data(data(1, b"x" * PAYLOAD_BYTES_MAX, ends=False) * 5)
    events = client.core.next_events_untrusted(0.0)
    assert not isinstance(events[-1], ConnectionEnded)  # it is given back as it arrives
    client.core._may_receive = 10
    client.send(data(1, b"x" * 11))

    assert client.reason == "window-exceeded"


# ---- clients that ask and never read --------------------------------------------------------
def stuck(limits, frames):
    """A client that sends, and takes nothing out of its socket."""
    client = Client(limits)
    for _ in range(100):
        client.core.receive_data(frames)
        client.events = client.core.next_events_untrusted(0.0)
        while client.core.work_left:
            client.events += client.core.next_events_untrusted(0.0)
        if client.core.ended:
            break
    return client


def test_acknowledgements_that_nobody_reads_end_the_connection():
    assert stuck(replace(LIMITS, ration=10**9), ping() * 1000).reason == "send-queue-full"


def test_they_would_fill_the_memory_if_they_were_not_counted():
    client = stuck(WIDE, ping() * 1000)

    assert client.reason is None
    assert len(client.core.data_to_send(1)) >= 17 * 100_000


def test_answers_that_nobody_reads_keep_their_places():
    """The client grants no window: no further request begins once all places are taken."""
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in range(LIMITS.streams_max):
        client.get(2 * number + 1)
        client.answered(2 * number + 1, b"x")
    assert client.core.unsent

    assert client.get(2 * LIMITS.streams_max + 1) == []
    client.send(window(1, 1))
    assert client.sent(Kind.DATA)[-1].stream_id == 1
    assert [type(event) for event in client.get(2 * LIMITS.streams_max + 3)] == [RequestBegun]


def test_an_answer_that_is_fetched_byte_by_byte_costs_the_client_its_ration():
    """CVE-2019-9511, data dribble: a frame with its head for each byte."""
    client = Client(start=PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
    client.get(1)
    client.answered(1, b"x" * 100_000)
    for _ in range(2000):
        client.send(window(1, 1))
        if client.reason is not None:
            break

    assert client.reason == "frame-flood"
    assert len(client.sent(Kind.DATA)) <= LIMITS.ration


def test_what_costs_the_most_costs_the_most_parts():
    assert ration.FRAME < ration.SETTINGS
    assert ration.FRAME < ration.RESET


def test_too_many_settings_in_one_frame_are_refused():
    client = Client()
    client.send(raw(Kind.SETTINGS, 0, 0, b"\x00\x99" + word(1)) * 2)
    assert client.reason is None
    client.send(raw(Kind.SETTINGS, 0, 0, (b"\x00\x99" + word(1)) * 33))

    assert client.reason == "frame-flood"


def test_requests_that_are_refused_for_want_of_room_cost_the_connection():
    client = Client()
    for number in range(LIMITS.streams_max + 500):
        client.send(client.head(2 * number + 1, POST))
        if client.reason is not None:
            break

    assert client.reason == "frame-flood"
