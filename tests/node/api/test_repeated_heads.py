"""A head that comes again on its connection is not parsed again, and no client sees that in the answers.

The client may change values that ordinary clients change for each request, such as its Idempotency-Key.
"""

import re

import msgspec
import pytest

from node.api import protocol
from node.api.requests import BadRequestError, RequestReader
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served
from tests.node.api.raw import connection

OF_THE_RUN = re.compile(rb"(?:date|bondstone-request): [^\r]*\r\n")


def request(method=b"POST", path=b"/v1/commands", body=b"", *more, role=AccessRole.ADMIN):
    fields = [b"host: localhost", b"authorization: Bearer " + TOKENS[role].encode(), *more]
    if body:
        fields += [b"content-type: application/json", b"content-length: %d" % len(body)]
    return b"\r\n".join([b"%s %s HTTP/1.1" % (method, path), *fields, b"", body])


def put(value=b"v", *more):
    return request(
        b"POST", b"/v1/commands", b'{"command":{"op":"put","key":"k","value":"%s"}}' % value, *more
    )


GET = request(b"POST", b"/v1/queries", b'{"query":{"op":"get","key":"k"}}')
FIRST = put()


def keyed(key, value=b"v", *more):
    return put(value, b"Idempotency-Key: " + key, *more)


def traced(number, *more):
    return put(b"v", b"X-Request-ID: %d" % number, b"traceparent: 00-%d" % number, *more)


# As ``SENT``: every head but the first has the form of the one before it.
OF_ONE_FORM = {
    "other keys": [keyed(b"a"), keyed(b"b"), keyed(b"c" * 128), keyed(b"a")],
    "the same key between others": [keyed(b"a"), keyed(b"b"), keyed(b"b"), keyed(b"c"), keyed(b"c")],
    "a key that is too long": [keyed(b"a"), keyed(b"b" * 129), keyed(b"c")],
    "other lengths": [put(b"v"), put(b"v" * 9), put(b"v" * 100), put(b"w")],
    "other keys and lengths": [keyed(b"a"), keyed(b"b", b"w" * 99), keyed(b"c", b"v")],
    "other requests' ids": [traced(1), traced(22), traced(3)],
    "a body from none": [
        request(b"POST", b"/v1/commands", b"{}"),
        request(b"POST", b"/v1/commands", b"{}").replace(b"length: 2\r\n\r\n{}", b"length: 0\r\n\r\n"),
    ],
    "two keys in two writings": [
        keyed(b"a", b"v", b"idempotency-key:  b"),
        keyed(b"c", b"v", b"idempotency-key:  b"),
    ],
}
# As ``SENT``: heads that differ from the one before them by more than such a value.
OF_OTHER_FORMS = {
    "a key with a space": [keyed(b"a"), keyed(b"b c"), keyed(b"d")],
    "an empty key": [keyed(b"a"), keyed(b""), keyed(b"d")],
    "a key with more spaces": [keyed(b"a"), keyed(b"  b"), keyed(b"c ")],
    "a key that ends the connection": [keyed(b"a"), keyed(b"b\r\nconnection: close")],
    "a key with a line feed": [keyed(b"a"), keyed(b"b\nx: y")],
    "a key with an octet beyond ASCII": [keyed(b"a"), keyed(b"\xe9")],
    "two keys": [keyed(b"a", b"v", b"idempotency-key: b"), keyed(b"c", b"v", b"idempotency-key: b")],
    "a length with a sign": [FIRST, FIRST.replace(b"content-length: ", b"content-length: +")],
    "a length that is a list": [FIRST, FIRST.replace(b"\r\n\r\n", b", 1\r\n\r\n")],
    "a longer length": [FIRST, FIRST.replace(b"\r\n\r\n", b"0" * 16 + b"\r\n\r\n")],
    "two lengths": [FIRST, FIRST.replace(b"content-length: ", b"content-length: 1\r\ncontent-length: ")],
    "another caller": [keyed(b"a"), keyed(b"b").replace(b"Bearer ", b"Bearer x")],
    "another path": [keyed(b"a"), keyed(b"b").replace(b"/v1/commands", b"/v1/queries")],
    "another method": [keyed(b"a"), keyed(b"b").replace(b"POST", b"GET")],
    "in two writes": [keyed(b"a"), (keyed(b"b")[:150], keyed(b"b")[150:]), keyed(b"c")],
    "two at once": [keyed(b"a"), keyed(b"b") + keyed(b"c"), keyed(b"d")],
    "a chunked body behind a key": [
        keyed(b"a"),
        re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", keyed(b"b")).replace(
            b'{"command"', b'2\r\n{}\r\n0\r\n\r\n{"command"'
        ),
    ],
}
# What one connection sends, write by write; the answers to each write are awaited before the next one.
SENT = {
    "commands": [FIRST, put(b"w"), put(b"x")],
    "queries": [GET, GET],
    "a keyed command": [put(b"v", b"idempotency-key: once")] * 3,
    "a key with other commands": [put(b"v", b"idempotency-key: once"), put(b"w", b"idempotency-key: once")],
    "no body": [request(b"GET", b"/healthz")] * 3,
    "a HEAD": [request(b"HEAD", b"/healthz")] * 3,
    "a query string": [request(b"GET", b"/v1/audit/events?limit=%32")] * 2,
    "an unknown path": [request(b"GET", b"/nothing%2e")] * 2,
    "a wrong method": [request(b"GET", b"/v1/commands")] * 2,
    "a refused role": [request(b"POST", b"/v1/queries", b"{}", role=AccessRole.WRITE)] * 2,
    "not JSON": [request(b"POST", b"/v1/commands", b"{]"), request(b"POST", b"/v1/commands", b"{}")],
    "two at once": [FIRST, FIRST + put(b"w"), put(b"x")],
    "in two writes": [FIRST, (FIRST[:50], FIRST[50:]), (FIRST[:-3], FIRST[-3:]), put(b"w")],
    "chunked": [
        request(
            b"POST", b"/v1/commands", b"", b"content-type: application/json", b"transfer-encoding: chunked"
        )
        + b"2\r\n{}\r\n0\r\n\r\n"
    ]
    * 3,
    "with leave": [put(b"v", b"expect: 100-continue")] * 2,
    "other heads between": [FIRST, GET, FIRST, FIRST, GET, GET],
    "a head that goes on": [FIRST, FIRST[:-9] + b"\r\n" + FIRST],
    "the last one": [FIRST, put(b"v", b"connection: close")],
}


