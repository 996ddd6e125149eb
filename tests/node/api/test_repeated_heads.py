"""A head that comes again on its connection is not parsed again, and no client sees that in the answers."""

import re

import msgspec
import pytest

from node.api import protocol
from node.api.requests import RequestReader
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
    """Return the answers of a fresh node, without what no two runs have in common."""
    with served(FakeService()) as port, connection(port) as tls:
        tls.settimeout(10)
        got = b""
        for number, write in enumerate(writes):
            parts = write if isinstance(write, tuple) else (write,)
            for part in parts:
                tls.sendall(part)
            got += awaited(tls, b"".join(parts), last=number == len(writes) - 1)
    return OF_THE_RUN.sub(b"", got)


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


@pytest.mark.parametrize("writes", SENT.values(), ids=SENT.keys())
def test_a_repeated_head_is_answered_as_if_it_were_parsed(writes, monkeypatch):
    begun = []
    begin_again = protocol.ApiProtocol._begin_again
    monkeypatch.setattr(
        protocol.ApiProtocol,
        "_begin_again",
        lambda self, piece: begun.append(piece) or begin_again(self, piece),
    )
    quick = answers(writes)
    taken = len(begun)
    monkeypatch.setattr(protocol, "RequestReader", Rereading)

    assert answers(writes) == quick
    assert len(begun) == taken
    whole = [write for write in writes if not isinstance(write, tuple)]
    again = (
        len(whole) > 1 and writes[0] == writes[1] and b"chunked" not in writes[0] and b"100-" not in writes[0]
    )
    assert taken or not again
