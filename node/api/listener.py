"""From TCP to TLS: accepts connections, and bounds how many of them shake hands at a time.

A client that can reach the port can open connections and send nothing. TLS carries no answer before its
handshake is over, so the server closes excess connections without an answer. Such a client has not sent a
request yet and may try again.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from attestation.background import Background
from node.api.limits import ApiLimits
from node.places import Places, share_of_address

logger = logging.getLogger(__name__)

# Connections accepted in one turn of the loop, so that a flood of them leaves time for other work.
_ACCEPTED_PER_TURN: Final = 16
# Pause when the process is out of files or memory: some of what is open may be closed by then.
_EXHAUSTED_PAUSE_S: Final = 0.1
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TlsListener:
    """The part of ``asyncio.Server`` that uvicorn uses.

    Args:
        listening: a bound socket; the listener owns it from now on.
        protocol: makes the protocol of one connection, which receives the connection once TLS is established.
        established: how many connections have finished the handshake.
        tls: returns the server's context for the next handshake.
        limits: of the API.
        places: of the handshakes.
        background: runs the handshakes.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        established: Callable[[], int],
        *,
        tls: Callable[[], ssl.SSLContext],
        limits: ApiLimits,
        places: Places[asyncio.Task[None]],
        background: Background,
    ) -> None:
        self._socket = listening
        self._protocol = protocol
        self._established = established
        self._tls = tls
        self._limits = limits
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._ending: list[asyncio.Task[None]] = []
        # Each with its socket: a handshake that has not begun does not own it yet.
        self._handshakes: dict[asyncio.Task[None], socket.socket | None] = {}
        self._places = places

    def start(self, backlog: int) -> None:
        """Listen. Raises: OSError."""
        self._socket.listen(backlog)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening, and end the handshakes in progress."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._ending = list(self._handshakes)
        for handshake in self._ending:
            self._end(handshake)

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_PER_TURN):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno not in _PASSING:
                    continue  # of this one connection (accept(2) lists them): it is gone already
                logger.warning("cannot accept connections now: %s", exc.strerror)
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_EXHAUSTED_PAUSE_S, self._resume)
                return
            self._take(connection, address[0])

    def _resume(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _take(self, connection: socket.socket, ip: str) -> None:
        limits = self._limits
        # A few connections over the limit still receive a refusal (``ApiProtocol``); the others are closed.
        if self._established() >= limits.connections_max + limits.handshakes_max:
            connection.close()
            return
        connection.setblocking(False)
        handshake = self._background.once("api-handshake", self._shake_hands(connection))
        self._handshakes[handshake] = connection
        handshake.add_done_callback(self._forget)
        # An honest handshake takes milliseconds, so the oldest one is most likely idle.
        goes = self._places.enter(handshake, share_of_address(ip), known=False)
        if goes is not None:
            self._end(goes)

    def _forget(self, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)
        self._places.leave(handshake)

    def _end(self, handshake: asyncio.Task[None]) -> None:
        not_begun = self._handshakes.pop(handshake)
        handshake.cancel()
        if not_begun is not None:
            not_begun.close()

    async def _shake_hands(self, connection: socket.socket) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._handshakes[this] = None
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._tls(),
                ssl_handshake_timeout=self._limits.tls_handshake_timeout_s,
                ssl_shutdown_timeout=self._limits.tls_shutdown_timeout_s,
            )
        except OSError as exc:  # ssl.SSLError is one
            logger.debug("no TLS handshake: %s", exc)
