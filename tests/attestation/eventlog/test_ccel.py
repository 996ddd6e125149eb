import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.eventlog.ccel import (
    EVENTS_MAX,
    LOG_BYTES_MAX,
    encode_ccel,
    parse_ccel_untrusted,
)
from attestation.eventlog.events import Event, Origin, replay
from tests.support.vectors import needs_vectors, vector


def event(register: int | None = 0, type_: int = 4, data: bytes = b"\0\0\0\0", fill: int = 7) -> Event:
    return Event(
        origin=Origin.CCEL,
        register=register,
        type=type_,
        name="",
        digest=bytes([fill]) * 48,
        data=data,
    )


LOG = encode_ccel([event(0), event(1, 7, b"Exit"), event(None, 3, b"info"), event(3, 13, b"x\0")])


def reason_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_ccel_untrusted(data)
    return caught.value.reason


@needs_vectors
@pytest.mark.parametrize(
    ("name", "events", "rtmr0", "rtmr1", "rtmr2"),
    [
        ("google-cos113.ccel_data.bin", 43, "3fa2f61f395b7f5f", "f62dbc072bd5d3f3", "4969684dc87381fc"),
        (
            "cos113-dupe-separator.ccel_data.bin",
            43,
            "a4de2df23e961129",
            "0ee9366c928a7709",
            "4969684dc87381fc",
        ),
        ("goeventlog-ccel-unpadded.bin", 19, "8083cd6898cc52a9", "6484f0d72c03521c", "c3e7ed9d7e909b29"),
        ("goeventlog-event_log.bin", 27, "f68df15175d7c810", "8adfd9a44e117252", "0000000000000000"),
    ],
)
def test_a_recorded_log_replays_to_its_recorded_registers(
    name: str, events: int, rtmr0: str, rtmr1: str, rtmr2: str
) -> None:
    parsed = parse_ccel_untrusted(vector("ccel", name))

    assert len(parsed) == events
    assert [value.hex()[:16] for value in replay(parsed)] == [rtmr0, rtmr1, rtmr2, "0" * 16]


def test_encoding_and_parsing_are_inverse() -> None:
    events = parse_ccel_untrusted(LOG)

    assert [item.register for item in events] == [0, 1, None, 3]
    assert encode_ccel(events) == LOG


@pytest.mark.parametrize("padding", [b"", b"\xff" * 3, b"\xff" * 4000, b"\0" * 4000, b"junk"])
def test_whatever_follows_the_terminator_is_not_looked_at(padding: bytes) -> None:
    assert parse_ccel_untrusted(LOG + padding) == parse_ccel_untrusted(LOG)


@pytest.mark.parametrize("padding", [b"", b"\0" * 12, b"\0" * 5, b"\xff\xff"])
def test_an_unterminated_log_ends_with_its_bytes_or_its_padding(padding: bytes) -> None:
    assert parse_ccel_untrusted(LOG[:-4] + padding) == parse_ccel_untrusted(LOG)


def test_every_truncation_is_refused_or_ends_between_two_events() -> None:
    whole = parse_ccel_untrusted(LOG)
    boundaries = 0
    for size in range(len(LOG) - 4):
        with suppress(MalformedError):
            parsed = parse_ccel_untrusted(LOG[:size])
            assert parsed == whole[: len(parsed)]
            boundaries += 1

    # After the first record and after each of the four events but the last; and where the next head's
    # zeros are so far indistinguishable from padding.
    assert 4 <= boundaries < 30


def test_an_event_size_beyond_the_log_is_refused_before_anything_is_allocated() -> None:
    broken = LOG[:-4] + struct.pack("<IIIH", 1, 4, 1, 0xC) + b"d" * 48 + b"\xff\xff\xff\x7f"

    assert reason_of(broken) == "ccel-truncated"


def test_a_register_that_tdx_does_not_have_is_refused() -> None:
    broken = LOG[:-4] + struct.pack("<IIIH", 5, 4, 1, 0xC) + b"d" * 48 + bytes(4)

    assert reason_of(broken) == "ccel-register"


