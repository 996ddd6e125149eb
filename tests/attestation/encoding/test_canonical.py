"""One encoding of a value, and nothing but plain data out of foreign bytes."""

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import canonical
from attestation.encoding.canonical import (
    DEPTH_MAX,
    decode_each_untrusted,
    decode_untrusted,
    digest,
    encode,
)
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
    assert decode_untrusted(encode(value), bytes_max=100_000, items_max=100_000) == value


@given(st.binary(max_size=200))
def test_garbage_raises_only_the_declared_error(data):
    with contextlib.suppress(MalformedError):
        decode_untrusted(data, bytes_max=1000, items_max=1000)


def test_the_order_of_a_maps_keys_changes_nothing():
    assert encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1})


# As clients send them: few items, text keys in any order, and what is no plain data.
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=70)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["op", "key", "value"]), inner, max_size=5)
        | st.dictionaries(st.integers() | st.binary(max_size=2), inner, max_size=2)
    ),
    max_leaves=20,
)


@given(ANY)
def test_a_value_whose_keys_are_in_order_already_has_the_one_encoding_too(value):
    assert encode(value) == cbor2.dumps(value, canonical=True)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"op": 1, "key": 2, "kez": 3}, "a3626f7001636b657902636b657a03"),
        ({"key": 2, "op": 1}, "a2626f7001636b657902"),
        ({"kez": 3, "key": 2}, "a2636b657902636b657a03"),
        ([{"b": 0, "a": 0}], "81a2616100616200"),
        ({"a": [{"d": 0, "c": 0}]}, "a1616181a2616300616400"),
        ({"": 0, "a": 0}, "a26000616100"),
        ({"aa": 0, "\u00e4": 0}, "a262616100" + "62c3a400"),  # two bytes each
        ([1.0], "81f93c00"),
    ],
)
def test_maps_are_in_the_order_of_their_encoded_keys_and_floats_are_short(value, encoded):
    assert encode(value).hex() == encoded


def test_digests_distinguish_what_concatenation_would_not():
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
        decode_untrusted(data, bytes_max=100 if len(data) == 101 else 100_000, items_max=100_000)

    assert caught.value.reason == reason


def test_the_deepest_allowed_value_is_allowed():
    assert decode_untrusted(nested(DEPTH_MAX), bytes_max=1000, items_max=1000)


def shared(doublings: int) -> bytes:
    """An array of pairs, each twice the pair before it by reference (tags 28 and 29)."""
    pairs = [b"\xd8\x1c\x82\x00\x00"]
    for number in range(doublings):
        reference = b"\xd8\x1d" + cbor2.dumps(number)
        pairs.append(b"\xd8\x1c\x82" + reference + reference)
    return bytes((0x98, len(pairs))) + b"".join(pairs)


@pytest.mark.parametrize("doublings", [10, 30, 200])
def test_a_few_shared_references_do_not_make_a_tree_too_large_to_walk(doublings):
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(shared(doublings), bytes_max=10_000, items_max=10_000)

    assert caught.value.reason == "cbor-invalid"


def test_an_array_within_itself_is_refused():
    for data in (b"\xd8\x1c\x81\xd8\x1d\x00", b"\xd8\x1c\x82\xd8\x1d\x00\xd8\x1d\x00"):
        with pytest.raises(MalformedError):
            decode_untrusted(data, bytes_max=100, items_max=100)


def judge(data: bytes, bytes_max: int) -> object:
    try:
        return decode_untrusted(data, bytes_max=bytes_max, items_max=bytes_max)
    except MalformedError as exc:
        return exc.reason


def judge_each(encoded: list[bytes], bytes_max: int) -> list[object]:
    return [
        value.reason if isinstance(value, MalformedError) else value
        for value in decode_each_untrusted(encoded, bytes_max=bytes_max)
    ]


PIECES = (
    PLAIN.map(encode)
    | st.binary(max_size=8)
    # Halves and doubles: what borders on them must not make up for what they lack, or take what is too much.
    | st.tuples(PLAIN.map(encode), st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]])
    | st.tuples(PLAIN.map(encode), PLAIN.map(encode)).map(b"".join)
    | st.binary(min_size=250, max_size=600).map(encode)
    | st.sampled_from([shared(12), nested(DEPTH_MAX + 2), cbor2.dumps(1.5)])
)


