"""The guest's own code, as far as it needs no guest."""

import importlib
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import harness


@pytest.fixture(scope="module", autouse=True)
def guest_on_path():
    sys.path.insert(0, str(harness.SCRIPTS))
    yield
    sys.path.remove(str(harness.SCRIPTS))


def dhcp():
    return importlib.import_module("guest.dhcp")


HARDWARE = bytes.fromhex("525400123456")


def answer(kind=5, *, transaction=7, hardware=HARDWARE, options=None, address="10.0.2.15"):
    given_address = bytes(map(int, address.split(".")))
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s192x",
        2,
        1,
        6,
        0,
        transaction,
        0,
        0,
        bytes(4),
        given_address,
        bytes(4),
        bytes(4),
        hardware.ljust(16, b"\0"),
    )
    values = {
        53: bytes([kind]),
        1: bytes([255, 255, 255, 0]),
        3: bytes([10, 0, 2, 2]),
        6: bytes([10, 0, 2, 3]),
        51: (3600).to_bytes(4, "big"),
        54: bytes([10, 0, 2, 2]),
    }
    values |= options or {}
    body = b"".join(bytes([code, len(value)]) + value for code, value in values.items() if value is not None)
    return head + b"\x63\x82\x53\x63" + body + b"\xff"


def parse(data):
    return dhcp().parse_answer_untrusted(data, transaction=7, hardware=HARDWARE)


def test_a_lease_is_read_and_its_renewal_is_due_at_half_its_time():
    kind, lease = parse(answer())

    assert kind == dhcp().ACK
    assert (str(lease.address), lease.prefix, lease.seconds, lease.renew_after) == (
        "10.0.2.15",
        24,
        3600,
        1800,
    )
    assert [str(router) for router in lease.routers] == ["10.0.2.2"]


def test_a_renewing_request_carries_the_address_and_no_choice_of_server():
    _, lease = parse(answer())
    renewing = dhcp().message(3, transaction=9, hardware=HARDWARE, bound=lease.address)
    requesting = dhcp().message(3, transaction=9, hardware=HARDWARE, offered=lease)

    assert renewing[12:16] == lease.address.packed
    assert b"\x36\x04" not in renewing[240:]
    assert requesting[12:16] == bytes(4)
    assert b"\x32\x04" + lease.address.packed + b"\x36\x04" + lease.server.packed in requesting


def test_a_refusal_gives_no_lease():
    assert parse(answer(6)) == (6, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answer(transaction=8),
        answer(hardware=bytes(6)),
        answer(2)[:200],
        answer(9),
        answer(address="0.0.0.0"),
        answer(address="224.0.0.1"),
        answer(address="127.0.0.1"),
        answer(options={1: None}),
        answer(options={1: bytes([255, 0, 255, 0])}),
        answer(options={1: bytes(4)}),
        answer(options={51: b"\0"}),
        answer(options={54: None}),
        answer(options={6: b"abc"}),
        answer()[:-8],
        answer() + bytes(2000),
    ],
)  # fmt: skip
def test_answers_that_are_not_for_us_or_make_no_sense_are_refused(data):
    with pytest.raises(dhcp().DhcpError):
        parse(data)


def test_a_host_cannot_make_the_guest_ask_all_the_time():
    assert parse(answer(options={51: bytes(4)}))[1].seconds == dhcp().LEASE_SECONDS_MIN


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_foreign_answers_raise_the_declared_error_only(tail):
    try:
        parse(answer()[:240] + tail)
    except dhcp().DhcpError:
        pass