def test_an_algorithm_that_the_head_does_not_declare_is_refused() -> None:
    broken = LOG[:-4] + struct.pack("<IIIH", 1, 4, 1, 0xB) + b"d" * 32 + bytes(4)

    assert reason_of(broken) == "ccel-digests"


def test_an_event_without_a_digest_is_refused() -> None:
    assert reason_of(LOG[:-4] + struct.pack("<III", 1, 4, 0) + bytes(4)) == "ccel-no-sha384"


def test_a_log_of_another_platform_is_refused_by_name() -> None:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0x12, 32, 0)
    hygon = struct.pack("<II20xI", 1, 3, len(spec)) + spec

    assert reason_of(hygon) == "ccel-no-sha384"


def test_a_declared_digest_size_other_than_the_algorithms_is_refused() -> None:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0xC, 47, 0)

    assert reason_of(struct.pack("<II20xI", 1, 3, len(spec)) + spec) == "ccel-algorithms"


@pytest.mark.parametrize("count", [0, 9, 2**32 - 1])
def test_the_number_of_algorithms_is_bounded(count: int) -> None:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, count) + b"\x0c\0\x30\0" * 9 + b"\0"

    assert reason_of(struct.pack("<II20xI", 1, 3, len(spec)) + spec) == "ccel-algorithms"


@pytest.mark.parametrize(
    "algorithms", [b"\x0c\0\x30\0\x0c\0\x30\0", b"\x0c\0\x30\0\xff\0\x30\0"], ids=["twice", "unknown"]
)
def test_an_algorithm_declared_twice_or_unknown_is_refused(algorithms: bytes) -> None:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 2) + algorithms + b"\0"

    assert reason_of(struct.pack("<II20xI", 1, 3, len(spec)) + spec) == "ccel-algorithms"


def test_a_log_that_does_not_start_with_the_spec_id_is_refused() -> None:
    assert reason_of(struct.pack("<II20xI", 1, 4, 16) + b"Spec ID Event03\0") == "ccel-no-spec-id"
    assert reason_of(struct.pack("<II20xI", 1, 3, 16) + b"Spec ID Event02\0") == "ccel-no-spec-id"


def test_two_digest_algorithms_are_read_and_the_sha384_one_is_taken() -> None:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHHHB", 0, 0, 2, 0, 2, 2, 0xB, 32, 0xC, 48, 3) + b"vnd"
    head = struct.pack("<II20xI", 0, 3, len(spec)) + spec
    digests = struct.pack("<H", 0xB) + b"a" * 32 + struct.pack("<H", 0xC) + b"b" * 48
    record = struct.pack("<III", 4, 4, 2) + digests + struct.pack("<I", 2) + b"hi"
    (parsed,) = parse_ccel_untrusted(head + record)

    assert (parsed.register, parsed.digest, parsed.data) == (3, b"b" * 48, b"hi")


def test_the_size_of_a_log_is_bounded() -> None:
    assert reason_of(LOG + bytes(LOG_BYTES_MAX)) == "ccel-too-large"


def test_the_number_of_events_is_bounded() -> None:
    assert reason_of(encode_ccel([event(data=b"")] * (EVENTS_MAX + 1))) == "ccel-too-many-events"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_after_a_good_head_raise_only_the_declared_error(data: bytes) -> None:
    head = encode_ccel([])[:-4]
    with suppress(MalformedError):
        assert all(len(item.digest) == 48 for item in parse_ccel_untrusted(head + data))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_never_a_log(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_ccel_untrusted(data)


@given(st.integers(0, len(LOG) - 1), st.integers(1, 255))
def test_a_changed_byte_raises_only_the_declared_error(position: int, change: int) -> None:
    broken = bytearray(LOG)
    broken[position] ^= change
    with suppress(MalformedError):
        assert all(len(item.digest) == 48 for item in parse_ccel_untrusted(bytes(broken)))
