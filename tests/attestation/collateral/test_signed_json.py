"""Signed JSON: the exact bytes, nothing twice, nothing deep, nothing left over."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.signed_json import (
    DEPTH_MAX,
    DOCUMENT_BYTES_MAX,
    TEXT,
    UINT16,
    advisory_ids,
    extract_signed_untrusted,
    hex_of,
    parse_json_untrusted,
    read_map,
    time,
)
from attestation.encoding.fields import array
from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError
from tests.support.vectors import needs_vectors, vector

SIGNATURE = "ab" * 64


def _extract(body: bytes) -> tuple[bytes, bytes]:
    return extract_signed_untrusted(body, member="tcbInfo", code="tcb-info")


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b'{"a":1}',
        b'{ "a" : [1, 2] }',
        b'{"brace":"}","quote":"\\"}","nested":{"tcbInfo":{}}}',
        '{"text":"größer"}'.encode(),
    ],
)
@pytest.mark.parametrize("order", ["document first", "signature first", "spaces"])
def test_the_signed_part_is_cut_out_byte_for_byte(document, order):
    bodies = {
        "document first": b'{"tcbInfo":%s,"signature":"%s"}',
        "signature first": b'{"signature":"%s","tcbInfo":%s}',
        "spaces": b' { "other" : {"tcbInfo": 1} , "tcbInfo" :\n%s , "signature":\t"%s" } ',
    }
    parts = (document, SIGNATURE.encode())
    body = bodies[order] % (parts[::-1] if order == "signature first" else parts)

    assert _extract(body) == (document, bytes.fromhex(SIGNATURE))


@needs_vectors
@pytest.mark.parametrize("name", ["google-sample_tcbInfo_response", "google-sample_tcbinfo_response_v5"])
def test_a_real_answer_is_cut_out_byte_for_byte(name):
    body = vector("pcs", name)

    raw, signature = _extract(body)

    assert raw in body
    assert raw == json.dumps(json.loads(body)["tcbInfo"], separators=(",", ":")).encode()
    assert len(signature) == 64


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"tcbInfo":{}}',
        b'{"signature":"%s"}' % SIGNATURE.encode(),
        b'{"tcbInfo":"{}","signature":"%s"}' % SIGNATURE.encode(),
        b'{"tcbInfo":{},"signature":"ab"}',
        b'{"tcbInfo":{},"signature":"%s"}' % (b"zz" * 64),
        b'{"tcbInfo":{},"signature":1}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":"%s"}' % SIGNATURE.encode(),
        b'{"tcbInfo":{},"signature":"%s"} x' % SIGNATURE.encode(),
    ],
)
def test_a_body_without_document_and_signature_is_malformed(body):
    with pytest.raises(MalformedError, match="tcb-info-malformed"):
        _extract(body)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a":1,"a":1}', id="duplicate"),
        pytest.param(b'{"x":{"a":1,"b":2,"a":3}}', id="nested-duplicate"),
        pytest.param(b'{"a":NaN}', id="nan"),
        pytest.param(b"[Infinity]", id="infinity"),
        pytest.param(b"{}{}", id="two-values"),
        pytest.param(b"{} \0", id="trailing"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param(b'{"a":"\xff"}', id="not-utf-8"),
        pytest.param(b'{"a":"\n"}', id="control-character"),
        pytest.param(b"[" * 100_000, id="deep-and-open"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        pytest.param(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), id="one-too-deep"),
        pytest.param(b'{"a":' * (DEPTH_MAX + 1) + b"1" + b"}" * (DEPTH_MAX + 1), id="deep-objects"),
        pytest.param(b"9" * 10_000, id="huge-number"),
        pytest.param(b" " * (DOCUMENT_BYTES_MAX + 1), id="too-large"),
    ],
)
def test_json_that_is_not_strict_is_malformed(data):
    with pytest.raises(MalformedError, match="x-malformed"):
        parse_json_untrusted(data, code="x")


def test_depth_is_counted_outside_of_strings():
    deep = b"[" * DEPTH_MAX + b'"[[[[{{{{ \\" ]]"' + b"]" * DEPTH_MAX

    assert parse_json_untrusted(deep, code="x")


# Texts with much in them that is brackets, quotes and escapes.
_texts = st.text(alphabet='[]{}"\\ae') | st.text()
json_values = st.recursive(
    st.none() | st.booleans() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_what_json_writes_is_read_unless_it_is_too_deep(value):
    text = json.dumps(value)
    depth = _depth(value)
    if depth > DEPTH_MAX:
        with pytest.raises(MalformedError):
            parse_json_untrusted(text.encode(), code="x")
        return

    assert parse_json_untrusted(text.encode(), code="x") == value


def _depth(value) -> int:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return 1 + max(map(_depth, items), default=0)
    return 0


@given(st.text(alphabet='[]{}"\\:,1 ', max_size=40))
def test_no_spelling_hides_depth(text):
    """Whatever stands before it, what the decoder would follow too deep is refused before it is decoded."""
    deep = text + "[" * 100_000

    with pytest.raises(MalformedError, match="x-malformed"):
        parse_json_untrusted(deep.encode(), code="x")


@given(json_values)
def test_depth_is_that_of_the_value(value):
    depth = _depth(value)
    for data in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False, indent=1).encode()):
        assert parse_strict_untrusted(data, depth_max=depth, values_max=10**6) == value
        if depth > 0:
            with pytest.raises(MalformedError, match="json-too-deep"):
                parse_strict_untrusted(data, depth_max=depth - 1, values_max=10**6)


@given(st.binary(max_size=300))
def test_any_bytes_are_json_or_malformed(data):
    try:
        parse_json_untrusted(data, code="x")
    except MalformedError:
        return
    json.loads(data)


@pytest.mark.parametrize(
    "read",
    [
        lambda m: m.take("absent", TEXT),
        lambda m: m.take("number", TEXT),
        lambda m: m.take("too_long", TEXT),
        lambda m: m.take("text", UINT16),
        lambda m: m.take("true", UINT16),
        lambda m: m.take("float", UINT16),
        lambda m: m.take("large", UINT16),
        lambda m: m.take("negative", UINT16),
        lambda m: m.take("text", hex_of(1)),
        lambda m: m.take("hex", hex_of(3)),
        lambda m: m.take("text", time),
        lambda m: m.take("offset", time),
        lambda m: m.take("impossible", time),
        lambda m: advisory_ids(m),
        lambda m: m.below("array"),
        lambda m: m.each_below("text", array(9)),
        lambda m: m.each_below("many", array(1024)),
        lambda m: m.each_below("array", array(9)),
    ],
)
def test_a_member_of_another_type_is_malformed_and_named(read):
    members = read_map(
        {
            "text": "zz",
            "number": 5,
            "negative": -1,
            "true": True,
            "float": 5.0,
            "too_long": "x" * 257,
            "large": 0x10000,
            "advisoryIDs": ["INTEL-SA-00001", "INTEL SA"],
            "hex": "abcd",
            "offset": "2026-01-01T00:00:00+00:00",
            "impossible": "2026-02-30T00:00:00Z",
            "array": [1],
            "many": [0] * 1025,
        },
        code="x",
        path="outer",
    )
    with pytest.raises(MalformedError, match="x-malformed") as refused:
        read(members)

    assert refused.value.values["member"].startswith("outer.")
