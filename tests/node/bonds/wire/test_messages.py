"""Messages and frames: every one survives the way there, nothing else gets through."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import canonical
from attestation.errors import MalformedError
from node.bonds.core.send_queue import Lane, SendQueue
from node.bonds.wire.addresses import is_address, join_address, split_address
from node.bonds.wire.frames import FRAGMENT_BYTES, FrameReader, frame_of, frames_of_payload
from node.bonds.wire.messages import (
    Admit,
    Attest,
    BondFormed,
    Departure,
    Fragment,
    Hello,
    Message,
    Payload,
    PeerEntry,
    PeerEntryUpdate,
    Ping,
    Pong,
    Prove,
    Reattest,
    ReattestRequest,
    Refuse,
    decode_untrusted,
    encode,
    is_name,
)
from node.errors import RemoteProtocolError
from node.features import Build, Span
from node.peers import Incarnation, Preference

ids = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
codes = st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True)
addresses = st.builds(
    lambda host, port: f"{host}:{port}",
    st.sampled_from(["localhost", "127.0.0.1", "[::1]", "node-1.example.org"]),
    st.integers(1, 65535),
)
printable = st.text("abc /.-é", min_size=1, max_size=20)
spans = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda ends: Span(*sorted(ends)))
entries = st.builds(
    PeerEntry,
    peer=st.builds(Incarnation, names, ids),
    preference=st.sampled_from(Preference),
    addresses=st.lists(addresses, max_size=8).map(tuple),
    api_url=st.none() | st.just("https://node:8443"),
)
tickets = st.dictionaries(codes, st.binary(max_size=64), max_size=8)
messages = st.one_of(
    st.builds(
        Hello,
        versions=st.lists(st.integers(1, 65535), max_size=15).map(lambda others: (*others, 2)),
        network_id=ids,
        group_id=ids,
        nonce=ids,
        name=names,
        build=st.builds(Build, printable, spans, printable, spans),
    ),
    st.builds(Prove, proof=ids, entry=entries),
    st.builds(Attest, tickets=tickets),
    st.builds(Admit, peers=st.lists(entries, max_size=4).map(tuple)),
    st.builds(Refuse, code=st.integers(0, 99_999), reason=codes),
    st.sampled_from([Ping(), Pong(), Departure()]),
    st.builds(PeerEntryUpdate, entry=entries),
    st.builds(BondFormed, entry=entries),
    st.builds(ReattestRequest, nonce=ids),
    st.builds(Reattest, nonce=ids, tickets=tickets),
    st.builds(Payload, st.binary(max_size=200)),
    st.builds(Fragment, st.integers(0, 1), st.booleans(), st.binary(max_size=200)),
)


@given(messages)
def test_every_message_survives_the_way_there(message: Message) -> None:
    assert decode_untrusted(encode(message)) == message


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65535, 65536, 70_000])
def test_a_payload_has_the_bytes_that_the_general_codec_gives(size: int) -> None:
    data = b"x" * size

    assert encode(Payload(data)) == canonical.encode([23, data])
    assert decode_untrusted(canonical.encode([23, data])) == Payload(data)


@given(st.binary(max_size=8))
def test_a_payload_is_read_as_the_general_codec_reads_it(tail: bytes) -> None:
    data = b"\x82\x17" + tail
    try:
        value = canonical.decode_untrusted(data, bytes_max=100, items_max=100)
    except MalformedError:
        value = None
    if value is not None and isinstance(value[1], bytes):
        assert decode_untrusted(data) == Payload(value[1])
    else:
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(data)


@given(st.binary(max_size=200))
def test_garbage_raises_the_declared_error_only(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_untrusted(data)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text(max_size=8) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.integers(0, 25), st.lists(plain, max_size=6))
def test_wrong_fields_raise_the_declared_error_only(tag: int, fields: list[Any]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_untrusted(canonical.encode([tag, *fields]))


@given(messages, st.data())
def test_a_cut_message_is_refused(message: Message, data: Any) -> None:
    encoded = encode(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(encoded[:cut])


ENTRY: list[Any] = [b"i" * 32, "bob", "normal", ["h:1"], None]


@pytest.mark.parametrize(
    "entry",
    [
        [b"i" * 31, *ENTRY[1:]],
        [ENTRY[0], "", *ENTRY[2:]],
        [ENTRY[0], "-bob", *ENTRY[2:]],
        [ENTRY[0], "b" * 65, *ENTRY[2:]],
        [ENTRY[0], "bob\n", *ENTRY[2:]],
        [*ENTRY[:2], "boss", *ENTRY[3:]],
        [*ENTRY[:2], ["normal"], *ENTRY[3:]],
        [*ENTRY[:3], ["h:0"], None],
        [*ENTRY[:3], ["h:70000"], None],
        [*ENTRY[:3], ["h"], None],
        [*ENTRY[:3], ["h:1"] * 9, None],
        [*ENTRY[:4], "http://plain"],
        [*ENTRY[:4], "https://x y"],
        ENTRY[:4],
    ],
    ids=lambda entry: str(entry)[:60],
)
def test_a_peer_entry_is_checked_field_by_field(entry: list[Any]) -> None:
    decode_untrusted(canonical.encode([20, ENTRY]))
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(canonical.encode([20, entry]))


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("127.0.0.1:7443", True),
        ("[::1]:7443", True),
        ("[fe80::1%eth0]:1", True),
        ("node.example.org:65535", True),
        ("::1:7443", False),
        ("node:0", False),
        ("node", False),
        ("user@node:1", False),
        ("n" * 300 + ":1", False),
    ],
)
def test_addresses(address: str, fine: bool) -> None:
    assert is_address(address) is fine


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("node.example.org:1", "node.example.org", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("0.0.0.0:0", "0.0.0.0", 0),
    ],
)
def test_an_address_is_its_host_and_its_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address", ["", ":1", "a:", "a:65536", "::1:1", "[]:1", "a:1 ", "a:\u0661", "a:-1", "a:1\n"]
)
def test_an_address_needs_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_names() -> None:
    assert is_name("node-1.rack_2")
    assert not is_name("node 1")
    assert not is_name("")


# ---- frames ------------------------------------------------------------------------
@given(st.lists(st.binary(max_size=100), max_size=10), st.integers(1, 37))
def test_frames_survive_any_fragmentation_of_the_stream(bodies: list[bytes], step: int) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    reader = FrameReader(100)
    out = []
    for start in range(0, len(stream), step):
        reader.receive_data(stream[start : start + step])
        while (body := reader.next_frame_untrusted()) is not None:
            out.append(body)

    assert out == bodies
    assert not reader._buffer


def test_a_frame_is_refused_as_soon_as_its_length_is_known() -> None:
    reader = FrameReader(10)
    reader.receive_data((11).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError) as caught:
        reader.next_frame_untrusted()

    assert caught.value.reason == "frame-too-large"


@pytest.mark.parametrize("size", [0, 1, FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 3 * FRAGMENT_BYTES])
@pytest.mark.parametrize("stream", [0, 1])
def test_no_frame_of_a_payload_is_larger_than_a_fragment(size: int, stream: int) -> None:
    frames = frames_of_payload(b"x" * size, stream=stream)
    parts = [decode_untrusted(frame[4:]) for frame in frames]

    assert max(map(len, frames)) < FRAGMENT_BYTES + 32
    assert sum(len(part.data) for part in parts if isinstance(part, Payload | Fragment)) == size
    assert [part.last for part in parts if isinstance(part, Fragment)] in (
        [],
        [False] * (len(parts) - 1) + [True],
    )


# ---- lanes ------------------------------------------------------------------------
def test_a_heartbeat_overtakes_a_transfer_between_two_fragments() -> None:
    queue = SendQueue(10_000_000)
    bulk = frames_of_payload(b"b" * 3 * FRAGMENT_BYTES, stream=1)
    large = frames_of_payload(b"c" * 2 * FRAGMENT_BYTES, stream=0)
    ping = frame_of(Ping())
    queue.put(Lane.BULK, bulk)
    assert queue.next_frame() == bulk[0]
    queue.put(Lane.CONSENSUS, large)
    assert queue.next_frame() == large[0]
    queue.put(Lane.CONTROL, [ping])
    rest = []
    while (frame := queue.next_frame()) is not None:
        rest.append(frame)

    assert rest == [ping, large[1], bulk[1], bulk[2]]
    assert queue.size == 0


def test_a_full_send_queue_refuses_more() -> None:
    queue = SendQueue(10)
    queue.put(Lane.BULK, [b"123456"])
    with pytest.raises(RemoteProtocolError) as caught:
        queue.put(Lane.CONTROL, [b"123", b"45"])

    assert caught.value.reason == "send-buffer-full"
    assert queue.size == 6
