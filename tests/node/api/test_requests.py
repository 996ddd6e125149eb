"""One strict reading of every head: what follows a head is its body, or is never parsed."""

import contextlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node.api import server
from node.api.limits import CHUNKS_MAX, FIELDS_MAX, ApiLimits
from node.api.protocol import ApiProtocol
from node.api.requests import BadRequestError, RequestHead, RequestReader, read_head_untrusted
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served
from tests.node.api.raw import PUT, connection, problem_in, read_all

BODY = json.dumps(PUT).encode()
HIDDEN = (
    b"POST /v1/commands HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
    % (TOKENS[AccessRole.WRITE].encode(), len(BODY), BODY)
)
LENGTH = b"content-length: %d\r\n" % len(HIDDEN)


def get(fields=b"", *, line=b"GET /healthz HTTP/1.1", host=b"host: a\r\n"):
    return line + b"\r\n" + host + fields + b"\r\n"


# Heads that name the length of the bytes behind them, and that some parser or other reads otherwise.
AMBIGUOUS = {
    "upgrade": get(LENGTH + b"connection: upgrade\r\nupgrade: websocket\r\n"),
    "upgrade-to-anything": get(LENGTH + b"Connection: keep-alive, Upgrade\r\nUPGRADE: x\r\n"),
    "upgrade-alone": get(LENGTH + b"upgrade: h2c\r\n"),
    "upgrade-empty": get(LENGTH + b"connection: upgrade\r\nupgrade:\r\n"),
    "connect": get(LENGTH, line=b"CONNECT a:443 HTTP/1.1"),
    "connect-to-a-path": get(LENGTH, line=b"CONNECT /healthz HTTP/1.1"),
    "http2-preface": get(LENGTH, line=b"PRI * HTTP/2.0"),
    "http-2.0": get(LENGTH, line=b"GET /healthz HTTP/2.0"),
    "http-1.2": get(LENGTH, line=b"GET /healthz HTTP/1.2"),
    "http-0.9": get(LENGTH, line=b"GET /healthz HTTP/0.9"),
    "http-without-a-version": get(LENGTH, line=b"GET /healthz"),
    "lower-case-http": get(LENGTH, line=b"GET /healthz http/1.1"),
    "rtsp": get(LENGTH, line=b"DESCRIBE /healthz RTSP/1.0"),
    "rtsp-get": get(LENGTH, line=b"GET /healthz RTSP/1.0"),
    "ice": get(LENGTH, line=b"SOURCE /healthz ICE/1.0"),
    "absolute-form": get(LENGTH, line=b"GET https://b/healthz HTTP/1.1"),
    "authority-form": get(LENGTH, line=b"GET a:443 HTTP/1.1"),
    "asterisk-form": get(LENGTH, line=b"OPTIONS * HTTP/1.1"),
    "fragment": get(LENGTH, line=b"GET /healthz#x HTTP/1.1"),
    "half-an-escape": get(LENGTH, line=b"GET /healthz?%4 HTTP/1.1"),
    "two-spaces": get(LENGTH, line=b"GET  /healthz HTTP/1.1"),
    "tab-in-the-line": get(LENGTH, line=b"GET\t/healthz HTTP/1.1"),
    "empty-line-first": b"\r\n" + get(LENGTH),
    "no-host": get(LENGTH, host=b""),
    "two-hosts": get(b"host: b\r\n" + LENGTH),
    "the-same-host-twice": get(b"Host: a\r\n" + LENGTH),
    "host-list": get(LENGTH, host=b"host: a, b\r\n"),
    "host-with-a-path": get(LENGTH, host=b"host: a/b\r\n"),
    "two-lengths": get(LENGTH + b"content-length: 0\r\n"),
    "the-same-length-twice": get(LENGTH + LENGTH),
    "length-list": get(b"content-length: %d, %d\r\n" % (len(HIDDEN), len(HIDDEN))),
    "signed-length": get(b"content-length: +%d\r\n" % len(HIDDEN)),
    "negative-length": get(b"content-length: -1\r\n"),
    "hexadecimal-length": get(b"content-length: 0x%x\r\n" % len(HIDDEN)),
    "empty-length": get(b"content-length:\r\n"),
    "length-and-chunked": get(LENGTH + b"transfer-encoding: chunked\r\n"),
    "chunked-and-length": get(b"transfer-encoding: chunked\r\n" + LENGTH),
    "chunked-twice": get(b"transfer-encoding: chunked, chunked\r\n"),
    "two-codings": get(b"transfer-encoding: gzip, chunked\r\n"),
    "another-coding": get(b"transfer-encoding: identity\r\n" + LENGTH),
    "chunked-with-a-parameter": get(b"transfer-encoding: chunked;a=b\r\n"),
    "two-coding-fields": get(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
    "quoted-coding": get(b'transfer-encoding: "chunked"\r\n'),
    "coding-with-a-vertical-tab": get(b"transfer-encoding: \x0bchunked\r\n" + LENGTH),
    "chunked-in-http-1.0": get(b"transfer-encoding: chunked\r\n", line=b"GET /healthz HTTP/1.0"),
    "two-content-types": get(b"content-type: text/plain\r\ncontent-type: application/json\r\n" + LENGTH),
    "folded-field": get(b"x: a\r\n b\r\n" + LENGTH),
    "folded-length": get(b"content-length:\r\n %d\r\n" % len(HIDDEN)),
    "space-before-the-colon": get(b"content-length : %d\r\n" % len(HIDDEN)),
    "space-before-a-field": get(b" content-length: %d\r\n" % len(HIDDEN)),
    "field-without-a-name": get(b": x\r\n" + LENGTH),
    "field-without-a-colon": get(b"nonsense\r\n" + LENGTH),
    "bare-line-feeds": get(LENGTH).replace(b"\r\n", b"\n"),
    "one-bare-line-feed": get(b"x: a\n" + LENGTH),
    "bare-carriage-return": get(b"x: a\rb: c\r\n" + LENGTH),
    "nul-in-a-value": get(b"x: a\x00b\r\n" + LENGTH),
    "nul-in-a-name": get(b"x\x00: a\r\n" + LENGTH),
    "expect-something-else": get(b"expect: 200-ok\r\n" + LENGTH),
    "chunk-extension": get(b"transfer-encoding: chunked\r\n") + b"1;x=y\r\na\r\n0\r\n\r\n",
    "chunk-without-a-size": get(b"transfer-encoding: chunked\r\n") + b"\r\n0\r\n\r\n",
    "chunk-size-with-a-space": get(b"transfer-encoding: chunked\r\n") + b"1 \r\na\r\n0\r\n\r\n",
    "chunk-size-in-0x": get(b"transfer-encoding: chunked\r\n") + b"0x1\r\na\r\n0\r\n\r\n",
    "huge-chunk": get(b"transfer-encoding: chunked\r\n") + b"fffffffffffffff1\r\n",
    "chunk-longer-than-it-says": get(b"transfer-encoding: chunked\r\n") + b"1\r\nab\r\n0\r\n\r\n",
    "chunk-ended-by-a-line-feed": get(b"transfer-encoding: chunked\r\n") + b"1\na\n0\n\n",
    "trailer-fields": get(b"transfer-encoding: chunked\r\n") + b"0\r\nhost: b\r\n\r\n",
}


@pytest.fixture(scope="module")
def node():
    service = FakeService()
    with served(service) as port:
        yield service, port


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_a_head_that_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_parsed(kind, node):
    service, port = node
    with connection(port) as tls:
        tls.sendall(AMBIGUOUS[kind] + HIDDEN)

        assert problem_in(read_all(tls)) == (400, "http-invalid")
    assert service.executed == []


# Heads of requests that are taken, with the bytes of another request as their body or behind their end.
CLEAR = {
    "get-with-a-body": get(LENGTH) + HIDDEN,
    "get-with-a-chunked-body": get(b"transfer-encoding: chunked\r\n")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    "head-with-a-body": get(LENGTH, line=b"HEAD /healthz HTTP/1.1") + HIDDEN,
    "put-to-nothing": get(LENGTH, line=b"PUT /nothing HTTP/1.1") + HIDDEN,
    "trace": get(LENGTH, line=b"TRACE /healthz HTTP/1.1") + HIDDEN,
    "unknown-fields": get(LENGTH + b"x-http-method-override: POST\r\nx-length: 0\r\nx:\r\n") + HIDDEN,
    "behind-a-last-request": get(b"connection: close\r\n") + HIDDEN,
    "behind-a-last-request-in-a-list": get(b"connection: x, Close\r\n") + HIDDEN,
    "behind-two-connection-fields": get(b"connection: close\r\nconnection: keep-alive\r\n") + HIDDEN,
    "behind-http-1.0": get(line=b"GET /healthz HTTP/1.0", host=b"") + HIDDEN,
    "behind-http-1.0-kept-alive": get(b"connection: keep-alive\r\n", line=b"GET /healthz HTTP/1.0") + HIDDEN,
    "body-of-http-1.0": get(LENGTH, line=b"POST /healthz HTTP/1.0") + HIDDEN,
}


@pytest.mark.parametrize("kind", CLEAR)
def test_the_bytes_after_a_head_are_its_body_or_are_never_parsed(kind, node):
    service, port = node
    with connection(port) as tls:
        tls.sendall(CLEAR[kind])
        first = tls.recv(65536)
        if b"\r\nconnection: close\r\n" not in first:
            tls.sendall(get(b"connection: close\r\n"))
        rest = read_all(tls)

    assert first.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 400" not in first + rest
    assert service.executed == []


@pytest.mark.parametrize("kind", ["upgrade", "connect-to-a-path", "connect"])
def test_a_command_in_such_a_body_would_be_executed_if_heads_were_not_read_first(kind, monkeypatch):
    """What a proxy takes for the body of a public GET. llhttp ends those messages at their heads."""

    class Unread(ApiProtocol):
        def data_received(self, data):
            self._may_begin = True
            HttpToolsProtocol.data_received(self, data)
            self._may_begin = True
            if HIDDEN in data:  # the socket gives the parser the rest
                HttpToolsProtocol.data_received(self, data[data.index(HIDDEN) :])

        def send_400_response(self, msg):
            pass

    monkeypatch.setattr(server, "ApiProtocol", Unread)
    service = FakeService()
    limits = ApiLimits(keep_alive_s=0.5, shutdown_timeout_s=1)
    target = AMBIGUOUS[kind].replace(b"CONNECT a:443", b"CONNECT /")
    with served(service, limits=limits) as port, connection(port) as tls:
        tls.sendall(target + HIDDEN)
        read_all(tls)

    assert len(service.executed) == 1


def test_a_parser_that_ends_a_message_elsewhere_ends_the_connection(monkeypatch):
    """The second line of defence: the head reader overlooks something that the parser knows."""

    def blind(data):
        return RequestHead(len(HIDDEN), chunked=False, last=False)

    monkeypatch.setattr("node.api.requests.read_head_untrusted", blind)
    for kind in ("upgrade", "connect-to-a-path", "two-lengths"):
        service = FakeService()
        with served(service) as port, connection(port) as tls:
            tls.sendall(AMBIGUOUS[kind] + HIDDEN)

            assert b"HTTP/1.1 200" not in read_all(tls)
        assert service.executed == []


def test_a_head_has_at_most_its_limit_to_the_byte_also_in_one_write():
    """Heads of 60 kB were taken, because what a chunk held together was not counted."""
    limits = ApiLimits(head_bytes_max=4096, shutdown_timeout_s=1)
    room = 4096 - len(get(b"x: \r\n"))
    with served(FakeService(), limits=limits) as port:
        with connection(port) as tls:
            tls.sendall(get(b"x: " + b"a" * room + b"\r\n"))
            assert tls.recv(65536).startswith(b"HTTP/1.1 200 ")
        for size in (room + 1, 60_000):
            with connection(port) as tls:
                tls.sendall(get(b"x: " + b"a" * size + b"\r\n"))
                assert problem_in(read_all(tls)) == (431, "head-too-large")


def test_the_number_of_fields_in_a_head_is_bounded():
    fields = b"a:\r\n" * FIELDS_MAX  # and the Host field
    with pytest.raises(BadRequestError) as caught:
        read_head_untrusted(get(fields))

    assert caught.value.code == "head-too-large"
    assert read_head_untrusted(get(fields[4:])) == RequestHead(0, chunked=False, last=False)


def test_a_body_of_one_byte_chunks_ends_before_it_costs():
    fields = (
        b"transfer-encoding: chunked\r\ncontent-type: application/json\r\nauthorization: Bearer %s\r\n"
        % TOKENS[AccessRole.WRITE].encode()
    )
    with served(FakeService()) as port, connection(port) as tls:
        tls.sendall(get(fields, line=b"POST /v1/commands HTTP/1.1"))
        tls.sendall(b"1\r\na\r\n" * (CHUNKS_MAX + 1))

        assert problem_in(read_all(tls)) == (413, "body-too-large")


HEADS = [
    get(),
    get(b"content-length: 5\r\n") + b"abcde",
    get(b"Transfer-Encoding: Chunked\r\n") + b"3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\n",
    get(b"connection: close\r\n") + b"never looked at",
]


def read_in(parts):
    reader = RequestReader(4096)
    pieces, requests = [], 0
    for part in parts:
        reader.receive_data(part)
        while (piece := reader.next_piece_untrusted()) is not None:
            pieces.append(piece.data)
            requests += piece.head is not None
            assert piece.data
            pieces.append(b"|" if piece.ends else b"")
    return b"".join(pieces), requests


@given(st.lists(st.sampled_from(HEADS[:3]), max_size=4), st.lists(st.integers(0, 400)), st.booleans())
def test_requests_are_cut_the_same_however_they_arrive(requests, cuts, closed):
    sent = b"".join([*requests, HEADS[3]] if closed else requests)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    parts = [sent[a:b] for a, b in pairwise(places)]

    expected = b"".join(request + b"|" for request in requests)
    if closed:
        expected += get(b"connection: close\r\n") + b"|"
    assert read_in(parts) == (expected, len(requests) + closed)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_is_refused_or_incomplete_and_never_parsed(data, step):
    with contextlib.suppress(BadRequestError):
        read_in([data[start : start + step] for start in range(0, len(data), step)])


@given(st.sampled_from(HEADS[:3]), st.integers(0, 60), st.integers(0, 255))
def test_a_changed_byte_never_makes_two_requests_of_one(head, place, byte):
    changed = bytearray(head)
    changed[place % len(head)] = byte
    try:
        _, requests = read_in([bytes(changed)])
    except BadRequestError:
        return
    assert requests <= 1
