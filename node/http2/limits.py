"""Limits on all that a connection may send, and on what waits to be sent to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Limits:
    """Sizes in bytes.

    Attributes:
        head_bytes_max: of a header block, compressed; and of its fields, with 32 for each (RFC 9113 10.5.1).
        fields_max: fields of one request, pseudo-header fields not counted.
        body_frames_max: DATA frames of one request. Each costs more than its bytes.
        discard_bytes_max: of a body that nobody wants, for a client that sends first and reads later.
        streams_max: requests whose handler has not ended or whose answer is not sent, reset or not.
        stream_window: of a request's body that no handler has read yet.
        connection_window: of all bodies, from their arrival to their reading by this package.
        continuations_max: frames that continue one header block.
        settings_max: entries of one SETTINGS frame.
        ration: what a connection may cost beyond its requests, in parts (``node.http2.ration``).
        ration_per_s: how many of these parts come back in a second.
        control_bytes_max: acknowledgements and resets that wait to be sent, because the client does not read.
    """

    head_bytes_max: int
    fields_max: int
    body_frames_max: int
    discard_bytes_max: int
    streams_max: int = 100
    stream_window: int = 256 * 1024
    connection_window: int = 1024 * 1024
    continuations_max: int = 16
    settings_max: int = 32
    ration: int = 1000
    ration_per_s: int = 100
    control_bytes_max: int = 64 * 1024
