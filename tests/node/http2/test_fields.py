"""RFC 9113 8.2 and 8.3: what is a request, by a table; and no more than HTTP/1.1 lets pass."""

import random

import hpack
import pytest

from node.api.requests import RequestHead, read_head_untrusted
from node.http2.errors import BadFieldsError, ConnectionFaultError
from node.http2.fields import HeaderDecoder, encode_answer, read_request_untrusted

PSEUDO = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a:1"), (b":path", b"/x?y=1")]


def read(*fields):
    return read_request_untrusted(list(fields), 100)


def without(name):
    return [field for field in PSEUDO if field[0] != name]


def other(name, value):
    return [(name, value) if field[0] == name else field for field in PSEUDO]


BAD = {
    "upper-case": [*PSEUDO, (b"Accept", b"x")],
    "upper-case-pseudo": [(b":Method", b"GET"), *without(b":method")],
    "an-empty-name": [*PSEUDO, (b"", b"x")],
    "a-space-in-a-name": [*PSEUDO, (b"a b", b"x")],
    "a-colon-in-a-name": [*PSEUDO, (b"a:b", b"x")],
    "a-line-break-in-a-name": [*PSEUDO, (b"a\r\nb", b"x")],
    "a-name-beyond-ascii": [*PSEUDO, ("\u00fc".encode(), b"x")],
    "carriage-return": [*PSEUDO, (b"a", b"x\ry")],
    "line-feed": [*PSEUDO, (b"a", b"x\ny")],
    "nul": [*PSEUDO, (b"a", b"x\0y")],
    "delete": [*PSEUDO, (b"a", b"x\x7fy")],
    "a-space-in-front": [*PSEUDO, (b"a", b" x")],
    "a-space-behind": [*PSEUDO, (b"a", b"x ")],
    "a-tab-behind": [*PSEUDO, (b"a", b"x\t")],
    "a-space-alone": [*PSEUDO, (b"a", b" ")],
    "connection": [*PSEUDO, (b"connection", b"close")],
    "keep-alive": [*PSEUDO, (b"keep-alive", b"1")],
    "proxy-connection": [*PSEUDO, (b"proxy-connection", b"x")],
    "transfer-encoding": [*PSEUDO, (b"transfer-encoding", b"chunked")],
    "upgrade": [*PSEUDO, (b"upgrade", b"h2c")],
    "te": [*PSEUDO, (b"te", b"gzip")],
    "te-and-more": [*PSEUDO, (b"te", b"trailers, gzip")],
    "method-twice": [*PSEUDO[:1], *PSEUDO],
    "path-twice": [*PSEUDO, (b":path", b"/x?y=1")],
    "scheme-twice": [*PSEUDO, (b":scheme", b"https")],
    "authority-twice": [*PSEUDO, (b":authority", b"a:1")],
    "pseudo-behind-a-field": [*without(b":path"), (b"a", b"x"), (b":path", b"/")],
    "status": [*PSEUDO, (b":status", b"200")],
    "unknown-pseudo": [*PSEUDO, (b":x", b"y")],
    "no-method": without(b":method"),
    "no-scheme": without(b":scheme"),
    "no-path": without(b":path"),
    "an-empty-path": other(b":path", b""),
    "no-authority-and-no-host": without(b":authority"),
    "an-empty-authority-with-another-host": [*other(b":authority", b""), (b"host", b"b:1")],
    "another-host": [*PSEUDO, (b"host", b"b:1")],
    "another-port": [*PSEUDO, (b"host", b"a:2")],
    "host-twice": [*PSEUDO, (b"host", b"a:1"), (b"host", b"a:1")],
    "userinfo": other(b":authority", b"me@a:1"),
    "an-authority-with-a-path": other(b":authority", b"a:1/x"),
    "connect": other(b":method", b"CONNECT"),
    "connect-as-rfc-9113-has-it": [(b":method", b"CONNECT"), (b":authority", b"a:1")],
    "extended-connect": [*other(b":method", b"CONNECT"), (b":protocol", b"websocket")],
    "a-lower-case-method": other(b":method", b"get"),
    "a-method-with-a-space": other(b":method", b"GET /x"),
    "http": other(b":scheme", b"http"),
    "another-scheme": other(b":scheme", b"ftp"),
    "a-whole-url": other(b":path", b"https://a:1/x"),
    "asterisk": other(b":path", b"*"),
    "a-fragment": other(b":path", b"/x#y"),
    "a-space-in-the-path": other(b":path", b"/x y"),
    "a-line-break-in-the-path": other(b":path", b"/x HTTP/1.1\r\nhost: b"),
    "a-broken-escape": other(b":path", b"/%zz"),
    "content-length-twice": [*PSEUDO, (b"content-length", b"1"), (b"content-length", b"1")],
    "a-signed-length": [*PSEUDO, (b"content-length", b"+1")],
    "a-list-of-lengths": [*PSEUDO, (b"content-length", b"1, 1")],
    "no-length": [*PSEUDO, (b"content-length", b"")],
    "an-endless-length": [*PSEUDO, (b"content-length", b"1" * 16)],
    "content-type-twice": [*PSEUDO, (b"content-type", b"a/b"), (b"content-type", b"a/b")],
    "expect": [*PSEUDO, (b"expect", b"200-ok")],
    "nothing": [],
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused(name):
    with pytest.raises(BadFieldsError) as caught:
        read(*BAD[name])
    assert caught.value.code == "http-invalid"


def test_a_request_is_handed_on_with_its_host_first_and_its_fields_in_order():
    head = read(*PSEUDO, (b"a", b"\xff x"), (b"te", b"trailers"), (b"b", b""), (b"content-length", b"07"))

    assert (head.method, head.target, head.body_bytes) == (b"GET", b"/x?y=1", 7)
    assert head.fields == [
        (b"host", b"a:1"),
        (b"a", b"\xff x"),
        (b"te", b"trailers"),
        (b"b", b""),
        (b"content-length", b"07"),
    ]


def test_a_host_field_may_stand_for_the_authority_or_repeat_it():
    assert read(*without(b":authority"), (b"host", b"b:2")).fields == [(b"host", b"b:2")]
    assert read(*PSEUDO, (b"host", b"A:1")).fields == [(b"host", b"a:1")]


def test_crumbs_of_a_cookie_become_one():
    head = read(*PSEUDO, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"))

    assert head.fields[1:] == [(b"x", b"y"), (b"cookie", b"a=1; b=2")]


def test_fields_beyond_their_number_are_too_large_a_head():
    read(*PSEUDO, *[(b"a", b"")] * 100)
    with pytest.raises(BadFieldsError) as caught:
        read(*PSEUDO, *[(b"a", b"")] * 101)
    assert caught.value.code == "head-too-large"


NAMES = [
    b"a",
    b"A",
    b"host",
    b"content-length",
    b"content-type",
    b"expect",
    b"te",
    b"a b",
    b"x:y",
    b"cookie",
    b"",
]
VALUES = [
    b"1",
    b"",
    b"a:1",
    b"b:2",
    b"100-continue",
    b"trailers",
    b" x",
    b"x\ty",
    b"\xff",
    b"x\r\ny: z",
    b"x\0",
    b"1, 1",
]
PATHS = [b"/", b"/x?y", b"/%41", b"/%4", b"*", b"/a b", b"/#", b"/x HTTP/1.1\r\na: b", b"//", b"https://a/"]
METHODS = [b"GET", b"POST", b"CONNECT", b"get", b"GET /", b"X" * 33]


def test_http_2_lets_pass_nothing_that_http_1_1_does_not():
    """What passes, written down as HTTP/1.1, is one request there, with the same body."""
    rng, passed = random.Random(7), 0
    for _ in range(20_000):
        pseudo = {
            b":method": rng.choice(METHODS[: rng.choice([2, 6])]),
            b":scheme": rng.choice([b"https", b"http"]),
            b":authority": rng.choice([b"a:1", b"A", b"", b"a b", b"[::1]:8", b"x@a"]),
            b":path": rng.choice(PATHS[: rng.choice([3, 10])]),
        }
        fields = [
            *pseudo.items(),
            *((rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.randrange(4))),
        ]
        try:
            head = read(*fields)
        except BadFieldsError:
            continue
        passed += 1
        lines = [
            b"%b %b HTTP/1.1" % (head.method, head.target),
            *(b"%b: %b" % field for field in head.fields),
        ]
        there = read_head_untrusted(b"\r\n".join([*lines, b"", b""]))
        assert there == RequestHead(head.body_bytes or 0, chunked=False, last=False)
    assert passed > 500


@pytest.mark.parametrize(
    "field", [(b"a", b"x\r\nset-cookie: y"), (b"a", b"x\0"), (b"A", b"x"), (b"a\n", b"x")]
)
def test_an_answer_never_carries_a_field_that_another_reader_could_split(field):
    with pytest.raises(AssertionError):
        encode_answer(200, [field])


# ---- HPACK -----------------------------------------------------------------------------------
def count_decoded(monkeypatch):
    decoded = []
    real = hpack.Decoder.decode
    monkeypatch.setattr(
        hpack.Decoder,
        "decode",
        lambda self, block, raw=False: decoded.append(block) or real(self, block, raw),
    )
    return decoded


def test_a_block_that_is_repeated_is_decoded_once(monkeypatch):
    decoded = count_decoded(monkeypatch)
    decoder, encoder = HeaderDecoder(1000), hpack.Encoder()
    fields = [(b"a", b"1"), (b"b", b"2")]
    blocks = [encoder.encode(fields) for _ in range(5)]

    assert [decoder.decode_untrusted(block) for block in blocks] == [fields] * 5
    assert len(decoded) == 2  # with the fields, and with their indices


CHANGES = {
    "another field": b"\x40\x01c\x013",
    "a smaller table": b"\x3f\x09",  # 40: room for one entry
    "no table, and then one": b"\x20\x3f\xe1\x1f",
    "a field that is larger than the table": b"\x40\x01c\x7f\xa1\x1f" + b"x" * 4128,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_repeated_block_is_decoded_again_once_the_table_has_changed(change):
    """The same index means another field then, or none."""
    decoder, plain = HeaderDecoder(10_000), hpack.Decoder(10_000)

    def both(block):
        try:
            there = [tuple(field) for field in plain.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(ConnectionFaultError):
                decoder.decode_untrusted(block)
            return
        assert decoder.decode_untrusted(block) == there

    for block in (b"\x40\x01a\x011\x40\x01b\x012", b"\xbe\xbf", b"\xbe\xbf", CHANGES[change], b"\xbe\xbf"):
        both(block)


def test_random_blocks_decode_as_without_the_memory_of_the_last_one():
    rng = random.Random(5)
    pieces = [
        b"\x82",
        b"\xbe",
        b"\xbf",
        b"\x40\x01a\x011",
        b"\x40\x01b\x012",
        b"\x00\x01c\x013",
        b"\x7e\x019",
    ]
    blocks = [b"".join(rng.choices(pieces, k=rng.randrange(4))) for _ in range(12)] + [
        b"\x3f\x29",
        b"\x3f\xe1\x1f",
    ]
    for _ in range(300):
        decoder, plain = HeaderDecoder(10_000), hpack.Decoder(10_000)
        for _ in range(40):
            block = rng.choice(blocks)
            try:
                there = [tuple(field) for field in plain.decode(block, raw=True)]
            except hpack.HPACKError:
                with pytest.raises(ConnectionFaultError):
                    decoder.decode_untrusted(block)
                break
            assert decoder.decode_untrusted(block) == there
