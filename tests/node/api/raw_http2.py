"""HTTP/2 over TLS to a server on loopback, driven by the other implementation (h2) step by step."""

import json
import socket
import ssl
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events

from node.client.channel import client_tls_context
from node.http2.frames import PAYLOAD_BYTES_MAX, FrameCutter
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS
from tests.node.api.raw import PEM
from tests.node.http2.wire import raw


def h2_context():
    context = client_tls_context(PEM)
    context.set_alpn_protocols(["h2"])
    return context


def head(method, path, *more, role=None):
    fields = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "localhost")]
    if role is not None:
        fields.append(("authorization", f"Bearer {TOKENS[role]}"))
    return [*fields, *more]


COMMAND = head("POST", "/v1/commands", ("content-type", "application/json"), role=AccessRole.WRITE)


class Http2:
    """One connection. ``events`` are all that came; ``reset`` and ``goaway`` what ended a stream or all."""

    def __init__(self, tls):
        self.tls = tls
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        )
        self.h2.initiate_connection()
        self.events = []
        self.closed = False
        self._frames = FrameCutter()
        self.flush()

    def flush(self):
        self.tls.sendall(self.h2.data_to_send())

    def send(self, data):
        self.tls.sendall(data)

    def ask(self, fields, body=None, *, ends=True):
        """Send a request, and return its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, fields, end_stream=body is None and ends)
        for start in range(0, len(body or b""), PAYLOAD_BYTES_MAX):
            part = body[start : start + PAYLOAD_BYTES_MAX]
            self.h2.send_data(stream_id, part, end_stream=ends and start + len(part) == len(body))
        self.flush()
        return stream_id

    def read(self):
        """Read what is there, or wait for it."""
        try:
            data = self.tls.recv(65536)
        except (ssl.SSLError, ConnectionError):
            data = b""
        if not data:
            self.closed = True
            return
        self._frames.receive_data(data)
        while (frame := self._frames.next_frame_untrusted()) is not None:
            self._receive(raw(frame.kind, frame.flags, frame.stream_id, frame.payload))
        if not self.closed:
            self.flush()

    def _receive(self, frame):
        for event in self.h2.receive_data(frame):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def until(self, condition):
        while not self.closed and not condition():
            self.read()

    def of(self, kind, stream_id=None):
        return [
            event
            for event in self.events
            if isinstance(event, kind) and stream_id in {None, getattr(event, "stream_id", None)}
        ]

    def answer(self, stream_id):
        """Wait for an answer; return its status and body, or None if there is none."""
        ends = (h2.events.StreamEnded, h2.events.StreamReset)
        self.until(lambda: self.of(ends, stream_id))
        heads = self.of(h2.events.ResponseReceived, stream_id)
        if not heads:
            return None
        body = b"".join(event.data for event in self.of(h2.events.DataReceived, stream_id))
        return int(dict(heads[0].headers)[b":status"]), body

    def problem(self, stream_id):
        status, body = self.answer(stream_id)
        return status, json.loads(body)["code"]

    def end(self):
        """Read until the server closes; return why, as its GOAWAY says."""
        self.until(lambda: False)
        said = [event.additional_data for event in self.of(h2.events.ConnectionTerminated)]
        return said[0].decode() if said and said[0] else None


@contextmanager
def http2(port, *, context=None, address="127.0.0.1"):
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0)) as plain,
        (context or h2_context()).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        yield Http2(tls)
