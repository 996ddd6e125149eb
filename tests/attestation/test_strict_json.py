"""Strict JSON: whatever two readers could understand differently is refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.strict_json import parse_strict_untrusted


def refusal(data, depth_max=8):
    with pytest.raises(MalformedError) as caught:
        parse_strict_untrusted(data, depth_max=depth_max)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"deep":[{"a":{"x":1,"x":2}}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"":1,"":2}',
    ],
)
def test_a_member_name_that_occurs_twice_is_refused(data):
    assert refusal(data).reason == "json-member-repeated"


def test_the_repeated_name_is_told_but_not_all_of_a_long_one():
    assert "'key'" in refusal(b'{"key":1,"key":2}').message
    assert len(refusal(b'{"%s":1,"%s":2}' % (b"x" * 9000, b"x" * 9000)).message) < 200


def test_the_same_name_in_different_objects_is_no_repetition():
    assert parse_strict_untrusted(b'[{"a":1},{"a":{"a":2}}]', depth_max=3) == [{"a": 1}, {"a": {"a": 2}}]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"{} {}",
        b"[1,]",
        b"{'a':1}",
        b"NaN",
        b"-Infinity",
        b'{"a":Infinity}',
        b'"\xff"',
        b'\xef\xbb\xbf"bom"',
        b'"\x01"',
        b'"\\ud800"',
        b'{"a":["\\uDFFF"]}',
        b'{"\\ud83d":1}',
        b"9" * 5000,
    ],
    ids=lambda data: repr(data)[:24],
)
def test_what_is_not_json_for_everybody_is_refused(data):
    assert refusal(data).reason == "json-invalid"


def test_a_surrogate_pair_is_one_character():
    assert parse_strict_untrusted(b'"\\ud83d\\ude00"', depth_max=1) == "\U0001f600"


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_containers_nest_up_to_the_limit_and_no_deeper(opened, closed):
    assert parse_strict_untrusted(opened * 8 + b"1" + closed * 8, depth_max=8)
    assert refusal(opened * 9 + b"1" + closed * 9).reason == "json-too-deep"
    assert refusal(opened * 100_000).reason == "json-too-deep"


@pytest.mark.parametrize("text", ["[[[[", '"[[[[', '\\\\"[[[[', "]]]]{{{{", "\\"])
def test_brackets_in_texts_and_names_nest_nothing(text):
    data = json.dumps([{text: text}, {text: [text]}]).encode()

    assert parse_strict_untrusted(data, depth_max=3) == [{text: text}, {text: [text]}]


@pytest.mark.parametrize(
    "data", [b'"' + b'\\"' * 500_000, b'"a' * 500_000, b"\\" * 1_000_000, b'"' + b"[" * 1_000_000 + b"\\"]
)
def test_what_is_no_json_takes_no_longer_than_what_is(data):
    """Each start of a text is looked at once: quadratic time would run into the tests' limit."""
    assert refusal(data).reason == "json-invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.booleans())
def test_a_value_comes_back_as_it_was(value, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert parse_strict_untrusted(data, depth_max=100) == value


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_one_kind_of_error(data):
    with contextlib.suppress(MalformedError):
        parse_strict_untrusted(data, depth_max=8)
