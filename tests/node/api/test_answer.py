"""Answers leave whole, in one write, and nothing in them can become a second one."""

import asyncio
from types import SimpleNamespace

import pytest

from node.api.answer import WholeAnswer

DATE = [(b"date", b"Sat, 31 Jan 2026 12:00:00 GMT")]


class Wire:
    """What uvicorn has of one request."""

    def __init__(self, *, method="GET", keep_alive=True):
        self.scope = {"method": method}
        self.keep_alive = keep_alive
        self.disconnected = self.response_started = self.response_complete = False
        self.waiting_for_100_continue = True
        self.message_event = asyncio.Event()
        self.flow = SimpleNamespace(write_paused=False)
        self.writes = []
        self.log = []
        self.transport = SimpleNamespace(write=self.writes.append, close=lambda: self.log.append("closed"))
        self.on_response = lambda: self.log.append("done")


def answer(wire, *, status=200, headers=(), body=b"{}", length=None):
    fields = [(b"content-length", b"%d" % (len(body) if length is None else length)), *headers]

    async def send():
        whole = WholeAnswer(wire, DATE)
        await whole({"type": "http.response.start", "status": status, "headers": fields})
        assert wire.writes == []
        await whole({"type": "http.response.body", "body": body})

    asyncio.run(send())


def test_head_and_body_are_one_write():
    wire = Wire()
    answer(wire, headers=[(b"x-a", b"b")])

    assert wire.writes == [
        b"HTTP/1.1 200 OK\r\ndate: Sat, 31 Jan 2026 12:00:00 GMT\r\ncontent-length: 2\r\nx-a: b\r\n\r\n{}"
    ]
    assert wire.log == ["done"]
    assert wire.response_started
    assert wire.response_complete
    assert wire.message_event.is_set()
    assert not wire.waiting_for_100_continue


def test_an_answer_to_head_has_no_body():
    wire = Wire(method="HEAD")
    answer(wire)

    assert wire.writes[0].endswith(b"content-length: 2\r\n\r\n")


@pytest.mark.parametrize(
    ("keep_alive", "headers"),
    [(False, []), (True, [(b"connection", b"close")]), (False, [(b"connection", b"close")])],
)
def test_the_last_answer_announces_the_close_once_and_closes(keep_alive, headers):
    wire = Wire(keep_alive=keep_alive)
    answer(wire, headers=headers)

    assert wire.writes[0].count(b"connection: close\r\n") == 1
    assert wire.log == ["closed", "done"]


def test_nothing_is_written_to_a_client_that_is_gone():
    wire = Wire()
    wire.disconnected = True
    answer(wire)

    assert wire.writes == []
    assert not wire.response_started


def test_a_slow_reader_is_waited_for():
    wire = Wire()
    wire.flow = SimpleNamespace(write_paused=True, drain=lambda: asyncio.sleep(0, wire.log.append("drained")))
    answer(wire)

    assert wire.log == ["drained", "done"]


@pytest.mark.parametrize(
    "field",
    [(b"x-a", b"b\r\nset-cookie: c"), (b"x-a", b"b\nc"), (b"x-a", b"b\rc"), (b"x\r\n\r\nbody", b"")],
)
def test_a_line_break_in_a_header_field_never_leaves(field):
    wire = Wire()
    with pytest.raises(AssertionError, match="line break"):
        answer(wire, headers=[field])

    assert wire.writes == []


def test_an_answer_that_misstates_its_length_never_leaves():
    wire = Wire()
    with pytest.raises(AssertionError, match="declares its length"):
        answer(wire, length=7)

    assert wire.writes == []
