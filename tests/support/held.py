"""What somebody who has the network does: a client has sent its request, and it arrives later."""

import socket
import ssl
from types import TracebackType
from typing import Self


class HeldRequest:
    """Connects, and holds the client's last handshake message and its first request back until ``deliver``.

    Args:
        address: host and port of a node's API.
        request: a whole HTTP request.
    """

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._tcp = socket.create_connection(address, timeout=10)
        while not self._shook_hands():
            self._tcp.sendall(self._outgoing.read())
            self._incoming.write(self._tcp.recv(65536))
        self._tls.write(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tcp.close()

    def _shook_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def deliver(self) -> bytes:
        """Let it arrive; return the beginning of the answer."""
        self._tcp.sendall(self._outgoing.read())
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._incoming.write(self._tcp.recv(65536))
