"""Strict JSON: whatever two readers could understand differently is refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import strict_json
from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError


def refusal(data, depth_max=8):
    with pytest.raises(MalformedError) as caught:
        parse_strict_untrusted(data, depth_max=depth_max, values_max=10**6)
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


def test_the_message_names_the_repeated_name_shortened_if_long():
    assert "'key'" in refusal(b'{"key":1,"key":2}').message
    assert len(refusal(b'{"%s":1,"%s":2}' % (b"x" * 9000, b"x" * 9000)).message) < 200


def test_the_same_name_in_different_objects_is_no_repetition():
    assert parse_strict_untrusted(b'[{"a":1},{"a":{"a":2}}]', depth_max=3, values_max=10**6) == [
        {"a": 1},
        {"a": {"a": 2}},
    ]


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
def test_json_that_parsers_read_differently_is_refused(data):
    assert refusal(data).reason == "json-invalid"


def test_a_surrogate_pair_is_one_character():
    assert parse_strict_untrusted(b'"\\ud83d\\ude00"', depth_max=1, values_max=10**6) == "\U0001f600"


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_containers_nest_up_to_the_limit_and_no_deeper(opened, closed):
    assert parse_strict_untrusted(opened * 8 + b"1" + closed * 8, depth_max=8, values_max=10**6)
    assert refusal(opened * 9 + b"1" + closed * 9).reason == "json-too-deep"
    assert refusal(opened * 100_000).reason == "json-too-deep"


@pytest.mark.parametrize("text", ["[[[[", '"[[[[', '\\\\"[[[[', "]]]]{{{{", "\\"])
def test_brackets_in_texts_and_names_nest_nothing(text):
    data = json.dumps([{text: text}, {text: [text]}]).encode()

    assert parse_strict_untrusted(data, depth_max=3, values_max=10**6) == [{text: text}, {text: [text]}]


@pytest.mark.parametrize(
    "data", [b'"' + b'\\"' * 500_000, b'"a' * 500_000, b"\\" * 1_000_000, b'"' + b"[" * 1_000_000 + b"\\"]
)
def test_invalid_json_takes_no_longer_than_valid_json(data):
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

    assert parse_strict_untrusted(data, depth_max=100, values_max=10**6) == value


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_one_kind_of_error(data):
    with contextlib.suppress(MalformedError):
        parse_strict_untrusted(data, depth_max=8, values_max=10**6)


# ---- how many values ------------------------------------------------------------------------
SHAPES = {
    "empty-lists": b"[],",
    "empty-objects": b"{},",
    "numbers": b"1,",
    "empty-texts": b'"",',
    "members": b'{"":0},',
    "nested": b"[[[[[[]]]]]],",
    "texts-of-commas": b'",",',
    "escaped-quotes": b'"\\"",',
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_megabyte_of_tiny_values_is_refused_before_any_is_built(kind, monkeypatch):
    """One command of 1 MiB of empty lists kept a leader busy for 3.3 s, its followers for 1.5 s."""

    class Unused:
        def raw_decode(self, _text):
            raise AssertionError("values were built")

    monkeypatch.setattr(strict_json, "DECODER", Unused())
    shape = SHAPES[kind]
    data = b"[" + shape * (2**20 // len(shape)) + b"0]"
    with pytest.raises(MalformedError) as caught:
        parse_strict_untrusted(data, depth_max=100, values_max=8192)

    assert caught.value.reason == "json-too-many-values"


@pytest.mark.parametrize(
    "text", ["," * 2**20, "[" * 2**20, '"' * 2**19, "\\" * 2**19, '\\"[' * 2**18], ids=lambda text: text[:3]
)
def test_the_content_of_a_string_does_not_count_as_values(text):
    data = json.dumps({"value": [text, text]}).encode()

    assert parse_strict_untrusted(data, depth_max=2, values_max=4) == {"value": [text, text]}


def parts_of(value):
    """Commas and opening brackets of ``value`` in JSON."""
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(parts_of, value))
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + sum(map(parts_of, value.values()))
    return 0


texts = st.text(alphabet='a,[{}]"\\\u00e9', max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


@given(values, st.booleans())
def test_exactly_the_allowed_number_of_parts_is_accepted(value, ascii_only):
    data, count = json.dumps(value, ensure_ascii=ascii_only).encode(), parts_of(value)

    assert parse_strict_untrusted(data, depth_max=100, values_max=count) == value
    if count:
        with pytest.raises(MalformedError) as caught:
            parse_strict_untrusted(data, depth_max=100, values_max=count - 1)
        assert caught.value.reason == "json-too-many-values"