@given(st.lists(PIECES, max_size=12))
def test_decoding_many_is_decoding_each(encoded):
    assert judge_each(encoded, 500) == [judge(data, 500) for data in encoded]


def test_no_item_knows_of_those_before_it():
    """Otherwise the content of an entry would depend on which entries it was decoded together with."""
    shared_array, reference = b"\xd8\x1c\x82\x00\x01", b"\xd8\x1d\x00"
    named, name = b"\xd9\x01\x00\x82\x64abcd\xd8\x19\x00", b"\xd8\x19\x00"

    assert judge_each([shared_array, reference, named, name, b"\x01"], 100) == ["cbor-invalid"] * 4 + [1]


def tagged(tag: int, item: bytes) -> bytes:
    head = bytearray(cbor2.dumps(tag))
    head[0] |= 0xC0
    return bytes(head) + item


BUILT = (*range(256), 256, 257, 258, 259, 260, 261, 1004, 43000, 43001, 55799, 4711, 2**32)


@pytest.mark.parametrize(
    "item", [b"\x01", b"\x41\x01", b"\x61a", b"\x82\x20\x01", b"\x81\x01", b"\xa1\x61a\x01"]
)
def test_nothing_is_built_of_any_tag_but_a_big_integer(item):
    """A decimal of 100 kB took a second of the loop, before any ticket was shown; each doubling four times that."""
    for tag in BUILT:
        value = cbor2.loads(tagged(tag, item)) if is_known(tag, item) else None
        judged = judge(tagged(tag, item), 100)
        if tag in (2, 3) and item == b"\x41\x01":
            assert judged == value
        else:
            # Of what cbor2 would build nothing was; what it does not know is refused as it is.
            assert judged == ("cbor-type" if isinstance(value, cbor2.CBORTag) else "cbor-invalid")


def is_known(tag: int, item: bytes) -> bool:
    """Return whether cbor2 takes this at all."""
    try:
        cbor2.loads(tagged(tag, item))
    except cbor2.CBORDecodeError:
        return False
    return True


# ---- items before values -------------------------------------------------------------
SHAPES = {
    "empty-lists": b"\x80",
    "empty-maps": b"\xa0",
    "small-numbers": b"\x00",
    "nulls": b"\xf6",
    "empty-texts": b"\x60",
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_megabyte_of_tiny_items_is_refused_before_any_is_built(kind, monkeypatch):
    """1 MiB of empty lists before admission kept the loop busy for 2.5 s."""

    def build(_data):
        raise AssertionError("values were built")

    monkeypatch.setattr(canonical, "_decode_untrusted", build)
    count = 2**20
    data = b"\x9a" + count.to_bytes(4, "big") + SHAPES[kind] * count
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(data, bytes_max=2**21, items_max=4096)

    assert caught.value.reason == "cbor-too-many-items"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=40,
)


def items_of(value):
    if isinstance(value, list):
        return 1 + sum(map(items_of, value))
    if isinstance(value, dict):
        return 1 + sum(1 + items_of(item) for item in value.values())
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**64) <= value < 2**64:
        return 2  # a tag and a byte string
    return 1


@given(plain)
def test_exactly_the_allowed_number_of_items_is_accepted(value):
    data, count = encode(value), items_of(value)

    assert decode_untrusted(data, bytes_max=100_000, items_max=count) == value
    if len(data) > count > 1:
        with pytest.raises(MalformedError) as caught:
            decode_untrusted(data, bytes_max=100_000, items_max=count - 1)
        assert caught.value.reason == "cbor-too-many-items"


@given(st.binary(max_size=300))
def test_no_bytes_build_more_items_than_were_counted(data):
    with contextlib.suppress(MalformedError):
        value = decode_untrusted(data, bytes_max=300, items_max=5)
        assert items_of(value) <= 5 + isinstance(value, int)
