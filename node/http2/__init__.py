"""HTTP/2 for a server: bytes in, events out (RFC 9113). No I/O, no clock of its own, nothing of the API."""
