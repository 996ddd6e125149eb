"""Answers in pieces, with trailer fields, and requests that go on for ever."""

import random

import h2.config
import h2.connection
import h2.events
import pytest

from node.http2.errors import ErrorCode
from node.http2.events import BodyReceived, RequestRefused
from node.http2.frames import END_STREAM, Kind
from node.http2.ration import PING_INTERVAL_S, STRIKES_MAX
from tests.node.http2.wire import LIMITS, Client, data, ping, rst, window, word

TRAILERS = [(b"grpc-status", b"0")]


def kinds(frames):
    return [(frame.kind, bool(frame.flags & END_STREAM)) for frame in frames]


def test_an_answer_in_pieces_leaves_piece_by_piece_and_ends_with_its_trailer_fields():
    client = Client()
    client.post(1)
    client.core.begin_answer(1, 200, [(b"content-type", b"application/grpc")])
    assert kinds(client.read()) == [(Kind.HEADERS, False)]
    assert client.read() == []
    client.core.send_piece(1, b"one")
    client.core.send_piece(1, b"two")
    assert [frame.payload for frame in client.read()] == [b"onetwo"]
    client.core.finish_answer(1, TRAILERS)
    assert kinds(client.read()) == [(Kind.HEADERS, True)]
    client.core.handler_ended(1)
    assert client.streams == 1  # the client has not ended its request
    client.send(data(1, b""))
    assert client.streams == 0


def test_a_whole_answer_has_trailer_fields_behind_its_body():
    client = Client()
    client.get(1)
    client.core.answer(1, 200, [], b"body", TRAILERS)
    assert kinds(client.read()) == [(Kind.HEADERS, False), (Kind.DATA, False), (Kind.HEADERS, True)]


def test_an_answer_in_pieces_without_trailer_fields_ends_with_an_empty_frame():
    client = Client()
    client.get(1)
    client.core.begin_answer(1, 200, [])
    client.core.send_piece(1, b"line")
    assert kinds(client.read()) == [(Kind.HEADERS, False), (Kind.DATA, False)]
    client.core.finish_answer(1)
    assert kinds(client.read()) == [(Kind.DATA, True)]


def test_what_waits_of_an_answer_in_pieces_is_counted_until_the_client_grants_a_window():
    client = Client()
    client.get(1)
    client.core.begin_answer(1, 200, [])
    client.core.send_piece(1, bytes(65535))
    client.core.send_piece(1, b"beyond")
    client.read()
    assert client.core.unsent_bytes(1) == len(b"beyond")
    assert client.core.unsent
    client.core.finish_answer(1, TRAILERS)
    assert client.read() == []
    assert kinds(client.send(window(0, 100), window(1, 100)) or client.frames[-2:]) == [
        (Kind.DATA, False),
        (Kind.HEADERS, True),
    ]
    assert client.core.is_sent(1)


def test_a_stream_that_the_client_resets_drops_its_pieces_and_takes_no_more():
    client = Client()
    client.post(1)
    client.core.begin_answer(1, 200, [])
    client.core.send_piece(1, bytes(100_000))
    client.send(rst(1))
    client.core.send_piece(1, b"late")
    client.core.finish_answer(1, TRAILERS)
    assert client.core.unsent_bytes(1) == 0
    assert client.streams == 1  # until its handler has ended
    client.core.handler_ended(1)
    assert client.streams == 0


def test_a_handler_that_ends_before_its_answer_does_resets_the_stream():
    client = Client()
    client.get(1)
    client.core.begin_answer(1, 200, [])
    client.core.send_piece(1, b"half")
    client.core.handler_ended(1)
    assert client.read()[-1].payload == word(ErrorCode.INTERNAL_ERROR)
    assert client.streams == 0


def test_a_request_without_end_has_its_limit_in_frames_for_each_message():
    client = Client()
    client.post(1)
    for _ in range(3):
        for _ in range(LIMITS.body_frames_max):
            (event,) = client.send(data(1, b"x", ends=False))
            assert isinstance(event, BodyReceived)
            client.core.body_read(1, 1)
        client.core.message_read(1)
    for _ in range(LIMITS.body_frames_max):
        client.send(data(1, b"x", ends=False))
    (refused,) = client.send(data(1, b"x", ends=False))
    assert isinstance(refused, RequestRefused)


def test_pings_of_a_grpc_client_that_come_too_soon_end_the_connection_with_the_reason_it_knows():
    client = Client()
    client.core.limit_pings()
    for _ in range(20):  # as often as it may
        client.now += PING_INTERVAL_S
        client.send(ping())
    for _ in range(STRIKES_MAX):
        client.send(ping())
        assert client.reason is None
    client.send(ping())
    assert client.reason == "too_many_pings"
    assert client.frames[-1].payload == word(0) + word(ErrorCode.ENHANCE_YOUR_CALM) + b"too_many_pings"


def test_pings_beside_answers_and_pings_of_other_clients_are_not_held_against_them():
    client = Client()
    for _ in range(20):
        client.send(ping())
    assert client.reason is None
    client = Client()
    client.core.limit_pings()
    for number in range(20):
        client.get(2 * number + 1)
        client.answered(2 * number + 1, b"traffic")
        client.send(ping())
    assert client.reason is None


@pytest.mark.parametrize("seed", range(50))
def test_another_implementation_reads_pieces_as_they_were_given(seed):
    rng = random.Random(seed)
    mine = Client(start=b"")
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    peer.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "a")])
    received, ended, trailers = b"", False, None
    given = b""

    def exchange():
        nonlocal received, ended, trailers
        mine.core.receive_data(peer.data_to_send())
        mine.core.next_events_untrusted(0.0)
        while out := mine.core.data_to_send(rng.choice((1, 1000, 10**6))):
            for event in peer.receive_data(out):
                if isinstance(event, h2.events.DataReceived):
                    received += event.data
                    peer.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = event.headers
                elif isinstance(event, h2.events.StreamEnded):
                    ended = True

    exchange()
    mine.core.begin_answer(1, 200, [])
    for _ in range(rng.randrange(8)):
        piece = rng.randbytes(rng.choice((0, 1, 5, 16384, 16385, 70_000)))
        given += piece
        mine.core.send_piece(1, piece)
        if rng.random() < 0.5:
            exchange()
    with_trailers = rng.random() < 0.5
    mine.core.finish_answer(1, TRAILERS if with_trailers else None)
    for _ in range(8):
        exchange()
    assert received == given
    assert ended
    assert (trailers is not None) == with_trailers
