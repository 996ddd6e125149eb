"""One encoding of a value, and nothing but plain data out of foreign bytes."""

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.canonical import DEPTH_MAX, decode_untrusted, digest, encode
from attestation.errors import MalformedError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> bytes:
    return b"\x81" * depth + b"\x00"


@given(PLAIN)
def test_plain_data_survives_the_round_trip(value):
    assert decode_untrusted(encode(value), bytes_max=100_000) == value


@given(st.binary(max_size=200))
def test_garbage_raises_only_the_declared_error(data):
    with contextlib.suppress(MalformedError):
        decode_untrusted(data, bytes_max=1000)


def test_the_order_of_a_maps_keys_changes_nothing():
    assert encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1})


def test_digests_tell_apart_what_concatenation_would_not():
    assert digest("d", b"ab", b"c") != digest("d", b"a", b"bc")
    assert digest("d", [b"a"], b"b") != digest("d", [b"a", b"b"])
    assert digest("d", b"a") != digest("e", b"a")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cbor-invalid"),
        (b"\x82\x01", "cbor-invalid"),
        (b"\x01\x02", "cbor-trailing"),
        (cbor2.dumps(1.5), "cbor-type"),
        (cbor2.dumps([1, {"a": 1.5}]), "cbor-type"),
        (cbor2.dumps(cbor2.CBORTag(4711, 1)), "cbor-type"),
        (cbor2.dumps(cbor2.undefined), "cbor-type"),
        (cbor2.dumps({1: 2}), "cbor-key"),
        (cbor2.dumps([{b"k": 2}]), "cbor-key"),
        (nested(DEPTH_MAX + 2), "cbor-too-deep"),
        (nested(5000), "cbor-invalid"),
        (b"\x00" * 101, "cbor-too-large"),
    ],
)
def test_what_is_not_plain_data_is_refused(data, reason):
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(data, bytes_max=100 if len(data) == 101 else 100_000)

    assert caught.value.reason == reason


def test_the_deepest_allowed_value_is_allowed():
    assert decode_untrusted(nested(DEPTH_MAX), bytes_max=1000)