class Rereading(RequestReader):
    """Never finds a head again."""

    def next_piece_untrusted(self):
        piece = super().next_piece_untrusted()
        return piece and msgspec.structs.replace(piece, repeated=0)


def answers(writes):
    """Return what a fresh node executes, and its answers, without what no two runs have in common."""
    service = FakeService()
    with served(service) as port, connection(port) as tls:
        tls.settimeout(10)
        got = b""
        for number, write in enumerate(writes):
            parts = write if isinstance(write, tuple) else (write,)
            for part in parts:
                tls.sendall(part)
            got += awaited(tls, b"".join(parts), last=number == len(writes) - 1)
    return service.executed, OF_THE_RUN.sub(b"", got)


def awaited(tls, sent, *, last):
    """Read as many answers as requests were sent, or all if the connection ends."""
    wanted = sum(sent.count(start) for start in (b"POST /", b"GET /", b"HEAD /"))
    got = b""
    while got.count(b"HTTP/1.1 ") - got.count(b" 100 ") < wanted or not complete(got, sent):
        chunk = tls.recv(65536)
        if not chunk:
            assert last, got
            return got
        got += chunk
    return got


def complete(got, sent):
    last = got[got.rindex(b"HTTP/1.1 ") :]
    head, end, body = last.partition(b"\r\n\r\n")
    if not end or b" 100 " in head:
        return False
    return sent.startswith(b"HEAD") or len(body) >= int(re.search(rb"content-length: (\d+)", head)[1])


@pytest.fixture
def begun(monkeypatch):
    """Return the pieces that are begun without the parser."""
    pieces = []
    begin_again = protocol.ApiProtocol._begin_again
    monkeypatch.setattr(
        protocol.ApiProtocol,
        "_begin_again",
        lambda self, piece: pieces.append(piece) or begin_again(self, piece),
    )
    return pieces


def require_the_same_without(writes, begun, monkeypatch):
    """Require that a node that parses every head answers and executes the same."""
    quick = answers(writes)
    taken = len(begun)
    monkeypatch.setattr(protocol, "RequestReader", Rereading)

    assert answers(writes) == quick
    assert len(begun) == taken


@pytest.mark.parametrize("writes", SENT.values(), ids=SENT.keys())
def test_a_repeated_head_is_answered_as_if_it_were_parsed(writes, begun, monkeypatch):
    require_the_same_without(writes, begun, monkeypatch)
    whole = [write for write in writes if not isinstance(write, tuple)]
    again = (
        len(whole) > 1 and writes[0] == writes[1] and b"chunked" not in writes[0] and b"100-" not in writes[0]
    )
    assert begun or not again


@pytest.mark.parametrize("writes", OF_ONE_FORM.values(), ids=OF_ONE_FORM.keys())
def test_a_head_with_other_values_is_answered_as_if_it_were_parsed(writes, begun, monkeypatch):
    require_the_same_without(writes, begun, monkeypatch)
    assert len(begun) == len(writes) - 1


@pytest.mark.parametrize("writes", OF_OTHER_FORMS.values(), ids=OF_OTHER_FORMS.keys())
def test_a_head_that_differs_by_more_than_a_value_is_parsed(writes, begun, monkeypatch):
    require_the_same_without(writes, begun, monkeypatch)
    assert writes[1] not in [piece.data for piece in begun]


def test_a_longer_value_does_not_make_a_head_longer_than_the_limit():
    first, longer = keyed(b"a"), keyed(b"b" * 100)
    reader = RequestReader(longer.index(b"\r\n\r\n") + 3)
    reader.receive_data(first)
    assert reader.next_piece_untrusted().data == first
    reader.receive_data(longer)

    with pytest.raises(BadRequestError) as refused:
        reader.next_piece_untrusted()
    assert refused.value.code == "head-too-large"
